"""One case of patches to its shard."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pytest

from mspipeline.errors import ShapeError, ShardError
from mspipeline.recipes.patches3d.shard import read_patch_entry, write_patch_shard
from mspipeline.shards.writer import read_stored
from mspipeline.volume import ScanGrid
from tests.recipes.patches3d.patch_cases import GRID, LESIONS, SHAPE, SOURCES, prepared


@pytest.mark.parametrize("compression", ["none", "lzf", "gzip"])
def test_a_shard_holds_the_volume_once_and_the_voxels_to_cut_around(
    tmp_path: Path, compression: Literal["none", "lzf", "gzip"]
) -> None:
    case = prepared(compression=compression)

    entry = write_patch_shard(tmp_path, "sub-00", case, SOURCES)

    content = (tmp_path / "cases/sub-00.h5").read_bytes()
    assert (entry.file, entry.sha256) == ("cases/sub-00.h5", hashlib.sha256(content).hexdigest())
    assert (entry.image_shape, entry.volume_shape, entry.bytes) == ((5, 5, 5, 2), SHAPE, len(content))
    assert (entry.candidates, entry.lesion_voxels) == (44, 4)
    assert entry.volume_bytes == case.image.nbytes
    with h5py.File(tmp_path / entry.file) as file:
        assert (file["image"].dtype, file["image"].chunks, file["image"].fletcher32) == (np.float32, (1, 8, 7, 2), True)
        assert np.array_equal(file["image"][...], case.image)
        assert case.lesions is not None
        assert np.array_equal(file["scan_mask"][...], case.lesions)
        assert sorted(map(tuple, file["lesions"][...].tolist())) == sorted(LESIONS)
        candidates, labels = file["candidates"][...], file["candidate_labels"][...]
        assert np.array_equal(candidates, np.argwhere(case.image[..., 0] > 0.5))
        assert sorted(map(tuple, candidates[labels == 1].tolist())) == sorted(LESIONS)
        assert (candidates.dtype, labels.dtype, file["lesions"].dtype) == (np.int32, np.uint8, np.int32)
        assert file.attrs["kind"] == "patches3d"
        assert file.attrs["patch_size"].tolist() == [5, 5, 5]
        assert ScanGrid.from_json(json.loads(file.attrs["scan_grid"])).same_as(GRID)
        assert json.loads(file.attrs["intensity"])["T1w"] == {"mean": 20, "std": 3}
        assert file.attrs["brain_source"] == "mask"


def test_a_case_without_lesions_is_stored_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        entry = write_patch_shard(tmp_path, "sub-00", prepared(lesions=False), SOURCES)
    assert (entry.candidates, entry.lesion_voxels) == (40, 0)
    assert "case without lesions case=sub-00: training leaves it out" in caplog.text
    assert read_patch_entry(read_stored(tmp_path, "sub-00")) == entry


def test_a_case_without_candidates_is_stored_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = prepared(candidates_above=50.0)
    with caplog.at_level(logging.WARNING):
        entry = write_patch_shard(tmp_path, "sub-00", case, SOURCES)
    assert (entry.candidates, entry.lesion_voxels) == (0, 4)
    assert "case without candidates case=sub-00" in caplog.text
    assert read_patch_entry(read_stored(tmp_path, "sub-00")) == entry


def test_a_case_without_a_lesion_mask_is_no_shard(tmp_path: Path) -> None:
    case = dataclasses.replace(prepared(), lesions=None)
    with pytest.raises(ShapeError, match="sub-00: has no lesion mask"):
        write_patch_shard(tmp_path, "sub-00", case, SOURCES)
    assert list(tmp_path.rglob("*.h5*")) == []


def test_a_shard_says_what_it_was_made_from(tmp_path: Path) -> None:
    case = prepared()
    entry = write_patch_shard(tmp_path, "sub-00", case, SOURCES)
    stored = read_stored(tmp_path, "sub-00")
    assert (read_patch_entry(stored), stored.recipe_hash, stored.sources) == (entry, case.recipe.hash, SOURCES)


@pytest.mark.parametrize("dataset", ["image", "candidates", "lesions", "scan_mask"])
def test_a_flipped_byte_is_noticed_wherever_it_is(tmp_path: Path, dataset: str) -> None:
    write_patch_shard(tmp_path, "sub-00", prepared(), SOURCES)
    path = tmp_path / "cases/sub-00.h5"
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        chunk = file[dataset].id.get_chunk_info(0)
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"sub-00\.h5: a damaged shard .*delete it and run `mspipeline prepare`"):
        read_stored(tmp_path, "sub-00")
