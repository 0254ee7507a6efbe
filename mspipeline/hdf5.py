"""HDF5 files, opened here alone: without file locks, which some parallel file systems do not have.

HDF5 would lock every file that it opens, and fails where the file system refuses (ENOLCK on NFS without a lock daemon,
ENOTSUP on Lustre without `-o flock`, 524 on DVS). Nothing here needs those locks: a file is written under a name of its
own and renamed when it is whole (`files.whole_file`), so no reader ever meets a writer.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Literal

# It outranks what is asked of a file, and the library reads it once, when it is loaded.
os.environ["HDF5_USE_FILE_LOCKING"] = "FALSE"

import h5py


def open_hdf5(path: Path, mode: Literal["r", "w"] = "r", **options: Any) -> Any:
    """An open `h5py.File`. options: of h5py. Raises OSError as h5py does."""
    return h5py.File(path, mode, locking=False, **options)


def in_memory(name: str, *, block_size: int) -> Any:
    """A new HDF5 file that is in memory alone and grows by `block_size` bytes."""
    options = {"driver": "core", "backing_store": False, "block_size": block_size, "track_order": False}
    return h5py.File(name, "w", locking=False, **options)


def refusal(error: BaseException) -> str:
    """Why the system refuses a file that may be whole, in words; empty where the file itself is at fault."""
    number = error.errno if isinstance(error, OSError) else None
    return "" if number is None or number == errno.ENOENT else os.strerror(number)


def is_dataset(item: Any) -> bool:
    """Whether an item of a file is an array and not a group."""
    return isinstance(item, h5py.Dataset)
