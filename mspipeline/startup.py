"""What every process of the suite puts in order before anything else is imported, and at its end.

Nothing but the standard library is imported here: `--help` is answered with this.

A process may be started with its standard streams closed, with a character set that lacks most letters, or with a
folder on PYTHONPATH whose `random.py` hides Python's own.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper

from mspipeline.errors import StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO  # at run time a `typing.py` of the user's would be read here, before `begin`


def begin() -> None:
    """Call it first in every entry point."""
    own_library_first()
    open_streams()
    name_temporary_folder()


def own_library_first() -> None:
    """Put Python's own modules before those of PYTHONPATH; the user's packages stay before the installed ones.

    What the interpreter imports before any of our code runs (`os`, `re`, `io` and some more) can still be hidden.
    Python's folder is found by a module of it: `sysconfig`, which knows it, would be looked for in the wrong place.
    """
    places = [os.path.dirname(os.__file__)]
    zipped = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    own = [entry for entry in sys.path if entry in places or os.path.basename(entry) in ("lib-dynload", zipped)]
    sys.path[:] = own + [entry for entry in sys.path if entry not in own]


def name_temporary_folder(*others: str) -> None:
    """Where there is no temporary folder, name one in TMPDIR: memory's (/dev/shm), else the first of `others`.

    The suite needs none, but TensorFlow, PyTorch and matplotlib do not load where Python finds none: on a read-only
    root without a /tmp, say.
    """
    usual = [os.environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")] + ["/tmp", "/var/tmp", "/usr/tmp"]
    if any(_takes_files(folder) for folder in usual):
        return
    for folder in ("/dev/shm", *others):
        if _takes_files(folder):
            os.environ["TMPDIR"] = folder
            return


def _takes_files(folder: str) -> bool:
    return bool(folder) and os.access(folder, os.W_OK | os.X_OK)


def open_streams() -> None:
    """Open the null device in the place of each standard stream that is closed, and write any text to them.

    Otherwise the next file that is opened gets the number of the closed stream, and what a library prints goes into
    that file. What the character set of a stream lacks is written as an escape, such as \\xe9.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def unwritten() -> StorageError | None:
    """Write out what is still held back for the standard streams; the error where stdout, for results, takes no more.

    That nobody reads on (`mspipeline ... | head`) is fine.
    """
    with suppress(OSError):
        sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)
        return None if isinstance(error, BrokenPipeError) else no_stdout(error)
    return None


def no_stdout(error: OSError) -> StorageError:
    """The error of a stdout that takes no results."""
    return StorageError(f"stdout: cannot be written ({error.strerror}); send the results elsewhere")


def silence(stream: TextIO) -> None:
    """Send what is still written to a stream that takes nothing more to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
