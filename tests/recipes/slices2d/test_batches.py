"""mspipeline.recipes.slices2d.batches: every slice once, the same for the same seed, and no thread left behind."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from mspipeline.errors import ShardError
from mspipeline.recipes.slices2d.batches import OPEN_FILES, SliceBatch, SliceReader
from mspipeline.recipes.slices2d.prepare import apply
from mspipeline.recipes.slices2d.schema import SliceSchema
from mspipeline.recipes.slices2d.shard import SliceEntry, read_slices, write_slices
from mspipeline.transforms.chain import make_chain
from mspipeline.volume import ScanGrid, Volume

SHAPE = (6, 5, 8)
GRID = ScanGrid(SHAPE, np.diag([2.0, 2.0, 3.0, 1.0]), 1, 1)
RECIPE = SliceSchema(
    modalities=("FLAIR", "T1w"),
    size=SHAPE,
    normalisation="none",
    zero_outside_brain=False,
    brain="nonzero",
    drop_slices_without_brain=True,
)


@dataclass(frozen=True)
class Prepared:
    """A folder of shards whose slices are the scans' own, and the scans."""

    folder: Path
    entries: list[SliceEntry]
    scans: list[npt.NDArray[np.float32]]
    lesions: list[npt.NDArray[np.bool_]]


def prepare(folder: Path, cases: int) -> Prepared:
    """Case k lacks its k % 3 lowest slices; each voxel of all scans has a value of its own."""
    entries, scans, lesions = [], [], []
    for k in range(cases):
        random = np.random.default_rng(k)
        flair = np.arange(1, 1 + np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) + 1000 * k
        flair[:, :, : k % 3] = 0
        mask = (random.random(SHAPE) < 0.1) & (flair > 0)
        prepared = apply(
            RECIPE,
            {"FLAIR": Volume(flair, GRID), "T1w": Volume(-flair, GRID)},
            mask=Volume(mask, GRID),
        )
        entries.append(write_slices(folder, f"sub-{k:02d}", prepared, {}))
        scans.append(flair)
        lesions.append(mask)
    return Prepared(folder, entries, scans, lesions)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("shards"), 5)


@pytest.fixture
def spoilt(shards: Prepared, tmp_path: Path) -> Prepared:
    """A copy that a test may damage."""
    shutil.copytree(shards.folder, tmp_path / "copy")
    return Prepared(tmp_path / "copy", shards.entries, shards.scans, shards.lesions)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not reading_threads()


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "shard-reader"]


def reader_of(prepared: Prepared, *, seed: int = 3, shuffle: bool = True, ahead: int = 2) -> SliceReader:
    return SliceReader(
        prepared.folder, prepared.entries, batch_size=4, seed=seed, shuffle=shuffle, prefetch_batches=ahead
    )


def places(batches: list[SliceBatch]) -> list[tuple[int, int]]:
    return [(int(c), int(s)) for batch in batches for c, s in zip(batch.cases, batch.slices, strict=True)]


def digest(batches: Iterator[SliceBatch]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for array in (batch.images, batch.masks, batch.cases, batch.slices):
            digest.update(array.tobytes())
    return digest.hexdigest()


def test_counts_follow_from_the_entries(shards: Prepared) -> None:
    reader = reader_of(shards)
    assert [entry.slices for entry in shards.entries] == [8, 7, 6, 8, 7]
    assert reader.images == 36
    assert reader.steps == 9
    assert reader.case_ids == ["sub-00", "sub-01", "sub-02", "sub-03", "sub-04"]
    assert SliceReader(shards.folder, shards.entries[:2], batch_size=4, seed=0, shuffle=True).steps == 4


def test_each_slice_comes_once_with_its_own_image_and_mask(shards: Prepared) -> None:
    batches = list(reader_of(shards).epoch(0))
    expected = [(k, s) for k in range(5) for s in range(k % 3, 8)]
    assert sorted(places(batches)) == expected
    for batch in batches:
        assert batch.images.shape == (4, 6, 5, 2)
        assert batch.images.dtype == batch.masks.dtype == np.float32
        assert batch.cases.dtype == batch.slices.dtype == np.int32
        for image, mask, k, s in zip(batch.images, batch.masks, batch.cases, batch.slices, strict=True):
            np.testing.assert_array_equal(image[..., 0], shards.scans[k][:, :, s])
            np.testing.assert_array_equal(image[..., 1], -shards.scans[k][:, :, s])
            np.testing.assert_array_equal(mask, shards.lesions[k][:, :, s, None].astype(np.float32))


def test_the_last_batch_may_be_smaller(shards: Prepared) -> None:
    reader = SliceReader(shards.folder, shards.entries, batch_size=16, seed=0, shuffle=True)
    assert [len(batch.images) for batch in reader.epoch(0)] == [16, 16, 4]


def test_without_shuffling_cases_and_slices_keep_their_order(shards: Prepared) -> None:
    order = places(list(reader_of(shards, shuffle=False).epoch(5)))
    assert order == [(k, s) for k in range(5) for s in range(k % 3, 8)]


def test_the_order_depends_on_seed_and_epoch_only(shards: Prepared) -> None:
    first = reader_of(shards)
    order = places(list(first.epoch(0)))
    assert places(list(first.epoch(1))) != order
    assert places(list(reader_of(shards, seed=4).epoch(0))) != order
    assert places(list(reader_of(shards, ahead=7).epoch(0))) == order
    assert places(list(first.epoch(0))) == order


def test_another_process_reads_the_same_stream_and_may_end_in_mid_epoch(shards: Prepared) -> None:
    program = (
        "import hashlib, json, sys\n"
        "from pathlib import Path\n"
        "from mspipeline.recipes.slices2d.shard import SliceEntry\n"
        "from mspipeline.recipes.slices2d.batches import SliceReader\n"
        "entries = [SliceEntry.model_validate(entry) for entry in json.loads(sys.argv[2])]\n"
        "digest = hashlib.sha256()\n"
        "reader = SliceReader(Path(sys.argv[1]), entries, batch_size=4, seed=3, shuffle=True)\n"
        "for batch in reader.epoch(2):\n"
        "    for array in (batch.images, batch.masks, batch.cases, batch.slices):\n"
        "        digest.update(array.tobytes())\n"
        "print(digest.hexdigest())\n"
        "unfinished = reader.epoch(3)\n"
        "next(unfinished)\n"
    )
    entries = "[" + ",".join(entry.model_dump_json() for entry in shards.entries) + "]"
    done = subprocess.run(
        [sys.executable, "-c", program, str(shards.folder), entries],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == digest(reader_of(shards).epoch(2))


@pytest.mark.parametrize("first_step", [0, 1, 5, 8, 9])
def test_a_resumed_epoch_is_the_tail_of_the_whole(shards: Prepared, first_step: int) -> None:
    reader = reader_of(shards)
    whole, tail = list(reader.epoch(1)), list(reader.epoch(1, first_step=first_step))
    assert len(tail) == 9 - first_step
    assert digest(iter(tail)) == digest(iter(whole[first_step:]))


TRANSFORMS: list[dict[str, Any]] = [{"name": "flip"}, {"name": "gaussian_noise", "probability": 0.5}, {"name": "gamma"}]


def transforming(prepared: Prepared, *, shuffle: bool = True, batch_size: int = 4) -> SliceReader:
    chain = make_chain(TRANSFORMS, prepared.entries[0].image_shape, where="transforms")
    return SliceReader(
        prepared.folder, prepared.entries, batch_size=batch_size, seed=3, shuffle=shuffle, transforms=chain
    )


def test_transforms_draw_by_case_and_slice_whatever_the_order_and_the_batches(shards: Prepared) -> None:
    found = []
    for reader in (transforming(shards), transforming(shards, shuffle=False, batch_size=7)):
        with reader:
            found.append(
                {
                    place: (batch.images[n].tobytes(), batch.masks[n].tobytes())
                    for batch in reader.epoch(2)
                    for n, place in enumerate(places([batch]))
                }
            )
    assert found[0] == found[1]
    with transforming(shards) as reader, reader_of(shards) as plain:
        assert digest(reader.epoch(2, first_step=5)) == digest(iter([*transforming(shards).epoch(2)][5:]))
        other, unchanged = list(reader.epoch(3)), list(plain.epoch(3))
    assert places(other) == places(unchanged)  # the order is that of before
    images, as_read = (np.concatenate([batch.images for batch in batches]) for batches in (other, unchanged))
    same = [np.array_equal(one, two) for one, two in zip(images, as_read, strict=True)]
    assert 0 < sum(same) < len(same) / 2  # a quarter is not flipped, half of that gets noise, and so on
    again = {place: batch.images[n].tobytes() for batch in other for n, place in enumerate(places([batch]))}
    assert sum(again[place] == image for place, (image, _) in found[0].items()) < len(again) / 2


def test_flipped_slices_keep_image_and_mask_together(shards: Prepared) -> None:
    chain = make_chain([{"name": "flip"}], shards.entries[0].image_shape, where="transforms")
    reader = SliceReader(shards.folder, shards.entries, batch_size=4, seed=3, shuffle=True, transforms=chain)
    with reader, reader_of(shards) as plain:
        for changed, batch in zip(reader.epoch(1), plain.epoch(1), strict=True):
            assert np.array_equal(batch.cases, changed.cases)
            for n in range(len(batch.cases)):
                truth = dict(zip(batch.images[n, ..., 0].ravel(), batch.masks[n].ravel(), strict=True))  # all differ
                moved = dict(zip(changed.images[n, ..., 0].ravel(), changed.masks[n].ravel(), strict=True))
                assert truth == moved


@pytest.mark.parametrize("first_step", [-1, 10])
def test_a_step_beyond_the_epoch_is_refused_at_once(shards: Prepared, first_step: int) -> None:
    with pytest.raises(ShardError, match="has 9 steps of 4 images"):
        reader_of(shards).epoch(0, first_step=first_step)


def test_batches_share_no_memory(shards: Prepared) -> None:
    batches = list(reader_of(shards).epoch(0))
    before = [batch.images.copy() for batch in batches[1:]]
    batches[0].images[:] = -7
    for batch, images in zip(batches[1:], before, strict=True):
        assert not np.shares_memory(batch.images, batches[0].images)
        np.testing.assert_array_equal(batch.images, images)


def test_no_cases_give_an_epoch_without_steps(shards: Prepared) -> None:
    reader = SliceReader(shards.folder, [], batch_size=4, seed=0, shuffle=True)
    assert (reader.images, reader.steps, list(reader.epoch(0))) == (0, 0, [])


def held_below(folder: Path) -> list[str]:
    """The files below a folder that this process holds open."""
    held = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile by another thread
            held.append(os.readlink(link))
    return [target for target in held if target.startswith(str(folder))]


def test_more_cases_than_open_files_are_read_whole(tmp_path: Path) -> None:
    many = prepare(tmp_path, OPEN_FILES + 3)
    most_open = 0
    seen = []
    for batch in reader_of(many).epoch(0):
        seen += places([batch])
        most_open = max(most_open, len(held_below(tmp_path)))
    assert sorted(seen) == [(k, s) for k in range(OPEN_FILES + 3) for s in range(k % 3, 8)]
    assert 0 < most_open <= OPEN_FILES


def test_images_of_two_shapes_are_refused(shards: Prepared) -> None:
    other = shards.entries[1].model_copy(update={"image_shape": (6, 5, 1)})
    with pytest.raises(ShardError, match=r"images of sub-01 are \(6, 5, 1\), those of sub-00 \(6, 5, 2\)"):
        SliceReader(shards.folder, [shards.entries[0], other], batch_size=4, seed=0, shuffle=True)


# ---- threads ----


def test_closing_an_epoch_early_ends_its_thread(shards: Prepared) -> None:
    stream = reader_of(shards, ahead=1).epoch(0)
    next(stream)
    assert len(reading_threads()) == 1
    stream.close()
    assert not reading_threads()


def test_dropping_an_epoch_ends_its_thread(shards: Prepared) -> None:
    stream = reader_of(shards, ahead=1).epoch(0)
    next(stream)
    del stream
    gc.collect()
    assert not reading_threads()


def test_an_error_in_the_consumer_ends_the_thread(shards: Prepared) -> None:
    def consume() -> None:
        for _ in reader_of(shards, ahead=1).epoch(0):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    gc.collect()
    assert not reading_threads()


def test_closing_the_reader_ends_its_threads_and_says_so(shards: Prepared) -> None:
    with reader_of(shards, ahead=1) as reader:
        streams = [reader.epoch(0), reader.epoch(1)]
        for stream in streams:
            next(stream)
        assert len(reading_threads()) == 2
    assert not reading_threads()
    for stream in streams:
        with pytest.raises(ShardError, match="closed in mid-epoch"):
            next(stream)
    with pytest.raises(ShardError, match="reader is closed"):
        reader.epoch(2)
    reader.close()


def test_an_epoch_that_was_never_begun_has_no_thread(shards: Prepared) -> None:
    stream = reader_of(shards).epoch(0)
    assert not reading_threads()
    stream.close()


# ---- damage ----


def drain(prepared: Prepared) -> None:
    for _ in reader_of(prepared).epoch(0):
        pass


def spoil_chunk(path: Path, dataset: str) -> None:
    """Flip eight bytes in the middle of the first stored chunk."""
    with h5py.File(path) as file:
        chunk = file[dataset].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    content[middle : middle + 8] = bytes(byte ^ 0xFF for byte in content[middle : middle + 8])
    path.write_bytes(content)


@pytest.mark.parametrize("dataset", ["image", "mask"])
def test_a_damaged_chunk_names_the_case_and_the_remedy(
    spoilt: Prepared, dataset: str, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil_chunk(spoilt.folder / spoilt.entries[2].file, dataset)
    with pytest.raises(ShardError, match=r"case sub-02 is missing or damaged .*run `mspipeline prepare` again") as info:
        drain(spoilt)
    assert isinstance(info.value.__cause__, OSError)
    assert "\n" not in str(info.value)
    assert capfd.readouterr().err == ""


def test_a_truncated_shard_names_the_case(spoilt: Prepared) -> None:
    path = spoilt.folder / spoilt.entries[3].file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ShardError, match="sub-03"):
        drain(spoilt)
    with pytest.raises(ShardError, match=r"sub-03.*run `mspipeline prepare` again"):
        read_slices(spoilt.folder, spoilt.entries[3])


def test_a_deleted_shard_names_the_case(spoilt: Prepared) -> None:
    (spoilt.folder / spoilt.entries[1].file).unlink()
    with pytest.raises(ShardError, match="sub-01"):
        drain(spoilt)
    with pytest.raises(ShardError, match="sub-01"):
        read_slices(spoilt.folder, spoilt.entries[1])


def test_a_shard_of_another_case_is_refused(spoilt: Prepared) -> None:
    shutil.copy(spoilt.folder / spoilt.entries[3].file, spoilt.folder / spoilt.entries[0].file)
    with pytest.raises(ShardError, match=r"case sub-00 .*holds \(1, 'sub-03', .*the manifest says \(1, 'sub-00'"):
        drain(spoilt)


def test_what_is_not_a_shard_is_refused(spoilt: Prepared) -> None:
    (spoilt.folder / spoilt.entries[0].file).write_bytes(b"not HDF5")
    with pytest.raises(ShardError, match="sub-00"):
        drain(spoilt)
    with h5py.File(spoilt.folder / spoilt.entries[0].file, "w") as file:
        file["image"] = 1
    with pytest.raises(ShardError, match="sub-00"):
        drain(spoilt)


def test_batches_before_the_damage_still_arrive(spoilt: Prepared) -> None:
    (spoilt.folder / spoilt.entries[4].file).unlink()
    stream = reader_of(spoilt, shuffle=False).epoch(0)
    assert places([next(stream) for _ in range(7)])[-1] == (3, 7 - 1)
    with pytest.raises(ShardError, match="sub-04"):
        list(stream)


# ---- whole cases ----


def test_a_whole_case_comes_with_its_grids(shards: Prepared) -> None:
    case = read_slices(shards.folder, shards.entries[2])
    assert case.case == "sub-02"
    assert case.volume_shape == SHAPE
    assert case.slice_index.tolist() == [2, 3, 4, 5, 6, 7]
    assert case.images.shape == (6, 6, 5, 2)
    np.testing.assert_array_equal(case.images[0, ..., 0], shards.scans[2][:, :, 2])
    np.testing.assert_array_equal(case.scan_mask, shards.lesions[2])
    assert case.scan_mask.dtype == np.uint8
    assert case.grid.same_as(GRID)
