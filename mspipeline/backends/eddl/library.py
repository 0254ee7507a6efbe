"""The EDDL library in this process: loading it, its threads, its noise, and what it cannot live through.

It prints to the C streams while it is loaded and while a network is made, and says the reasons of its errors there.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.errors import BackendError
from mspipeline.files import nameless_file

FloatArray = npt.NDArray[np.float32]

_COLOURS_AND_RULES = re.compile(r"\x1b\[[0-9;]*m|[=⚠️*-]{3,}|⚠️")


@contextmanager
def quiet(doing: str) -> Iterator[None]:
    """Hold back what the library writes to file descriptors 1 and 2; an error of its own becomes one BackendError line.

    For loading and building alone: in a training step nothing is printed, and a progress bar must be able to.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {stream: os.dup(stream) for stream in (1, 2)}
    with nameless_file() as held:
        for stream in saved:
            os.dup2(held.fileno(), stream)
        try:
            yield
        except (RuntimeError, ValueError, TypeError) as error:
            held.seek(0)
            raise BackendError(_line(doing, error, held.read().decode(errors="replace"))) from error
        finally:
            _flush_c_streams()
            for stream, copy in saved.items():
                os.dup2(copy, stream)
                os.close(copy)


def _flush_c_streams() -> None:
    """What the library's printf still holds goes where it was printed to, not to the terminal later."""
    ctypes.CDLL(None).fflush(None)


def _line(doing: str, error: Exception, printed: str) -> str:
    """One line of an exception and of what was printed beside it."""
    words = " ".join(_COLOURS_AND_RULES.sub(" ", printed).split())
    return f"EDDL failed while {doing}: {' '.join(str(error).split())}" + (f"; it printed: {words}" if words else "")


@contextmanager
def _sleeping_threads() -> Iterator[None]:
    """Load OpenMP so that its threads sleep, not spin, while they wait for each other; a site's own choice stands.

    Where a core is shared with anything, each of a step's many waits can cost a scheduler's slice: on 2 busy cores a
    step of a narrow U-Net took 8.7 s spinning, 0.7 s sleeping. The runtime reads this once, when it is loaded.
    """
    if any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")):
        yield
        return
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        yield
    finally:
        del os.environ["OMP_WAIT_POLICY"]


class Library:
    """PyEDDL's modules, and how they are to be called."""

    def __init__(self) -> None:
        with quiet("being loaded"), _sleeping_threads():
            try:
                self.eddl = importlib.import_module("pyeddl.eddl")
                core = importlib.import_module("pyeddl._core")
                self._tensor = importlib.import_module("pyeddl.tensor").Tensor
            except ImportError as error:
                raise BackendError(
                    f"pyeddl is here but cannot be loaded: {error}; see docs/guide.md, PyEDDL"
                ) from error
        self._loss = core.Loss
        self._process = os.getpid()
        # From the library's own file, since a process may hold several OpenMP runtimes (torch brings one).
        self._set_threads = getattr(ctypes.CDLL(str(core.__file__)), "omp_set_num_threads", lambda number: None)

    def enter(self, threads: int) -> None:
        """To be called before each call of the library: `threads` for the loops of this thread's calls.

        Raises BackendError in a forked child, where the library's threads are missing and it would wait for ever.
        """
        if os.getpid() != self._process:
            raise BackendError(
                "EDDL cannot be used in a process forked after it was loaded; start processes with the method spawn"
            )
        self._set_threads(threads)

    def tensor(self, values: npt.NDArray[Any]) -> Any:
        """A tensor of these values, of 2 axes or more."""
        return self._tensor.fromarray(np.ascontiguousarray(values, np.float32))

    def slope_loss(self) -> tuple[Any, Callable[[FloatArray], None]]:
        """A loss for the library whose slope by the output is given from outside, and what gives it.

        Its own losses add up over voxels and divide by the images alone.
        """

        class Slope(self._loss):  # type: ignore[misc,name-defined]
            def __init__(self, base: Any) -> None:
                base.__init__(self, "slope")
                self.slope: FloatArray | None = None

            def delta(self, target: Any, output: Any, delta: Any) -> None:
                np.asarray(delta)[...] = self.slope

            def value(self, target: Any, output: Any) -> float:
                return 0.0

        loss = Slope(self._loss)

        def give(slope: FloatArray) -> None:
            loss.slope = slope

        return loss, give


@cache
def load() -> Library:
    """The library, loaded once. Raises BackendError where it is broken."""
    return Library()


@contextmanager
def one_line(doing: str) -> Iterator[None]:
    """An error of the library becomes one BackendError line."""
    try:
        yield
    except RuntimeError as error:
        raise BackendError(_line(doing, error, "") + "; it printed the reason to stderr") from error
