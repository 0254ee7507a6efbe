from pathlib import Path

import numpy as np
import pytest

from mspipeline.backends.base import State
from mspipeline.errors import RunFolderError
from mspipeline.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

CHECKPOINT = Checkpoint(
    "g" * 64,
    "c" * 64,
    {("conv", "kernel"): np.arange(6, dtype=np.float32).reshape(2, 3), ("conv", "bias"): np.ones(3, np.float32)},
    {"optimizer/adam/iteration": np.array(7), "random/drop": np.array([1, 2], np.uint32)},
    {"epoch": 3, "rows": [{"loss": 0.25, "dice": float("nan")}]},
)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "x.h5", CHECKPOINT)
    back = read_checkpoint(tmp_path / "x.h5")
    assert (back.graph_hash, back.config_hash) == (CHECKPOINT.graph_hash, CHECKPOINT.config_hash)
    assert back.weights.keys() == CHECKPOINT.weights.keys()
    assert all(np.array_equal(back.weights[key], CHECKPOINT.weights[key]) for key in back.weights)
    assert back.state.keys() == CHECKPOINT.state.keys()
    assert all(back.state[key].dtype == CHECKPOINT.state[key].dtype for key in back.state)
    assert back.progress["epoch"] == 3
    assert np.isnan(back.progress["rows"][0]["dice"])


def test_a_long_history_fits(tmp_path: Path) -> None:
    rows = [{"epoch": epoch, "loss": 0.123456789} for epoch in range(20_000)]
    write_checkpoint(tmp_path / "x.h5", Checkpoint("g", "c", {}, {}, {"rows": rows}))
    assert read_checkpoint(tmp_path / "x.h5").progress["rows"] == rows


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.h5"
    write_checkpoint(path, CHECKPOINT)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunFolderError, match=r"x\.h5: not a readable checkpoint"):
        read_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"x\.h5: no such checkpoint"):
        read_checkpoint(tmp_path / "x.h5")


def test_keys_of_an_older_spelling_are_read_as_todays(tmp_path: Path) -> None:
    """Files that were written before the optimizer was spelled as the ecosystem does."""
    state: State = {"optimiser/adam/iteration": np.array(7), "random/draws": np.array(3)}
    write_checkpoint(tmp_path / "last.h5", Checkpoint("a", "b", {}, state))
    back = read_checkpoint(tmp_path / "last.h5").state
    assert back == {"optimizer/adam/iteration": 7, "random/draws": 3}
