"""The manifest of a shards folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspipeline.datasets.split import Split
from mspipeline.errors import ShardError
from mspipeline.files import read_json, write_json
from mspipeline.labels import LESIONS, LabelSet
from mspipeline.recipes.patches3d.shard import PatchEntry
from mspipeline.recipes.slices2d.shard import SliceEntry
from mspipeline.shards.manifest import (
    Manifest,
    ShardEntry,
    SkippedCase,
    entries_as,
    load_manifest,
    missing_labels,
    verify_shards,
    write_manifest,
)

CONTENT = {"sub-01": b"one", "sub-02": b"two", "sub-03": b"three"}


def entry(case: str) -> SliceEntry:
    content = CONTENT[case]
    return SliceEntry(
        case=case,
        file=f"cases/{case}.h5",
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        slices=4,
        image_shape=(8, 9, 1),
        lesion_voxels=5,
        lesion_slices=2,
    )


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    split = Split(seed=0, train=("sub-03", "sub-01"), validation=("sub-02",))
    manifest = Manifest(
        dataset_name="three",
        dataset_hash="d",
        recipe={"kind": "slices2d"},
        recipe_hash="r",
        channels=("FLAIR",),
        split=split,
        split_hash=split.hash,
        cases=tuple(entry(case) for case in CONTENT),
        skipped=(SkippedCase(case="sub-04", reason="no FLAIR"),),
    )
    (tmp_path / "cases").mkdir()
    for case, content in CONTENT.items():
        (tmp_path / f"cases/{case}.h5").write_bytes(content)
    write_manifest(tmp_path, manifest)
    return tmp_path


def test_what_is_written_is_read(shards: Path) -> None:
    manifest = load_manifest(shards)
    assert [entry.case for entry in manifest.subset("train")] == ["sub-03", "sub-01"]
    assert [entry.case for entry in manifest.subset("validation")] == ["sub-02"]
    assert manifest.subset("test") == []
    assert manifest.skipped == (SkippedCase(case="sub-04", reason="no FLAIR"),)


def test_its_json_has_the_keys_that_others_read(shards: Path) -> None:
    document = read_json(shards / "manifest.json", what="", remedy="")
    assert set(document) == {
        *("schema_version", "dataset_name", "dataset_hash", "recipe", "recipe_hash", "channels"),
        *("split", "split_hash", "cases", "skipped", "warnings", "others", "resampled", "offsets_mm"),
    }
    assert document["split"] == {"seed": 0, "train": ["sub-03", "sub-01"], "validation": ["sub-02"], "test": []}


def test_entries_of_slices_say_no_kind_as_before_there_were_patches(shards: Path) -> None:
    (first, *_) = read_json(shards / "manifest.json", what="", remedy="")["cases"]
    assert list(first) == [
        *("case", "file", "sha256", "bytes", "counts", "brain", "slices"),
        *("image_shape", "lesion_voxels", "lesion_slices"),
    ]


def test_what_a_recipe_says_of_its_shards_is_kept_and_read_as_its_own(shards: Path) -> None:
    manifest = load_manifest(shards)
    assert {type(entry) for entry in manifest.cases} == {ShardEntry}
    assert entries_as(SliceEntry, manifest.cases) == [entry(case) for case in CONTENT]
    before = (shards / "manifest.json").read_bytes()
    write_manifest(shards, manifest)
    assert (shards / "manifest.json").read_bytes() == before
    assert manifest.model_copy() == manifest


@pytest.fixture
def patch_shards(shards: Path) -> Path:
    """The same folder of volumes to cut patches from."""
    slices = load_manifest(shards)
    entries = tuple(
        PatchEntry(
            **entry.model_dump(include=set(ShardEntry.model_fields)),
            image_shape=(11, 11, 11, 2),
            volume_shape=(20, 30, 40),
            candidates=7,
            lesion_voxels=3,
        )
        for entry in slices.cases
    )
    document = {**dict(slices), "recipe": {"kind": "patches3d"}, "cases": entries}
    write_manifest(shards, Manifest.model_validate(document))
    return shards


def test_a_manifest_of_patches_is_read_as_one(patch_shards: Path) -> None:
    manifest = load_manifest(patch_shards)
    volumes = entries_as(PatchEntry, manifest.subset("train"))
    assert [(entry.case, entry.image_shape) for entry in volumes] == [
        ("sub-03", (11, 11, 11, 2)),
        ("sub-01", (11, 11, 11, 2)),
    ]
    assert volumes[0].volume_bytes == np.empty((20, 30, 40, 2), np.float32).nbytes
    verify_shards(patch_shards, manifest)
    stored = read_json(patch_shards / "manifest.json", what="", remedy="")
    assert {case["kind"] for case in stored["cases"]} == {"patches3d"}


def test_shards_of_another_recipe_are_refused(patch_shards: Path) -> None:
    patches = load_manifest(patch_shards)
    with pytest.raises(ShardError, match=r"shard of case sub-01 in the manifest: .*unknown key 'volume_shape'"):
        entries_as(SliceEntry, patches.cases)
    with pytest.raises(ShardError, match=r"shard of case sub-01 .*volume_shape: field required"):
        entries_as(PatchEntry, [entry("sub-01")])


def test_a_folder_without_a_manifest_is_unfinished(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no such file, expected a shard manifest; .*mspipeline prepare"):
        load_manifest(tmp_path)


def test_a_torn_manifest_and_one_of_another_version_are_refused(shards: Path) -> None:
    path = shards / "manifest.json"
    document = read_json(path, what="", remedy="")
    write_json(path, {**document, "schema_version": 3})
    with pytest.raises(ShardError, match="schema version 3, expected at most 2"):
        load_manifest(shards)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ShardError, match="not a readable shard manifest"):
        load_manifest(shards)


@pytest.mark.parametrize("train", [["sub-01"], ["sub-01", "sub-03", "sub-04"], ["sub-01", "sub-03", "sub-02"]])
def test_a_split_that_does_not_name_each_case_once_is_refused(shards: Path, train: list[str]) -> None:
    path = shards / "manifest.json"
    document = read_json(path, what="", remedy="")
    document["split"]["train"] = train
    write_json(path, document)
    with pytest.raises(ShardError, match="does not name each of its 3 cases once"):
        load_manifest(shards)


def test_whole_shards_are_verified_one_by_one(shards: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    verify_shards(shards, load_manifest(shards), report=lambda *step: seen.append(step))
    assert seen == [("sub-01", 1, 3), ("sub-02", 2, 3), ("sub-03", 3, 3)]


def test_missing_and_changed_shards_are_named_together_with_the_remedy(shards: Path) -> None:
    (shards / "cases/sub-01.h5").unlink()
    (shards / "cases/sub-03.h5").write_bytes(b"threE")
    with pytest.raises(
        ShardError,
        match=r"2 of 3 shards .*sub-01\.h5 is missing, cases/sub-03\.h5 has changed.*run `mspipeline prepare` again",
    ):
        verify_shards(shards, load_manifest(shards))


def test_an_entry_of_patch_shards_that_version_0_1_wrote_is_read() -> None:
    entry = {"case": "sub-00", "file": "cases/sub-00.h5", "sha256": "00", "bytes": 9, "image_shape": [5, 5, 5, 2]}
    voxels = {"volume_shape": [9, 8, 7], "candidates": 44, "lesion_voxels": 4, "patches": 8}
    assert PatchEntry.model_validate({"kind": "patches3d", **entry, **voxels}).candidates == 44


LABELS = LabelSet(("background", "anterior", "posterior"))


def test_a_manifest_of_lesions_says_nothing_of_labels_and_is_of_version_1(shards: Path) -> None:
    document = read_json(shards / "manifest.json", what="manifest", remedy="")
    assert document["schema_version"] == 1
    assert "labels" not in document
    assert not any("label_voxels" in case for case in document["cases"])
    assert load_manifest(shards).label_set == LESIONS
    assert missing_labels(load_manifest(shards)) == []


def test_other_labels_make_version_2_which_older_versions_refuse(shards: Path) -> None:
    counts = {"sub-01": {"anterior": 3, "posterior": 0}, "sub-02": {"anterior": 1, "posterior": 9}, "sub-03": None}
    manifest = load_manifest(shards)
    entries = [each.model_copy(update={"label_voxels": counts[each.case]}) for each in manifest.cases]
    labelled = manifest.model_copy(update={"schema_version": 2, "labels": LABELS.to_json(), "cases": tuple(entries)})
    write_manifest(shards, labelled)
    again = load_manifest(shards)
    assert again == labelled
    assert again.label_set == LABELS
    assert [each.label_voxels for each in entries_as(SliceEntry, again.cases)] == list(counts.values())
    assert missing_labels(again) == ["posterior"]  # sub-02 alone has it, and is not trained on


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 3}, "schema version 3, expected at most 2; read them with the version that made them"),
        ({"schema_version": 2}, "schema version 2 without labels"),
        ({"labels": LABELS.to_json()}, "schema version 1 with labels"),
        ({"schema_version": 2, "labels": {"labels": {"anterior": {"value": 0}}}}, "labels: labels anterior: expected"),
    ],
)
def test_labels_that_do_not_fit_the_version_are_refused(shards: Path, changes: dict[str, Any], words: str) -> None:
    path = shards / "manifest.json"
    write_json(path, {**read_json(path, what="manifest", remedy=""), **changes})
    with pytest.raises(ShardError) as error:
        load_manifest(shards)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
