"""Files that appear whole or not at all, and SHA-256 of files and of plain data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mspipeline.errors import DataError, StorageError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield `<path>.partial` to write to; on leaving, sync it and rename it to `path`.

    Any exception, Ctrl-C included, removes the partial file and leaves an older `path` untouched.
    Raises StorageError where the system refuses to write (disk full, quota, permission).
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):  # where the folder itself is at fault there is nothing to remove
            partial.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: cannot be written ({os.strerror(error.errno) if error.errno else error}); "
            "nothing half-written was left; free some space or choose another output folder"
        ) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, document: Any) -> None:
    """Write plain data as indented JSON, whole or not at all. NaN is refused: unknown is null."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path, *, what: str, remedy: str) -> Any:
    """Plain data from a JSON file that the suite wrote.

    what, remedy: words for the error line, e.g. `what="shard manifest"`, `remedy="run `mspipeline prepare` again"`.
    Raises DataError where the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, expected a {what}; {remedy}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not a readable {what} ({error}); {remedy}") from error


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_data(document: Any) -> str:
    """SHA-256 of plain data: equal data gives equal hashes, whatever the order of keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
