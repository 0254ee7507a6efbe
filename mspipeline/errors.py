"""Every exception the suite raises on purpose; each class carries the exit code of the command that meets it.

    SuiteError                     70  a fault of the suite itself
      UsageError                    2  the command line asks for something impossible
      DataError                    65  a file or folder is not what it should be
        DatasetError                   the scans: not BIDS, a modality missing, grids that differ
        VolumeError                    one image: truncated, 4-D, NaN, constant, a mask that is not binary
        ShapeError                     arrays whose shapes do not fit together
        ShardError                     a shard or a manifest: missing, corrupt, of another recipe
        RunFolderError                 a run folder: unfinished, corrupt, of another dataset
        TableError                     telemetry streams and tables
      BackendError                 69  a backend is absent or cannot realise the graph
      StorageError                 74  the disk is full or refuses to be written
      Preempted                    75  stopped from outside with its state saved: run again to continue
      FolderInUse                  75  another process works in the folder: run again when it has ended
      PeersLost                    76  another process of a training has ended (`backends.process_group`)
      ConfigError                  78  a configuration file or value
      NotCertified                  1  backends do not compute the same network (`backends.certification`)
      Interrupted                 130  Ctrl-C, with its state saved

The message of each is one line: what, where, what was expected, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

STOPPED = "stopped by Ctrl-C; what was written is whole; run the same command again to continue"
"""The line of a Ctrl-C that came where nothing better is known."""


def shown(paths: Sequence[str], count: int = 3) -> str:
    """The first few names of a list and how many more there are, for a line that people read."""
    names = ", ".join(paths[:count])
    return f"{names} and {len(paths) - count} more" if len(paths) > count else names


class SuiteError(Exception):
    """Base of every error raised on purpose. details: lines to be shown below the message, where it has any."""

    exit_code = 70
    details: tuple[str, ...] = ()


class UsageError(SuiteError):
    """The command line asks for something impossible."""

    exit_code = 2


class DataError(SuiteError):
    """A file or folder is not what it should be."""

    exit_code = 65


class DatasetError(DataError):
    """A folder of scans that is not a dataset, or a case that is incomplete."""


class VolumeError(DataError):
    """One image that cannot be used."""


class ShapeError(DataError):
    """Arrays whose shapes do not fit together."""


class ShardError(DataError):
    """A shard or manifest that is missing, corrupt or made by another recipe."""


class RunFolderError(DataError):
    """A run folder that is unfinished, corrupt or made from another dataset."""


class TableError(DataError):
    """Telemetry streams or tables that cannot be read."""


class BackendError(SuiteError):
    """A backend is absent or cannot realise the graph."""

    exit_code = 69


class StorageError(SuiteError):
    """The disk is full or refuses to be written."""

    exit_code = 74


class Preempted(SuiteError):
    """Stopped from outside (TERM, USR2) with the state saved; running again continues."""

    exit_code = 75


class FolderInUse(SuiteError):
    """Another process works in a folder that takes one at a time."""

    exit_code = 75


class ConfigError(SuiteError):
    """A configuration file or value."""

    exit_code = 78


class Interrupted(SuiteError):
    """Ctrl-C, with the state saved."""

    exit_code = 130


def nearest(word: str, valid: Iterable[str]) -> str:
    """The words that answer a misspelt one: `did you mean 'seed'? valid: model, seed`."""
    from difflib import get_close_matches  # not above: `startup` imports this module before its path is in order

    known = sorted(valid)
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(known)}"
