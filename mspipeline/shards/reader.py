"""Opening a shard to read from it, and what to say of one that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mspipeline.errors import ShardError
from mspipeline.hdf5 import open_hdf5, refusal
from mspipeline.shards.manifest import REMEDY, ShardEntry
from mspipeline.shards.writer import SCHEMA_VERSION

UNREADABLE = (OSError, KeyError, ValueError, RuntimeError, TypeError)
"""What h5py raises on files that are missing, damaged or of another layout."""


def open_shard(path: Path, entry: ShardEntry, image: tuple[int, ...]) -> Any:
    """The shard of a case, open. No chunk is read twice, so none is cached.

    image: shape of its dataset `image`, as the manifest says. Raises one of UNREADABLE, for `damaged`.
    """
    file = open_hdf5(path, rdcc_nbytes=0)
    try:
        found = (int(file.attrs["schema_version"]), str(file.attrs["case"]), tuple(file["image"].shape))
        expected = (SCHEMA_VERSION, entry.case, image)
        if found != expected:
            raise ValueError(f"holds {found}, the manifest says {expected}")
    except BaseException:
        file.close()
        raise
    return file


def damaged(path: Path, entry: ShardEntry, error: BaseException) -> ShardError:
    """The line for a shard that h5py cannot read."""
    if reason := refusal(error):
        return ShardError(
            f"{path}: shard of case {entry.case} cannot be read ({reason}); it may be whole: see whether its disk "
            "and its permissions are in order"
        )
    text = " ".join(str(error).split())
    return ShardError(f"{path}: shard of case {entry.case} is missing or damaged ({text}); delete it and {REMEDY}")
