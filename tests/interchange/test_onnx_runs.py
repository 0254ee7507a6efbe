"""A run as an ONNX file and a file as a run: through the command line, as a user does it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mspipeline.config import TrainJob
from mspipeline.interchange.onnx import write_onnx
from mspipeline.models.catalogue import build
from mspipeline.network.weights import initial_weights
from mspipeline.runs import RunPaths, read_record
from tests.command_line import run

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(trained_run: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "net.onnx"
    ended = run("export", trained_run.run_folder, "--onnx", file, "--threads", 2, "--json")
    assert ended.code == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert (said["opset"], said["inputs"], said["outputs"]) == (
        18,
        {"image": [1, 32, 32]},
        {"probability": [1, 32, 32]},
    )
    assert said["backend"] == "tensorflow"
    assert said["difference"] < 1e-5
    return file


@pytest.fixture(scope="module")
def imported(exported: Path, small_shards: Path) -> Path:
    folder = exported.parent / "imported"
    ended = run("import", exported, "--shards", small_shards, "-o", folder, "--json")
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.stdout)["difference"] == 0
    return folder


def test_a_run_that_went_through_a_file_is_the_same_graph(trained_run: TrainJob, imported: Path) -> None:
    ours, theirs = (read_record(RunPaths(folder)) for folder in (trained_run.run_folder, imported))
    assert theirs.graph_hash == ours.graph_hash
    assert (theirs.model, theirs.backend, theirs.status) == ("imported", "onnxruntime", "complete")
    assert theirs.recipe == ours.recipe
    assert list(theirs.provenance["imported_from"]) == [str(imported.parent / "net.onnx")]


def test_its_scores_and_maps_are_those_of_the_run(
    trained_run: TrainJob, imported: Path, small_shards: Path, small_dataset: Path, tmp_path: Path
) -> None:
    trained = shutil.copytree(trained_run.run_folder, tmp_path / "trained")
    rows, maps = [], []
    for number, folder in enumerate((trained, imported)):
        ended = run("evaluate", folder, small_shards, "--threads", 2, "--json")
        assert ended.code == 0, ended.stderr
        rows.append(json.loads(ended.stdout))
        derived = tmp_path / f"derived{number}"
        assert run("predict", folder, small_dataset, "-o", derived, "--threads", 2).code == 0
        files = sorted(derived.rglob("*probseg.nii.gz"))
        maps.append([np.asarray(nib.nifti1.load(file).dataobj) for file in files])
    for one, other in zip(*rows, strict=True):
        counts = ("case", "true_positive", "false_positive", "false_negative", "true_negative")
        assert [one[key] for key in counts] == [other[key] for key in counts]
    assert len(maps[0]) == 4
    for one, other in zip(*maps, strict=True):
        assert np.ptp(one) > 0
        assert np.allclose(one, other, atol=1e-6)


def test_an_imported_run_is_exported_as_any_other(imported: Path, exported: Path, tmp_path: Path) -> None:
    ended = run("export", imported, "--onnx", tmp_path / "again.onnx", "--json")
    assert ended.code == 0, ended.stderr
    one, other = onnx.load(exported), onnx.load(tmp_path / "again.onnx")
    assert list(one.graph.initializer) == list(other.graph.initializer)
    assert list(one.graph.node) == list(other.graph.node)


def test_what_cannot_be_imported_or_exported_is_one_line(
    exported: Path, imported: Path, trained_run: TrainJob, small_shards: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    taken = run("import", exported, "--shards", small_shards, "-o", imported)
    assert (taken.code, taken.error) == (65, f"{imported}: holds a run already; import into another folder")
    wrong = run("import", exported, "-o", new)  # the built-in recipe's size
    assert wrong.code == 65
    assert "takes images of (32, 32, 1), but the recipe makes (256, 256, 1)" in wrong.error
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(exported.read_bytes()[:-500])
    truncated = run("import", cut, "--shards", small_shards, "-o", new)
    assert truncated.code == 65
    assert truncated.error.startswith(f"{cut}: truncated or not an ONNX file")
    logits = build("deeplabv3", (32, 32, 1), {"base_width": 4})
    write_onnx(cut, logits, initial_weights(logits, 0))
    refused = run("import", cut, "--shards", small_shards, "-o", new)
    assert refused.code == 65
    assert "expected probabilities of a voxel, (32, 32, 1) of a sigmoid or (32, 32, 2) of a softmax" in refused.error
    assert run("import", exported, "--shape", "1x?", "-o", new).code == 2
    assert not new.exists()
    assert run("export", trained_run.run_folder, "--onnx", new, "--checkpoint", "worst").code == 2
    assert run("export", trained_run.run_folder, "--onnx", new, "--stage", 1).code == 2
    assert run("export", tmp_path, "--onnx", new).code == 65
    assert not new.exists()


def test_an_imported_graph_that_was_changed_is_refused(imported: Path, small_shards: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(imported, tmp_path / "changed")
    text = (folder / "graph.json").read_text(encoding="utf-8")
    (folder / "graph.json").write_text(text.replace("0.9", "0.8"), encoding="utf-8")
    assert "holds weights of graph" in run("export", folder, "--onnx", tmp_path / "x").error
    (folder / "graph.json").write_text("{", encoding="utf-8")
    assert "not a readable graph" in run("export", folder, "--onnx", tmp_path / "x").error
