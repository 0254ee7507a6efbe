"""mspipeline.recipes.patches3d.batches: every patch once, cut around its own voxel, in an order of the seed's alone."""

from __future__ import annotations

import gc
import hashlib
import itertools
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mspipeline.errors import ShardError
from mspipeline.patches.augment import augmentation
from mspipeline.patches.sampling import PatchSelection, held_out
from mspipeline.recipes.patches3d.batches import PatchReader
from mspipeline.recipes.patches3d.blocks import PatchBatch
from mspipeline.recipes.patches3d.shard import read_patch_case, read_voxels
from tests.recipes.patches3d.patch_cases import LESIONS, SIZE, Prepared, plain_patch, prepare

CASES = 6
VOLUME_BYTES = 9 * 8 * 7 * 2 * 4
PATCHES = 5 * 8
"""4 lesion voxels and 4 others of each case, but the healthy sub-02."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("shards"), CASES)


@pytest.fixture
def spoilt(shards: Prepared, tmp_path: Path) -> Prepared:
    """A copy that a test may damage."""
    shutil.copytree(shards.folder, tmp_path / "copy")
    return Prepared(tmp_path / "copy", shards.entries, shards.cases, shards.selection)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("shard-reader", "patch-loader"))]


def reader_of(made: Prepared, **keys: Any) -> PatchReader:
    settings = {"patch_size": SIZE, "selection": made.selection, "batch_size": 6, "seed": 3, "shuffle": True}
    return PatchReader(made.folder, made.entries, **{**settings, **keys})


def places(batches: Iterable[PatchBatch]) -> list[tuple[int, ...]]:
    return [
        (int(case), *map(int, centre))
        for batch in batches
        for case, centre in zip(batch.cases, batch.centres, strict=True)
    ]


def digest(batches: Iterable[PatchBatch]) -> str:
    digest = hashlib.sha256()
    for batch in batches:
        for array in (batch.images, batch.masks, batch.cases, batch.centres):
            digest.update(array.tobytes())
    return digest.hexdigest()


def check_patches(made: Prepared, batches: Iterable[PatchBatch]) -> None:
    """Each patch is the volume's around its centre, and its label that of its centre."""
    for batch in batches:
        assert (batch.images.dtype, batch.masks.dtype) == (np.float32, np.float32)
        assert (batch.cases.dtype, batch.centres.dtype) == (np.int32, np.int32)
        for image, mask, k, centre in zip(batch.images, batch.masks, batch.cases, batch.centres, strict=True):
            assert np.array_equal(image, plain_patch(made.cases[k].image, centre))
            assert mask.tolist() == [float(tuple(centre.tolist()) in LESIONS)]


# ---- what comes ----


def test_each_selected_voxel_comes_once_with_its_patch_and_label(shards: Prepared) -> None:
    reader = reader_of(shards)
    assert (reader.images, reader.steps) == (PATCHES, 7)
    assert reader.case_ids == [f"sub-{k:02d}" for k in range(CASES)]
    batches = list(reader.epoch(1))
    assert [len(batch.images) for batch in batches] == [6] * 6 + [4]
    expected = [(k, *c) for k in range(CASES) for c in shards.selection[f"sub-{k:02d}"].centres.tolist()]
    assert sorted(places(batches)) == sorted(expected)
    check_patches(shards, batches)


def test_the_label_is_that_of_the_voxel_in_the_middle_of_the_patch(shards: Prepared) -> None:
    # Channel 0 is 1 in lesions and nowhere else. The 2021 port cut c - 6 to c + 4 and labelled by c: there the middle
    # of a patch is its label's neighbour.
    batches = list(reader_of(shards).epoch(1))
    middle = np.concatenate([batch.images[:, 2, 2, 2, 0] for batch in batches])
    labels = np.concatenate([batch.masks[:, 0] for batch in batches])
    assert ((middle == 1) == (labels == 1)).all()
    assert labels.sum() == 20
    beside = np.concatenate([batch.images[:, 3, 3, 3, 0] for batch in batches])
    assert ((beside == 1) != (labels == 1)).any()


def test_patches_that_reach_beyond_the_volume_hold_0_there(shards: Prepared) -> None:
    found = {
        tuple(centre.tolist()): image
        for batch in reader_of(shards).epoch(1)
        for image, centre in zip(batch.images, batch.centres, strict=True)
    }
    low, high = found[(0, 0, 0)], found[(8, 7, 6)]
    assert not low[:2].any()
    assert not low[:, :2].any()
    assert not low[:, :, :2].any()
    assert low[2:, 2:, 2:, 1].all()
    assert not high[3:].any()
    assert high[:3, :3, :3, 1].all()


def test_a_case_without_a_selection_is_left_out(shards: Prepared) -> None:
    reader = reader_of(shards, selection={"sub-01": shards.selection["sub-01"]})
    assert (reader.images, reader.steps) == (8, 2)
    assert {place[0] for place in places(reader.epoch(1))} == {1}


def test_held_out_patches_and_the_others_are_read_apart(shards: Prepared) -> None:
    train, held = held_out(shards.selection, 0.25, seed=0)
    both = [places(reader_of(shards, selection=part).epoch(1)) for part in (train, held)]
    assert (len(both[0]), len(both[1])) == (30, 10)
    assert not set(both[0]) & set(both[1])


def test_no_patches_give_an_epoch_without_steps(shards: Prepared) -> None:
    for reader in (
        reader_of(shards, selection={}),
        PatchReader(shards.folder, [], patch_size=SIZE, selection={}, batch_size=4, seed=0, shuffle=True),
    ):
        assert (reader.images, reader.steps, list(reader.epoch(0))) == (0, 0, [])


def test_any_patch_size_may_be_cut(shards: Prepared) -> None:
    (batch,) = reader_of(shards, patch_size=(1, 1, 1), batch_size=100).epoch(1)
    assert batch.images.shape == (PATCHES, 1, 1, 1, 2)
    assert np.array_equal(batch.images[:, 0, 0, 0, 0] == 1, batch.masks[:, 0] == 1)


# ---- the order ----


def test_the_order_depends_on_seed_and_epoch_alone(shards: Prepared) -> None:
    reader = reader_of(shards)
    order = digest(reader.epoch(1))
    assert digest(reader.epoch(1)) == order
    assert digest(reader.epoch(2)) != order
    assert digest(reader_of(shards, seed=4).epoch(1)) != order
    assert digest(reader_of(shards, prefetch_batches=1, threads=2).epoch(1)) == order


def test_without_shuffling_cases_and_patches_keep_their_order(shards: Prepared) -> None:
    expected = [(k, *c) for k in range(CASES) for c in shards.selection[f"sub-{k:02d}"].centres.tolist()]
    for memory_bytes in (1 << 30, VOLUME_BYTES):
        assert places(reader_of(shards, shuffle=False, memory_bytes=memory_bytes).epoch(4)) == expected


@pytest.mark.parametrize("memory_bytes", [1 << 30, 4 * VOLUME_BYTES, VOLUME_BYTES])
@pytest.mark.parametrize("first_step", [0, 1, 4, 6, 7])
def test_a_resumed_epoch_is_the_tail_of_the_whole(shards: Prepared, first_step: int, memory_bytes: int) -> None:
    reader = reader_of(shards, memory_bytes=memory_bytes, augment=augmentation("rich"))
    whole, tail = list(reader.epoch(1)), list(reader.epoch(1, first_step=first_step))
    assert len(tail) == 7 - first_step
    assert digest(tail) == digest(whole[first_step:])


def test_a_step_beyond_the_epoch_is_refused_at_once(shards: Prepared) -> None:
    with pytest.raises(ShardError, match="has 7 steps of 6 images"):
        reader_of(shards).epoch(1, first_step=8)


# ---- memory ----


def test_volumes_beyond_the_memory_are_visited_a_block_at_a_time(shards: Prepared) -> None:
    # Half of the memory holds two volumes: of five cases with patches, blocks of 2, 2 and 1.
    reader = reader_of(shards, memory_bytes=4 * VOLUME_BYTES, batch_size=1)
    batches = list(reader.epoch(1))
    check_patches(shards, batches)
    order = [place[0] for place in places(batches)]
    blocks = [set(order[first : first + 16]) for first in (0, 16, 32)]
    assert [len(block) for block in blocks] == [2, 2, 1]
    assert set.union(*blocks) == {0, 1, 3, 4, 5}
    assert order[:16] != sorted(order[:16])  # patches of a block are mixed
    assert len({tuple(place[0] for place in places(reader.epoch(number))) for number in range(5)}) == 5


def remove(made: Prepared, cases: Iterable[int]) -> None:
    for k in cases:
        (made.folder / made.entries[k].file).unlink(missing_ok=True)


def test_volumes_that_fit_are_read_once_in_all(spoilt: Prepared) -> None:
    reader = reader_of(spoilt)
    first = digest(reader.epoch(1))
    remove(spoilt, range(CASES))
    assert digest(reader.epoch(1)) == first
    assert len(places(reader.epoch(2))) == PATCHES


def test_volumes_that_do_not_fit_are_read_once_an_epoch(spoilt: Prepared) -> None:
    reader = reader_of(spoilt, shuffle=False, memory_bytes=VOLUME_BYTES, prefetch_batches=1, batch_size=2)
    seen = []
    for batch in reader.epoch(1):
        seen += places([batch])
        remove(spoilt, {place[0] for place in seen})
    assert len(seen) == PATCHES
    with pytest.raises(ShardError, match="case sub-00 is missing"):
        list(reader.epoch(2))


def test_a_resumed_epoch_reads_no_volume_that_is_done(spoilt: Prepared) -> None:
    reader = reader_of(spoilt, memory_bytes=VOLUME_BYTES)
    order = [place[0] for place in places(reader_of(spoilt, memory_bytes=VOLUME_BYTES).epoch(1))]
    remove(spoilt, set(range(CASES)) - {order[-1]})
    assert len(places(reader.epoch(1, first_step=6))) == 4


def test_batches_share_no_memory_with_each_other_or_the_volumes(shards: Prepared) -> None:
    reader = reader_of(shards)
    batches = list(reader.epoch(1))
    before = digest(reader.epoch(2))
    for batch in batches:
        batch.images[:] = -7
        batch.masks[:] = -7
    assert not any(np.shares_memory(a.images, b.images) for a, b in itertools.pairwise(batches))
    assert digest(reader.epoch(2)) == before


# ---- augmentation ----


def test_augmentation_differs_from_epoch_to_epoch_and_leaves_labels_and_half_of_a_batch_alone(
    shards: Prepared,
) -> None:
    reader = reader_of(shards, augment=augmentation("published"), batch_size=20)
    for number in (1, 2, 3):  # were training arrays changed in place, changes would pile up
        for batch in reader.epoch(number):
            plain = [plain_patch(shards.cases[k].image, c) for k, c in zip(batch.cases, batch.centres, strict=True)]
            same = [np.array_equal(image, patch) for image, patch in zip(batch.images, plain, strict=True)]
            assert sum(same) == 10
            for image, patch, mask in zip(batch.images, plain, batch.masks, strict=True):
                forms = (patch, patch[:, ::-1, ::-1], patch[:, :, ::-1], patch[:, ::-1])
                assert any(np.array_equal(image, form) for form in forms)
                assert (image[2, 2, 2, 0] == 1) == (mask[0] == 1)
    assert digest(reader.epoch(1)) == digest(
        reader_of(shards, augment=augmentation("published"), batch_size=20).epoch(1)
    )


def test_each_batch_of_each_epoch_has_a_generator_of_its_own_and_always_the_same(shards: Prepared) -> None:
    def noted(seed: int) -> list[float]:
        reader = reader_of(shards, seed=seed, augment=lambda images, generator: images * 0 + generator.random())
        return [float(batch.images[0, 0, 0, 0, 0]) for number in (1, 2) for batch in reader.epoch(number)]

    assert len(set(noted(3) + noted(4))) == 28
    assert noted(3) == noted(3)


# ---- damage and threads ----


def spoil(path: Path, dataset: str) -> None:
    """Flip eight bytes in the middle of the first stored chunk."""
    with h5py.File(path) as file:
        chunk = file[dataset].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    content[middle : middle + 8] = bytes(byte ^ 0xFF for byte in content[middle : middle + 8])
    path.write_bytes(content)


def test_a_shard_damaged_in_mid_epoch_is_named_with_the_remedy_after_the_batches_before_it(spoilt: Prepared) -> None:
    stream = reader_of(spoilt, shuffle=False, memory_bytes=VOLUME_BYTES, batch_size=8, prefetch_batches=1).epoch(1)
    spoil(spoilt.folder / spoilt.entries[4].file, "image")
    seen = [next(stream) for _ in range(3)]
    with pytest.raises(
        ShardError, match=r"sub-04\.h5: shard of case sub-04 is missing or damaged .*run `mspipeline prepare` again"
    ) as info:
        next(stream)
    assert "\n" not in str(info.value)
    assert [place[0] for place in places(seen)] == [0] * 8 + [1] * 8 + [3] * 8


@pytest.mark.parametrize("damage", ["deleted", "torn", "of another case", "not HDF5"])
def test_every_kind_of_damage_names_the_case(spoilt: Prepared, damage: str) -> None:
    path = spoilt.folder / spoilt.entries[3].file
    content = path.read_bytes()
    other = (spoilt.folder / spoilt.entries[0].file).read_bytes()
    path.write_bytes({"torn": content[: len(content) // 2], "of another case": other}.get(damage, b"not HDF5"))
    if damage == "deleted":
        path.unlink()
    with pytest.raises(ShardError, match="case sub-03 is missing or damaged"):
        list(reader_of(spoilt).epoch(1))
    for read in (read_patch_case, read_voxels):
        with pytest.raises(ShardError, match=r"sub-03.*run `mspipeline prepare` again"):
            read(spoilt.folder, spoilt.entries[3])


def test_cases_of_two_patch_shapes_are_refused(shards: Prepared) -> None:
    other = shards.entries[1].model_copy(update={"image_shape": (5, 5, 5, 3)})
    made = Prepared(shards.folder, [shards.entries[0], other], shards.cases, shards.selection)
    with pytest.raises(ShardError, match=r"patches of sub-01 are \(5, 5, 5, 3\), those of sub-00 \(5, 5, 5, 2\)"):
        reader_of(made)


def test_closing_in_mid_epoch_ends_every_thread_and_says_so(shards: Prepared) -> None:
    with reader_of(shards, prefetch_batches=1, memory_bytes=VOLUME_BYTES) as reader:
        stream = reader.epoch(1)
        next(stream)
    with pytest.raises(ShardError, match="closed in mid-epoch"):
        next(stream)
    with pytest.raises(ShardError, match="reader is closed"):
        reader.epoch(2)


def test_dropping_an_epoch_ends_its_threads(shards: Prepared) -> None:
    stream = reader_of(shards, prefetch_batches=1).epoch(1)
    next(stream)
    del stream
    gc.collect()


# ---- whole cases ----


def test_a_whole_case_comes_with_its_voxels_and_its_grid(shards: Prepared) -> None:
    case = read_patch_case(shards.folder, shards.entries[1])
    assert case.case == "sub-01"
    assert np.array_equal(case.image, shards.cases[1].image)
    assert case.image.flags.c_contiguous
    truth = shards.cases[1].lesions
    assert truth is not None
    assert np.array_equal(case.scan_mask, truth)
    assert case.grid.same_as(shards.cases[1].grid)
    alone = read_voxels(shards.folder, shards.entries[1])
    for voxels in (case.voxels, alone):
        assert len(voxels.candidates) == len(voxels.labels) == 44
        assert voxels.labels.sum() == len(voxels.lesions) == 4
    assert PatchSelection(alone.lesions, np.ones(4, np.uint8)).centres.dtype == np.int32
