"""Two real backends certified, each in a process of its own, and the same with one of them wrong in one node."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mspipeline.backends.certification.certificate import NotCertified, Outcome, covering, read_certificate
from mspipeline.backends.registry import availability
from mspipeline.config import ModelSettings
from mspipeline.errors import BackendError, ShapeError, UsageError
from mspipeline.jobs.work.certification import Command, Request, certify, job_command, judge

WRONG = Path(__file__).parents[1] / "backends" / "wrong_backend.py"
CASCADE = ModelSettings(name="cascade3d", arguments={"base_width": 2})


@pytest.fixture(scope="module")
def pair() -> tuple[str, str]:
    """The two backends that start fastest of those that are installed."""
    here = [name for name in ("pyeddl", "tensorflow", "torch", "jax") if not availability(name).problem]
    if len(here) < 2:
        pytest.skip(f"needs two backends; installed: {', '.join(here) or 'none'}")
    return here[1], here[0]


def wrong_in(reference: str, node: str, change: str) -> Command:
    """Starts every backend but the reference with one argument of a node changed."""

    def command(backend: str, config: Path) -> list[str]:
        program = [sys.executable, "-W", "ignore", str(WRONG), "job", str(config), node, change]
        return job_command(backend, config) if backend == reference else program

    return command


@pytest.mark.slow
def test_two_backends_are_certified_and_sign_it_off(pair: tuple[str, str], tmp_path: Path) -> None:
    reference, other = certify(Request(CASCADE, pair, device="cpu"), tmp_path)
    assert (reference.backend, reference.state) == (pair[0], "reference")
    assert (other.backend, other.state, other.detail) == (pair[1], "certified", "")
    assert other.file is not None
    certificate = read_certificate(other.file)
    assert certificate == other.certificate
    assert [each.quantity for each in certificate.measured] == [
        *("forward", "statistics", "loss", "gradient"),
        *("step_adam", "step_sgd", "step_adadelta"),
    ]
    assert certificate.optimizers == ("adam", "sgd", "adadelta")
    assert all(each.error is not None and 0 <= each.error < each.tolerance for each in certificate.measured)
    assert list(tmp_path.iterdir()) == [other.file]
    assert covering(tmp_path, certificate.network, certificate.reference, certificate.other).same_graph
    judge([reference, other])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("node", "change"), [("bn1", "epsilon=1e-2"), ("conv2", "padding=[[0,2],[1,1],[1,1]]")], ids=["epsilon", "padding"]
)
def test_a_backend_that_is_wrong_in_one_node_differs_from_there_on(
    pair: tuple[str, str], tmp_path: Path, node: str, change: str
) -> None:
    outcomes = certify(Request(CASCADE, pair, device="cpu"), tmp_path, command=wrong_in(pair[0], node, change))
    assert outcomes[1].state == "differs"
    assert outcomes[1].detail.startswith(f"forward differs from {node} (")
    certificate = outcomes[1].certificate
    assert certificate is not None
    assert certificate.verdict == "differs"
    assert not covering(tmp_path, certificate.network, certificate.other).certificates
    with pytest.raises(NotCertified, match=f"not certified: {pair[1]}: forward differs from {node}") as raised:
        judge(outcomes)
    assert raised.value.exit_code == 1


def test_a_process_that_dies_is_told_with_its_code(pair: tuple[str, str], tmp_path: Path) -> None:
    def command(backend: str, config: Path) -> list[str]:
        return [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]

    outcomes = certify(Request(CASCADE, pair, device="cpu"), tmp_path, command=command)
    assert [(each.state, each.exit_code) for each in outcomes] == [("failed", 137)] * 2
    assert "ended with code -9 without a word" in outcomes[0].detail
    with pytest.raises(BackendError) as raised:
        judge(outcomes)
    assert raised.value.exit_code == 137


def test_differs_weighs_more_than_absent_and_absent_is_69() -> None:
    absent = Outcome("torch", "absent", "backend torch needs torch, not installed here; pip install ...")
    with pytest.raises(BackendError, match="torch absent: backend torch needs torch") as raised:
        judge([Outcome("tensorflow", "reference"), absent])
    assert raised.value.exit_code == 69
    with pytest.raises(NotCertified):
        judge([Outcome("jax", "differs", "forward differs"), absent])


@pytest.mark.parametrize("backends", [(), ("tensorflow",), ("tensorflow", "tensorflow")])
def test_fewer_than_two_backends_are_refused(backends: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--backends needs two or more different ones"):
        certify(Request(CASCADE, backends), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_size_that_the_network_cannot_take_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    request = Request(ModelSettings(name="unet2d"), ("tensorflow", "jax"), (33, 32, 1))
    with pytest.raises(ShapeError, match="unet2d"):
        certify(request, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_backend_that_cannot_realise_the_network_is_refused_before_any_other_computes(tmp_path: Path) -> None:
    """PyEDDL has no dilated convolution on a CPU; that is known without the library, and nothing is left to compare."""

    def command(backend: str, config: Path) -> list[str]:
        raise AssertionError(f"{backend} was started")

    request = Request(ModelSettings(name="double_unet", arguments={"base_width": 16}), ("tensorflow", "pyeddl"))
    (refused,) = certify(request, tmp_path / "new", command=command)
    assert (refused.backend, refused.state) == ("pyeddl", "cannot")
    assert not (tmp_path / "new").exists()
    with pytest.raises(BackendError, match=r"pyeddl cannot: .*convolution") as raised:
        judge([refused])
    assert raised.value.exit_code == 69
