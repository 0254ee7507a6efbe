"""Files that appear whole or not at all, text files of any encoding, and SHA-256 of files and of plain data."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from mspipeline.errors import DataError, StorageError

log = logging.getLogger(__name__)

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's mark does: first
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks, as Windows editors and spreadsheets write them, and the encodings that they announce."""
PARTIAL = ".partial"
"""How the name of a file ends that is not whole yet."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield `<path>.<8 random digits>.partial` to write to; on leaving, sync it and rename it to `path`.

    Two that write the same file at once do not meet: each has a partial file of its own, and the last one to rename
    stays. Any exception, Ctrl-C included, removes the partial file and leaves an older `path` untouched.
    Raises StorageError where the system refuses to write (disk full, quota, permission).
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
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
            f"nothing half-written was left; {_remedy(error)}"
        ) from error
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _remedy(error: OSError) -> str:
    """What to do about a file that cannot be written."""
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "choose another output folder, or ask for leave to write there"
    return "free some space or choose another output folder"


def remove_partials(folder: Path) -> None:
    """Remove what killed writers left half-written in `folder`. The caller knows that nobody writes there now."""
    for partial in folder.glob(f"*{PARTIAL}"):
        with suppress(OSError):
            partial.unlink()


def nameless_file() -> IO[bytes]:
    """A file in memory, to write and read, that no folder holds: what needs no temporary folder cannot lack one."""
    return os.fdopen(os.memfd_create("mspipeline"), "w+b")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, document: Any) -> None:
    """Write plain data as indented JSON, whole or not at all. NaN is refused: unknown is null.

    A path whose bytes are not UTF-8 is written in JSON's own escapes, from which it is read back as it was.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    if not is_utf8(text):
        text = json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8; the name of a file whose bytes are something else cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def read_text(path: Path) -> str:
    """The text of a file that people wrote, in whatever encoding their editor took; line ends are made "\\n".

    A byte order mark decides (UTF-8, UTF-16, UTF-32); without one the text is UTF-8. What is no UTF-8 is read as
    Windows-1252, in which every accented letter of Western Europe is one byte, and a warning names the first such byte.
    Raises UnicodeError where the bytes do not fit the mark, or there are zero bytes, which no text has; OSError.
    """
    data = path.read_bytes()
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = data[len(mark) :].decode(encoding)
            break
    else:
        text = _without_mark(path, data)
    if (place := text.find("\0")) >= 0:
        raise UnicodeError(f"a zero byte at character {place}, expected text: save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _without_mark(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        text = data.decode("cp1252", errors="replace")
        log.warning(
            "%s: byte 0x%02x in line %d is no UTF-8; the file is read as Windows-1252, save it as UTF-8",
            path,
            data[error.start],
            line,
        )
        return text


def read_json(path: Path, *, what: str, remedy: str) -> Any:
    """Plain data from a JSON file.

    what, remedy: words for the error line, e.g. `what="shard manifest"`, `remedy="run `mspipeline prepare` again"`.
    Raises DataError where the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, expected a {what}; {remedy}") from None
    except (OSError, UnicodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not a readable {what} ({error}); {remedy}") from error


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_data(document: Any) -> str:
    """SHA-256 of plain data: equal data gives equal hashes, whatever the order of keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
