"""The published file's arrays find their places in our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mspipeline.backends.base import Execution
from mspipeline.backends.registry import create
from mspipeline.errors import DataError, ShapeError
from mspipeline.interchange.nicms_weights import read_nicms_weights
from mspipeline.models.catalogue import build
from mspipeline.network.graph import Graph
from tests.nicms_file import Layers, forward, random_layers, write_nicms_file


@pytest.fixture
def graph() -> Graph:
    return build("nicms", (11, 11, 11, 2), {})


@pytest.fixture
def layers() -> Layers:
    return random_layers(seed=3)


def test_the_imported_network_computes_what_the_channels_first_original_does(
    backend_needed: None, graph: Graph, layers: Layers, tmp_path: Path
) -> None:
    backend = create("tensorflow")
    backend.build(graph, Execution(threads=2))
    backend.set_weights(read_nicms_weights(write_nicms_file(tmp_path / "model_1.hdf5", layers), graph))
    patches = np.random.default_rng(0).standard_normal((4, 11, 11, 11, 2)).astype(np.float32)
    found = backend.predict(patches)
    expected = np.array([forward(layers, patch.transpose(3, 0, 1, 2)) for patch in patches])  # (X,Y,Z,C) -> (C,X,Y,Z)
    assert expected.std(axis=0).min() > 1e-3  # the patches matter
    assert np.abs(found - expected).max() < 1e-5


def test_each_array_stands_at_its_place_axis_by_axis(graph: Graph, layers: Layers, tmp_path: Path) -> None:
    weights = read_nicms_weights(write_nicms_file(tmp_path / "model.hdf5", layers), graph)
    assert weights.keys() == graph.weights().keys()
    assert weights["conv1_2_act", "alpha"][7, 2, 10, 31] == layers["prelu_conv1_2"]["alpha"][31, 7, 2, 10]
    assert weights["conv2_1_act", "alpha"][4, 0, 3, 63] == layers["prelu_conv2_1"]["alpha"][63, 4, 0, 3]
    # Row of voxel (x, y, z) and channel c: channels last ((2x + y) 2 + z) 64 + c, channels first c 8 + (2x + y) 2 + z.
    assert weights["d1", "kernel"][(1 * 4 + 0 * 2 + 1) * 64 + 37, 200] == layers["d1"]["kernel"][37 * 8 + 5, 200]
    assert np.array_equal(weights["conv2_2_bn", "variance"], layers["bn_2_2"]["moving_variance"])
    assert np.array_equal(weights["conv2_2_bn", "mean"], layers["bn_2_2"]["moving_mean"])
    assert np.array_equal(weights["logits", "kernel"], layers["out"]["kernel"])


def test_a_file_of_the_second_stage_names_its_groups_otherwise(graph: Graph, layers: Layers, tmp_path: Path) -> None:
    first = read_nicms_weights(write_nicms_file(tmp_path / "model_1.hdf5", layers), graph)
    second = read_nicms_weights(write_nicms_file(tmp_path / "model_2.hdf5", layers, suffix="_1"), graph)
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_a_file_of_three_modalities_says_so(graph: Graph, tmp_path: Path) -> None:
    path = write_nicms_file(tmp_path / "three.hdf5", random_layers(seed=0, channels=3))
    said = r"three\.hdf5: conv1_1/kernel has shape \(3, 3, 3, 3, 32\), expected \(3, 3, 3, 2, 32\): .* on 3 modalities"
    with pytest.raises(ShapeError, match=said):
        read_nicms_weights(path, graph)
    assert read_nicms_weights(path, build("nicms", (11, 11, 11, 3), {}))


def test_an_array_of_another_shape_is_named(graph: Graph, layers: Layers, tmp_path: Path) -> None:
    layers["prelu_conv2_2"]["alpha"] = layers["prelu_conv2_2"]["alpha"][:, :1, :1, :1]
    with pytest.raises(ShapeError, match=r"prelu_conv2_2/alpha has shape \(64, 1, 1, 1\), expected \(64, 5, 5, 5\)"):
        read_nicms_weights(write_nicms_file(tmp_path / "model.hdf5", layers), graph)


def test_a_missing_layer_and_an_added_one_are_named(graph: Graph, layers: Layers, tmp_path: Path) -> None:
    added: Any = {**layers, "d4": {"kernel": np.zeros((64, 32), np.float32)}}
    with pytest.raises(DataError, match="holds d4/kernel as well"):
        read_nicms_weights(write_nicms_file(tmp_path / "added.hdf5", added), graph)
    del layers["bn_1_2"], layers["prelu_d3"]
    with pytest.raises(DataError, match=r"no bn_1_2/beta, bn_1_2/gamma, bn_1_2/moving_mean and 2 more; expected"):
        read_nicms_weights(write_nicms_file(tmp_path / "less.hdf5", layers), graph)


def test_numbers_that_are_not_finite_are_refused(graph: Graph, layers: Layers, tmp_path: Path) -> None:
    layers["d2"]["bias"][5] = np.nan
    with pytest.raises(DataError, match="d2/bias holds NaN or infinity"):
        read_nicms_weights(write_nicms_file(tmp_path / "model.hdf5", layers), graph)


def test_what_is_no_file_of_weights_is_one_line(graph: Graph, layers: Layers, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.hdf5: no such file"):
        read_nicms_weights(tmp_path / "absent.hdf5", graph)
    text, cut, other = tmp_path / "text.hdf5", tmp_path / "cut.hdf5", tmp_path / "other.hdf5"
    text.write_text("version https://git-lfs.github.com/spec/v1")
    whole = write_nicms_file(tmp_path / "whole.hdf5", layers).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    with h5py.File(other, "w") as file:
        file["image"] = np.zeros(3)
    for path, said in (
        (text, "not a readable HDF5 file"),
        (cut, "not a readable HDF5"),
        (other, "not Keras weights"),
    ):
        with pytest.raises(DataError, match=rf"{path.name}: {said}") as caught:
            read_nicms_weights(path, graph)
        assert "\n" not in str(caught.value)
