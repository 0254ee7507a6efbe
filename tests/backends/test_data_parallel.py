"""Two processes with a share of a batch each compute what one does with all of it: on a CPU, on every engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspipeline.backends.dropout_masks import DropoutMasks
from mspipeline.backends.eddl.backend import EddlBackend
from mspipeline.backends.process_group import PeersLost, ProcessGroup, addresses, free_port
from mspipeline.backends.registry import availability
from mspipeline.models.catalogue import build
from tests.backends.joint_steps import COUNTS, LOSSES, RULES

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "joint_steps.py"
Found = dict[str, Any]


@pytest.fixture(scope="module", params=["torch", "tensorflow", pytest.param("jax", marks=pytest.mark.long)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What one process alone found, then what each of two found."""
    if problem := availability(request.param).problem:
        pytest.skip(problem)
    folder = tmp_path_factory.mktemp(request.param)
    address = f"127.0.0.1:{free_port()}"
    given = [("0", "1", ""), ("0", "2", address), ("1", "2", address)]
    started = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), request.param, *each, str(folder / f"{number}.npz")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        for number, each in enumerate(given)
    ]
    for process in started:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()[-3000:]
    return [dict(np.load(folder / f"{number}.npz")) for number in range(len(given))]


CASES = [(loss, count) for loss in LOSSES for count in COUNTS]


@pytest.mark.parametrize(("loss", "count"), CASES)
def test_gradients_are_those_of_the_joint_batch(found: list[Found], loss: str, count: int) -> None:
    alone, *group = found
    names = [name for name in alone if name.startswith(f"{loss} {count} moment")]
    largest = max(np.abs(alone[name]).max() for name in names)
    assert len(names) == 5
    assert largest > 0
    for each in group:
        assert max(np.abs(each[name] - alone[name]).max() for name in names) < 3e-6 * largest


@pytest.mark.parametrize(("loss", "count"), CASES)
def test_the_loss_and_the_running_statistics_are_the_joint_batchs(found: list[Found], loss: str, count: int) -> None:
    alone, *group = found
    key = f"{loss} {count} "
    for each in group:
        for name in ("loss", "evaluated", "weight norm/mean", "weight norm/variance"):
            np.testing.assert_allclose(each[key + name], alone[key + name], rtol=3e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("rule", RULES)
def test_steps_of_other_optimizers_are_those_of_the_joint_batch(found: list[Found], rule: str) -> None:
    alone, *group = found
    names = [name for name in alone if name.startswith(f"{rule} rule ")]
    assert len(names) == 7
    for each in group:
        for name in names:
            np.testing.assert_allclose(each[name], alone[name], rtol=1e-4, atol=2e-6, err_msg=name)


def test_replicas_stay_equal_to_the_last_bit(found: list[Found]) -> None:
    _, first, second = found
    weights = [name for name in first if re.search(" (weight|moment|rule) ", name)]
    assert weights
    assert all(np.array_equal(first[name], second[name]) for name in weights)


def test_each_process_gives_the_outputs_of_its_share(found: list[Found]) -> None:
    alone, *group = found
    for rank, each in enumerate(group):
        assert each["dice 4 cases"].tolist() == [2 * rank, 2 * rank + 1]
        np.testing.assert_allclose(
            each["dice 4 output"], alone["dice 4 output"][2 * rank : 2 * rank + 2], rtol=1e-4, atol=1e-6
        )
        assert each["dice 3 cases"].tolist() == [0, 1, 2]  # cannot be shared out evenly: everyone has all


def test_values_of_all_processes_are_gathered_exactly(found: list[Found]) -> None:
    assert found[0]["gathered"].tolist() == [[0.5, 1e300]]
    assert all(each["gathered"].tolist() == [[0.5, 1e300], [1.5, 1e300]] for each in found[1:])


def test_pyeddl_takes_no_group() -> None:
    assert not EddlBackend.supports_data_parallel


def test_processes_learn_each_others_addresses(tmp_path: Path) -> None:
    group = ProcessGroup(1, 2, f"127.0.0.1:{free_port()}")
    code = "import sys; from mspipeline.backends.process_group import *; "
    code += f"print(addresses(ProcessGroup(0, 2, {group.address!r})))"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    here = addresses(group, wait_s=60)
    said, _ = other.communicate(timeout=60)
    assert said.strip() == str(here)
    assert len({*here}) == 2
    assert all(address.startswith("127.0.0.1:") for address in here)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_left_alone_says_so_in_one_line(rank: int) -> None:
    with pytest.raises(PeersLost, match=f"process {rank} of 2: another process has ended or cannot be reached"):
        addresses(ProcessGroup(rank, 2, f"127.0.0.1:{free_port()}"), wait_s=0.3)


def test_the_masks_of_dropout_are_those_of_one_process() -> None:
    graph = build("unet2d", (16, 16, 1), {"base_width": 2})
    alone = DropoutMasks(graph, 7, ProcessGroup())
    shares = [DropoutMasks(graph, 7, ProcessGroup(rank, 2, "unused")) for rank in range(2)]
    for step in range(2):
        for each in (alone, *shares):
            each.draws = step
        expected = alone.of_step(6)
        assert [*expected] == ["enc4_drop", "bottleneck_drop"]
        assert 0.3 < np.mean(expected["enc4_drop"] == 0) < 0.7
        for node, masks in expected.items():
            assert np.array_equal(np.concatenate([share.of_step(3)[node] for share in shares]), masks)
            assert all(np.array_equal(share.of_step(6, replicated=True)[node], masks) for share in shares)
