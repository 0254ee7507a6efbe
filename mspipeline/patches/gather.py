"""Gather: boxes of one size cut out of a volume around many voxels, at the speed at which memory is written.

Four things make it fast (measured in `benchmarks/micro/gather.py`). Patches are cut in the order of their place in the
volume, a strip of it at a time, so that neighbours find their rows in the cache. While one is cut, the rows of the next
are asked for. Each is put together in a buffer that stays in the first cache. From there it goes to its place with
stores that bypass the caches, or the processor would first read what it is about to overwrite. Values are moved as
unsigned integers of their size: every dtype comes out bit by bit as it went in.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

from mspipeline.errors import ShapeError

Scalar = TypeVar("Scalar", bound=np.generic)
Channels = Literal["first", "last"]

LINE_BYTES = 64
"""A cache line: what one streaming store fills."""
STRIP_BYTES = 1 << 20
"""What lies in the second cache while patches are cut along x: the voxels they overlap, in a strip of the volume along
y. Cut through the whole width of a brain instead, as many patches took 10 to 15 % longer (Xeon, 2 MiB a core).
"""


def gather(
    volume: npt.NDArray[Scalar],
    centres: npt.NDArray[np.integer[Any]],
    size: tuple[int, int, int],
    *,
    channels: Channels = "last",
    out: npt.NDArray[Scalar] | None = None,
    threads: int = 1,
) -> npt.NDArray[Scalar]:
    """Patches around voxels; what lies beyond the volume's border is 0.

    volume: (X, Y, Z, C), or (C, X, Y, Z) where `channels` is "first"; C-contiguous, items of 1, 2, 4 or 8 bytes.
    centres: (N, 3) voxels of the volume. size: of a patch; voxel p of a patch is c - size // 2 + p of the volume,
    so that 11 means c - 5 to c + 5. out: written to where given. threads: at most these work.
    Returns (N, *size, C), or (N, C, *size). Raises ShapeError where arrays do not fit. The first call of a process for
    an item size compiles, in about a second.
    """
    outer, (X, Y, Z), inner = _axes(volume, channels)
    if centres.ndim != 2 or centres.shape[1] != 3 or not np.issubdtype(centres.dtype, np.integer):
        raise ShapeError(f"centres of shape {centres.shape}, {centres.dtype}; expected (N, 3) integers")
    if len(centres) and (centres.min() < 0 or (centres.max(axis=0) >= (X, Y, Z)).any()):
        raise ShapeError(f"a centre lies outside the volume of {(X, Y, Z)} voxels")
    if min(size) < 1:
        raise ShapeError(f"patch size {size}; expected at least 1 voxel along each axis")
    shape = (len(centres), outer, *size) if channels == "first" else (len(centres), *size, inner)
    if out is None:
        out = np.empty(shape, volume.dtype)
    if out.shape != shape or out.dtype != volume.dtype or not out.flags.carray:
        raise ShapeError(f"out: {out.shape} {out.dtype}; expected {shape} {volume.dtype}, C-contiguous, writeable")
    corners = centres.astype(np.int64) - np.array(size) // 2
    row_bytes = outer * Z * inner * volume.itemsize
    strip = max(1, STRIP_BYTES // (size[0] * row_bytes) - size[1])  # rows along y: see STRIP_BYTES
    order = np.argsort(((corners[:, 1] // strip * X + corners[:, 0]) * Y + corners[:, 1]) * Z + corners[:, 2])
    bits = np.dtype(f"u{volume.itemsize}")
    source, target = volume.view(bits).reshape(-1), out.view(bits).reshape(-1)
    lanes = LINE_BYTES // volume.itemsize
    phase = out.ctypes.data // volume.itemsize % lanes

    def cut(first: int, last: int) -> None:
        grid, box = (outer, X, Y, Z * inner), (size[0], size[1], size[2] * inner)
        _cut(source, grid, corners, inner, target, box, order[first:last], lanes, phase)

    _in_threads(cut, len(centres), threads)
    return out


def _axes(volume: npt.NDArray[Any], channels: Channels) -> tuple[int, tuple[int, int, int], int]:
    """The volume as (outer, (X, Y, Z), inner): one of outer and inner is the number of channels, the other 1."""
    in_order = volume.flags.c_contiguous and volume.flags.aligned
    if volume.ndim != 4 or not in_order or volume.itemsize not in (1, 2, 4, 8):
        raise ShapeError(
            f"volume of shape {volume.shape}, {volume.dtype}; expected 4 axes, C-contiguous (make it so once, with "
            "numpy.ascontiguousarray), items of 1, 2, 4 or 8 bytes"
        )
    if channels == "first":
        C, X, Y, Z = volume.shape
        return C, (X, Y, Z), 1
    X, Y, Z, C = volume.shape
    return 1, (X, Y, Z), C


def _in_threads(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """`work(first, last)` on equal shares of 0..count.

    Python's threads serve, because `_cut` releases the interpreter; numba's own may neither be entered from two threads
    at once nor survive a fork.
    """
    if threads == 1 or count < 2 * threads:
        work(0, count)
        return
    bounds = [count * share // threads for share in range(threads + 1)]
    with ThreadPoolExecutor(threads, thread_name_prefix="gather") as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any, array: int) -> Any:
    """The address of an item: argument `array` is the flat array, the one after it the index."""
    data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
    return builder.gep(data, [arguments[array + 1]])


def _streaming(typing_context: Any, target: Any, at: Any, source: Any, start: Any) -> Any:
    """target[at : at + lanes] = source[start : start + lanes], one cache line, past the caches."""
    signature = types.void(target, types.uint64, source, types.uint64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = signature.args[0].dtype.bitwidth
        line = ir.VectorType(ir.IntType(bits), LINE_BYTES * 8 // bits).as_pointer()
        into, out_of = (
            builder.bitcast(_pointer(context, builder, signature, arguments, array), line) for array in (0, 2)
        )
        store = builder.store(builder.load(out_of, align=1), into, align=LINE_BYTES)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return signature, generate


def _prefetching(typing_context: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of array[at], to be read soon; an address outside the array does no harm."""
    signature = types.void(array, types.uint64)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [address, number, number, number])
        name = "llvm.prefetch.p0"
        function = builder.module.globals.get(name) or ir.Function(builder.module, function_type, name)
        item = builder.bitcast(_pointer(context, builder, signature, arguments, 0), address)
        to_read, keep, data = number(0), number(3), number(1)
        builder.call(function, [item, to_read, keep, data])
        return context.get_dummy_value()

    return signature, generate


_stream: Any = intrinsic(_streaming)
_prefetch: Any = intrinsic(_prefetching)


@njit(nogil=True)
def _cut(
    volume: Any, grid: Any, corners: Any, inner: int, out: Any, box: Any, order: Any, lanes: int, phase: int
) -> None:
    """Cut patches `order` of `volume`, a flat (A, X, Y, W), into `out`, a flat (N, A, *box).

    The last axes hold `inner` channels a voxel. lanes: items of a cache line. phase: items by which `out` is past the
    beginning of one. Indices are unsigned: signed ones are tested for being negative at each access.
    """
    A, X, Y, W = grid
    high, wide, long = box
    row, item = np.uint64(long), np.uint64(1)
    whole = np.uint64(A * high * wide * long)
    step = np.uint64(lanes)
    buffer = np.empty(A * high * wide * long, out.dtype)
    for position in range(len(order)):
        n, after = order[position], order[min(position + 1, len(order) - 1)]
        x0, y0, w0 = corners[n, 0], corners[n, 1], corners[n, 2] * inner
        first, last = max(0, -w0), min(long, W - w0)  # of a row, what lies inside the volume
        inside = first == 0 and last == long
        next_x, next_y, next_w = corners[after, 0], corners[after, 1], corners[after, 2] * inner
        at = np.uint64(0)
        for a in range(A):
            for x in range(x0, x0 + high):
                for y in range(y0, y0 + wide):
                    start = ((a * X + x) * Y + y) * W + w0
                    beyond = x < 0 or x >= X or y < 0 or y >= Y
                    if inside and not beyond:
                        begin = np.uint64(start)
                        ahead = np.uint64(((a * X + next_x + x - x0) * Y + next_y + y - y0) * W + next_w)
                        for k in range(np.uint64(0), row, step):
                            _prefetch(volume, ahead + k)
                        _prefetch(volume, ahead + row - item)
                        for k in range(row):
                            buffer[at + k] = volume[begin + k]
                    else:
                        for k in range(row):
                            buffer[at + k] = 0
                        if not beyond:
                            for k in range(first, last):
                                buffer[at + np.uint64(k)] = volume[np.uint64(start + k)]
                    at += row
        place = np.uint64(n) * whole
        done = min((step - (place + np.uint64(phase)) % step) % step, whole)
        for k in range(done):
            out[place + k] = buffer[k]
        while done + step <= whole:
            _stream(out, place + done, buffer, done)
            done += step
        while done < whole:
            out[place + done] = buffer[done]
            done += item
