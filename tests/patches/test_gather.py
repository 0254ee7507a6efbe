"""Patches against plain slices of a padded volume."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mspipeline.errors import ShapeError
from mspipeline.patches.gather import gather

GRID = (9, 6, 8)
EVERY_VOXEL = np.argwhere(np.ones(GRID, bool))


def volume(channels: str, count: int = 3, dtype: Any = np.float32) -> npt.NDArray[Any]:
    shape = (*GRID, count) if channels == "last" else (count, *GRID)
    return (np.random.default_rng(7).normal(size=shape) * 100).astype(dtype)


def plain(
    image: npt.NDArray[Any], centres: npt.NDArray[Any], size: tuple[int, int, int], channels: str
) -> Iterator[npt.NDArray[Any]]:
    """The patch around each voxel, by NumPy's padding and slices alone."""
    beside = [(n // 2, n) for n in size]
    padded = np.pad(image, [*beside, (0, 0)] if channels == "last" else [(0, 0), *beside])
    for centre in centres:
        box = tuple(slice(c, c + n) for c, n in zip(centre, size, strict=True))
        yield padded[box] if channels == "last" else padded[(slice(None), *box)]


@pytest.mark.parametrize("size", [(3, 3, 3), (11, 11, 11), (1, 1, 1), (5, 3, 1), (4, 2, 6)])
@pytest.mark.parametrize("channels", ["last", "first"])
def test_a_patch_around_every_voxel_is_the_slice_of_the_padded_volume(size: Any, channels: Any) -> None:
    image = volume(channels)
    patches = gather(image, EVERY_VOXEL, size, channels=channels)
    assert patches.shape == ((432, *size, 3) if channels == "last" else (432, 3, *size))
    for patch, expected in zip(patches, plain(image, EVERY_VOXEL, size, channels), strict=True):
        assert np.array_equal(patch, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int16, np.int64, bool])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_dtype_comes_out_bit_by_bit(dtype: Any, count: int) -> None:
    image = volume("last", count, dtype)
    patches = gather(image, EVERY_VOXEL[::7], (3, 3, 3))
    assert patches.dtype == dtype
    for patch, expected in zip(patches, plain(image, EVERY_VOXEL[::7], (3, 3, 3), "last"), strict=True):
        assert np.array_equal(patch, expected)


def test_nan_and_negative_zero_are_kept() -> None:
    image = np.array([np.nan, -0.0, 1.0], np.float32).reshape(1, 1, 3, 1)
    (patch,) = gather(image, np.array([[0, 0, 1]]), (1, 1, 3))
    assert patch.tobytes() == image.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    centres = np.random.default_rng(0).permutation(EVERY_VOXEL)
    image = volume("last")
    assert np.array_equal(gather(image, centres, (5, 5, 5), threads=threads), gather(image, centres, (5, 5, 5)))


@pytest.mark.parametrize("strip_bytes", [1, 2000])
def test_the_strips_in_which_patches_are_cut_do_not_change_a_bit(
    strip_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = volume("last")
    expected = gather(image, EVERY_VOXEL, (5, 5, 5))
    monkeypatch.setattr("mspipeline.patches.gather.STRIP_BYTES", strip_bytes)  # a row of y each, or a few
    assert np.array_equal(gather(image, EVERY_VOXEL, (5, 5, 5)), expected)


def test_patches_come_in_the_order_of_their_centres_and_a_centre_may_come_twice() -> None:
    image = volume("last", 1)
    centres = np.array([[8, 5, 7], [0, 0, 0], [8, 5, 7], [4, 3, 2]], np.int32)
    patches = gather(image, centres, (1, 1, 1))
    assert patches.ravel().tolist() == [image[tuple(c)].item() for c in centres]


@pytest.mark.parametrize("beginning", range(0, 17, 3))
def test_out_is_filled_wherever_it_begins_and_nothing_beside_it(beginning: int) -> None:
    image = volume("last", 2)
    centres = EVERY_VOXEL[:5]
    around = np.full(5 * 54 + 40, 99, np.float32)
    out = around[beginning : beginning + 5 * 54].reshape(5, 3, 3, 3, 2)
    assert gather(image, centres, (3, 3, 3), out=out) is out
    assert np.array_equal(out, gather(image, centres, (3, 3, 3)))
    assert (around[:beginning] == 99).all()
    assert (around[beginning + 5 * 54 :] == 99).all()


def test_two_threads_of_the_caller_may_gather_at_once() -> None:
    image = volume("last")
    expected = gather(image, EVERY_VOXEL, (5, 5, 5))
    found: list[bool] = []

    def work() -> None:
        for _ in range(20):
            found.append(np.array_equal(gather(image, EVERY_VOXEL, (5, 5, 5), threads=2), expected))

    callers = [threading.Thread(target=work) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [True] * 60


def test_a_volume_that_may_only_be_read_is_cut_as_well() -> None:
    image = volume("last")
    image.flags.writeable = False
    assert np.array_equal(gather(image, EVERY_VOXEL, (3, 3, 3)), gather(image.copy(), EVERY_VOXEL, (3, 3, 3)))


def test_no_centres_give_no_patches() -> None:
    assert gather(volume("first"), np.empty((0, 3), np.int64), (3, 3, 3), channels="first").shape == (0, 3, 3, 3, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"centres": np.array([[0, 0, 8]])}, r"outside the volume of \(9, 6, 8\)"),
        ({"centres": np.array([[0, -1, 0]])}, "outside the volume"),
        ({"centres": np.array([[0.0, 1.0, 2.0]])}, r"expected \(N, 3\) integers"),
        ({"centres": np.array([0, 1, 2])}, r"expected \(N, 3\) integers"),
        ({"size": (3, 0, 3)}, "at least 1 voxel"),
        ({"volume": volume("last").transpose(1, 0, 2, 3)}, "C-contiguous"),
        ({"volume": volume("last")[..., 0]}, "expected 4 axes"),
        ({"volume": volume("last").astype(np.complex128)}, "items of 1, 2, 4 or 8 bytes"),
        ({"out": np.empty((1, 3, 3, 3, 2), np.float32)}, r"out: .*expected \(1, 3, 3, 3, 3\) float32"),
        ({"out": np.empty((1, 3, 3, 3, 3), np.float64)}, "out: "),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], said: str) -> None:
    arguments = {"volume": volume("last"), "centres": np.array([[1, 2, 3]]), "size": (3, 3, 3), **change}
    with pytest.raises(ShapeError, match=said):
        gather(arguments["volume"], arguments["centres"], arguments["size"], out=arguments.get("out"))
