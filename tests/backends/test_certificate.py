from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mspipeline.backends.certification.certificate import (
    Certificate,
    Network,
    Side,
    covering,
    measured,
    network_of,
    read_certificate,
    side_of,
    versions_of,
    write_certificate,
)
from mspipeline.backends.certification.certify import Agreement
from mspipeline.config import ModelSettings
from mspipeline.errors import DataError
from mspipeline.models.catalogue import build

NETWORK = Network(model="unet2d", arguments={"base_width": 4}, image_shape=(48, 48, 1), graph_hash="a1" * 32)
VERSIONS = {"numpy": "2.4.6", "keras": "3.15.1", "python": "3.11.7", "adapters": "0123abcd"}
TENSORFLOW = Side(backend="tensorflow", versions=VERSIONS, device="CPU", hardware="EPYC")
JAX = Side(backend="jax", versions=VERSIONS, device="CPU", hardware="EPYC")


def signed(folder: Path, **changes: Any) -> Path:
    agreement = Agreement("forward", "conv1", 1e-7, 3e-5, None, 86)
    certificate = Certificate(
        verdict="certified",
        said="",
        network=NETWORK,
        reference=TENSORFLOW,
        other=JAX,
        measured=(measured(agreement),),
        batch_size=2,
        seed=0,
        loss="bce",
        learning_rate=0.01,
        commit=None,
        created_utc="2026-03-01T08:00:00+00:00",
    )
    return write_certificate(folder, certificate.model_copy(update=changes))[0]


def test_a_certificate_comes_back_and_counts_for_both_sides(tmp_path: Path) -> None:
    path = signed(tmp_path)
    assert path.name.startswith("unet2d-tensorflow-jax-")
    certificate = read_certificate(path)
    assert certificate.worst == "forward 1.0e-07 at conv1"
    for sides in ((TENSORFLOW,), (JAX,), (TENSORFLOW, JAX), (JAX, TENSORFLOW)):
        found = covering(tmp_path, NETWORK, *sides)
        assert (found.certificates, found.same_graph, found.problem) == ((certificate,), True, "")


def test_a_certificate_from_before_there_were_optimizers_is_of_adam_alone(tmp_path: Path) -> None:
    path = signed(tmp_path)
    document = json.loads(path.read_text())
    assert document.pop("optimizers") == ["adam"]  # as files had it then, with this very SHA-256
    path.write_text(json.dumps(document))
    assert read_certificate(path).optimizers == ("adam",)
    assert covering(tmp_path, NETWORK, JAX, optimizers=["adam"]).certificates
    found = covering(tmp_path, NETWORK, JAX, optimizers=["adam", "sgd"])
    assert found.certificates == ()
    assert f"{path.name}: has no step of sgd; certify with --optimizers sgd" in found.problem


def test_certificates_of_other_optimizers_stand_beside_it(tmp_path: Path) -> None:
    paths = {signed(tmp_path), signed(tmp_path, optimizers=("sgd",)), signed(tmp_path, optimizers=("adam", "sgd"))}
    assert len(paths) == 3
    assert len(covering(tmp_path, NETWORK, JAX, optimizers=["sgd"]).certificates) == 2


def test_an_edit_is_noticed_and_the_file_does_not_count(tmp_path: Path) -> None:
    path = signed(tmp_path, verdict="differs", said="forward differs from conv1 on")
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "verdict": "certified"}))
    with pytest.raises(DataError, match=r"was changed after it was signed off; certify again"):
        read_certificate(path)
    found = covering(tmp_path, NETWORK, JAX)
    assert found.certificates == ()
    assert "was changed after it was signed off" in found.problem


@pytest.mark.parametrize(
    ("here", "said"),
    [
        ({"versions": {**VERSIONS, "keras": "3.16.0"}}, r"made with keras 3.15.1 \(here: 3.16.0\)"),
        ({"versions": {**VERSIONS, "adapters": "ffff"}}, r"made with adapters 0123abcd \(here: ffff\)"),
        ({"hardware": "Xeon"}, r"made with hardware EPYC \(here: Xeon\)"),
        ({"backend": "torch"}, "no certificate of unet2d with these arguments on torch"),
    ],
)
def test_other_versions_or_hardware_do_not_count_and_are_named(tmp_path: Path, here: dict[str, Any], said: str) -> None:
    signed(tmp_path)
    found = covering(tmp_path, NETWORK, JAX.model_copy(update=here))
    assert found.certificates == ()
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found.problem)


def test_hardware_that_is_not_known_yet_is_not_compared(tmp_path: Path) -> None:
    signed(tmp_path)
    assert covering(tmp_path, NETWORK, JAX.model_copy(update={"hardware": ""})).certificates


def test_a_difference_is_no_certificate_and_says_where(tmp_path: Path) -> None:
    signed(tmp_path, verdict="differs", said="forward differs from conv1 (Conv) on")
    assert "forward differs from conv1 (Conv) on" in covering(tmp_path, NETWORK, JAX).problem


def test_another_size_counts_as_such_and_less_than_the_very_graph(tmp_path: Path) -> None:
    large = NETWORK.model_copy(update={"image_shape": (256, 256, 1), "graph_hash": "b2" * 32})
    path = signed(tmp_path)
    found = covering(tmp_path, large, JAX)
    assert ([each.network.image_shape for each in found.certificates], found.same_graph) == ([(48, 48, 1)], False)
    signed(tmp_path, network=large)
    found = covering(tmp_path, large, JAX)
    assert ([each.network.image_shape for each in found.certificates], found.same_graph) == ([(256, 256, 1)], True)
    assert path.exists()


@pytest.mark.parametrize("change", [{"arguments": {"base_width": 8}}, {"image_shape": (48, 48, 2)}, {"model": "vnet"}])
def test_another_network_does_not_count(tmp_path: Path, change: dict[str, Any]) -> None:
    signed(tmp_path)
    assert not covering(tmp_path, NETWORK.model_copy(update={**change, "graph_hash": "c3" * 32}), JAX).certificates


def test_certifying_again_replaces_the_file_and_other_versions_get_their_own(tmp_path: Path) -> None:
    assert signed(tmp_path) == signed(tmp_path, created_utc="2026-04-01T08:00:00+00:00")
    signed(tmp_path, other=JAX.model_copy(update={"hardware": "Xeon"}))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_default_that_is_given_is_the_same_network() -> None:
    graph = build("unet2d", (32, 32, 1), {})
    given = network_of(ModelSettings(name="unet2d", arguments={"base_width": 64}), graph)
    assert given == network_of(ModelSettings(name="unet2d"), graph)


def test_a_side_names_the_gpu_or_the_processor() -> None:
    versions = versions_of("tensorflow")
    assert {"numpy", "python", "adapters"} <= versions.keys()
    assert side_of("tensorflow", versions, "GPU: Tesla T4").hardware == "Tesla T4"
    assert side_of("tensorflow", versions, "CPU").hardware not in ("", "CPU")
    assert side_of("tensorflow", versions, None).hardware == ""
