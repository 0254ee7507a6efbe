"""One case to its shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest

from mspipeline.errors import ShapeError, ShardError, StorageError
from mspipeline.recipes.slices2d.case import PreparedCase
from mspipeline.recipes.slices2d.prepare import apply
from mspipeline.recipes.slices2d.schema import SliceSchema
from mspipeline.recipes.slices2d.shard import read_slice_entry, write_slices
from mspipeline.shards.writer import Source, read_stored
from mspipeline.volume import ScanGrid, Volume
from tests.command_line import small_disk

SHAPE = (12, 10, 20)
GRID = ScanGrid(SHAPE, np.eye(4), 1, 2)
SOURCES = {"FLAIR": Source("sub-01/anat/sub-01_FLAIR.nii.gz", "ab"), "lesions": Source("m.nii.gz", "cd")}


def prepare(*, lesions: bool = True, **keys: Any) -> PreparedCase:
    """A block of brain with a lesion of 2 x 1 x 3 voxels in it, on a grid that is not interpolated."""
    scan = np.zeros(SHAPE, np.float32)
    scan[2:10, 2:8, 3:17] = np.random.default_rng(0).normal(100, 20, (8, 6, 14)).astype(np.float32)
    mask = np.zeros(SHAPE, bool)
    mask[4:6, 5, 8:11] = True
    recipe = SliceSchema(**{"size": SHAPE, **keys})
    return apply(recipe, {"FLAIR": Volume(scan, GRID)}, mask=Volume(mask, GRID) if lesions else None)


@pytest.mark.parametrize("compression", ["none", "lzf", "gzip"])
def test_a_shard_holds_the_case_as_it_was_prepared(tmp_path: Path, compression: Literal["none", "lzf", "gzip"]) -> None:
    prepared = prepare(compression=compression)

    entry = write_slices(tmp_path, "sub-01", prepared, SOURCES)

    content = (tmp_path / entry.file).read_bytes()
    assert (entry.sha256, entry.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert (entry.case, entry.file, entry.slices, entry.image_shape) == ("sub-01", "cases/sub-01.h5", 20, (12, 10, 1))
    assert (entry.lesion_voxels, entry.lesion_slices) == (6, 3)
    with h5py.File(tmp_path / entry.file) as file:
        assert (file["image"].dtype, file["image"].chunks) == (np.float32, (1, 12, 10, 1))
        assert (file["mask"].dtype, file["slice_index"].dtype, file["scan_mask"].dtype) == ("u1", "i4", "u1")
        assert np.array_equal(file["image"][...], prepared.images)
        assert prepared.mask is not None
        assert np.array_equal(file["mask"][...], prepared.mask)
        assert file["slice_index"][...].tolist() == list(range(20))
        assert prepared.truth is not None
        assert np.array_equal(file["scan_mask"][...], prepared.truth)
        assert set(file.attrs) >= {"schema_version", "case", "recipe_hash", "brain_source"}
        assert file.attrs["volume_shape"].tolist() == list(SHAPE)
        assert ScanGrid.from_json(json.loads(file.attrs["scan_grid"])).same_as(GRID)
        assert json.loads(file.attrs["sources"])["FLAIR"] == {
            "file": "sub-01/anat/sub-01_FLAIR.nii.gz",
            "sha256": "ab",
        }
        assert json.loads(file.attrs["intensity"])["FLAIR"]["mean"] == pytest.approx(100, abs=3)


def test_equal_cases_give_equal_bytes_whatever_the_threads(tmp_path: Path) -> None:
    prepared = prepare(size=(24, 24, 40))
    one = write_slices(tmp_path / "a", "sub-01", prepared, SOURCES, threads=1)
    two = write_slices(tmp_path / "b", "sub-01", prepared, SOURCES, threads=3)
    assert (tmp_path / "a/cases/sub-01.h5").read_bytes() == (tmp_path / "b/cases/sub-01.h5").read_bytes()
    assert one == two


def test_slices_of_zeros_take_no_room_and_read_as_zeros(tmp_path: Path) -> None:
    write_slices(tmp_path, "sub-01", prepare(), SOURCES)
    with h5py.File(tmp_path / "cases/sub-01.h5") as file:
        assert file["image"].id.get_num_chunks() == 14
        assert file["mask"].id.get_num_chunks() == 3
        assert not file["image"][0].any()


def test_an_empty_lesion_mask_is_a_healthy_case(tmp_path: Path) -> None:
    prepared = prepare()
    assert prepared.truth is not None
    prepared.truth[...] = False
    entry = write_slices(tmp_path, "sub-01", prepared, SOURCES)
    assert (entry.lesion_voxels, entry.lesion_slices) == (0, 0)


def test_a_case_without_a_lesion_mask_is_no_shard(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="sub-01: has no mask"):
        write_slices(tmp_path, "sub-01", prepare(lesions=False), SOURCES)
    assert list(tmp_path.rglob("*.h5*")) == []


def test_a_shard_says_what_it_was_made_from(tmp_path: Path) -> None:
    prepared = prepare()
    entry = write_slices(tmp_path, "sub-01", prepared, SOURCES)
    stored = read_stored(tmp_path, "sub-01")
    assert (read_slice_entry(stored), stored.recipe_hash, stored.sources) == (entry, prepared.recipe.hash, SOURCES)


def test_a_flipped_byte_and_a_torn_file_are_noticed(tmp_path: Path) -> None:
    write_slices(tmp_path, "sub-01", prepare(), SOURCES)
    path = tmp_path / "cases/sub-01.h5"
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        chunk = file["image"].id.get_chunk_info(5)
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"sub-01\.h5: a damaged shard .*delete it and run `mspipeline prepare`"):
        read_stored(tmp_path, "sub-01")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ShardError, match="a damaged shard"):
        read_stored(tmp_path, "sub-01")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    with small_disk(tmp_path / "full", 64) as folder:
        yield folder


def test_a_full_disk_is_one_line_and_leaves_nothing(full_disk: Path) -> None:
    with pytest.raises(StorageError, match=r"sub-01\.h5: cannot be written \(No space left on device\)"):
        write_slices(full_disk, "sub-01", prepare(size=(64, 64, 64), compression="none"), SOURCES)
    assert list(full_disk.rglob("*.h5*")) == []


def test_a_full_disk_leaves_the_older_shard_as_it_was(full_disk: Path) -> None:
    small = write_slices(full_disk, "sub-01", prepare(), SOURCES)
    with pytest.raises(StorageError):
        write_slices(full_disk, "sub-01", prepare(size=(64, 64, 64), compression="none"), SOURCES)
    assert read_slice_entry(read_stored(full_disk, "sub-01")) == small
