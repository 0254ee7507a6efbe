"""What a folder of scans holds, and what is in the way of reading it: nothing is passed over because it could not be.

`pathlib`'s `glob` and `is_dir` take a folder that may not be read for an empty one, and a link without its content for
a file that is not there.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from mspipeline.errors import DatasetError
from mspipeline.files import is_utf8
from mspipeline.images.registry import readable_ending

IMAGE = re.compile(r"\.(nii(\.(gz|bz2|xz|zst|zip))?|mgz|mgh|nrrd|mha|mhd|img|hdr|dcm)$", re.IGNORECASE)
"""Endings that images of the field have, whether a format reads them or not."""
OTHER_DATATYPES = {"func", "dwi", "fmap", "perf", "eeg", "ieeg", "meg", "beh", "micr", "nirs", "motion", "mrs"}
"""Folders in which BIDS has no anatomical scan; they are not entered."""

_ANNEX = re.compile(r"(^|/)(\.git/)?annex/objects/")
_POINTER_BYTES = 1024
_NAME_BYTES = 200
"""Of a case's name: file names made from it stay below the 255 bytes that file systems allow."""


def children(folder: Path) -> list[Path]:
    """What is in a folder, by name, without hidden files. Raises DatasetError where it may not be listed."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DatasetError(f"{folder}: {_cannot_be_entered(error)}") from error
    return [folder / name for name in names if not name.startswith(".")]


def is_folder(path: Path) -> bool:
    """Whether a path is a folder or a link to one; False where a link leads nowhere.

    Raises DatasetError where that cannot be found out: the folder that it lies in may be listed and not entered.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return False
        raise DatasetError(f"{path.parent}: {_cannot_be_entered(error)}") from error


def image_ending(name: str) -> str:
    """The ending of a file's name, as it stands there, where it is that of an image; else empty.

    Any format's counts, and those of images that no format reads.

    >>> image_ending("sub-01_T1w.NII.gz"), image_ending("sub-01_T1w.mgz"), image_ending("sub-01_T1w.json")
    ('.NII.gz', '.mgz', '')
    """
    if ending := readable_ending(name):
        return name[-len(ending) :]
    found = IMAGE.search(name)
    return found[0] if found else ""


def images(folder: Path, depth: int = 3) -> Iterator[Path]:
    """Images in a folder and, down to `depth` folders below it, in those that may hold anatomical scans.

    Whatever has the name of an image counts: `obstacle` says where one is none. Raises DatasetError as `children`.
    """
    for path in children(folder):
        if image_ending(path.name):
            yield path
        elif depth and path.name not in OTHER_DATATYPES and is_folder(path):
            yield from images(path, depth - 1)


def obstacle(path: Path) -> str:
    """What is in the way of reading a file, in words that follow "is", with what to do; empty where nothing is.

    Of a file's content only that of small ones is looked at, to tell a scan from the pointer that git-annex or git-lfs
    leaves in its place.
    """
    try:
        status = path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and path.is_symlink():
            target = os.readlink(path)
            if _ANNEX.search(target):
                return f"a git-annex link without its content: fetch it with `datalad get {path}`"
            return f"a link to {target}, which is not there: repair it, or copy the file"
        if error.errno == errno.ELOOP:
            return "a link that leads back to itself: replace it by the file"
        return f"out of reach ({error.strerror}): `chmod u+rx` its folder, or ask its owner"
    if stat.S_ISDIR(status.st_mode):
        return "a folder, expected a file: move it away"
    if not stat.S_ISREG(status.st_mode):
        return "no regular file: replace it by one"
    if status.st_size == 0:
        return "empty (0 bytes): copy it again"
    try:
        with path.open("rb") as stream:
            start = stream.read(_POINTER_BYTES) if status.st_size < _POINTER_BYTES else b""
    except OSError as error:
        return f"not readable ({error.strerror}): `chmod u+r` it, or ask its owner"
    if b"/annex/objects/" in start:
        return f"a git-annex pointer without its content: fetch it with `datalad get {path}`"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer without its content: fetch it with `git lfs pull`"
    return ""


def printable(name: str) -> str:
    """A file's name as tables, JSON and shard names have it: bytes that are not UTF-8 and control characters as %XX.

    Raises DatasetError where it is too long for names to be made from it.

    >>> printable(os.fsdecode(b"sub-M\\xfcller")), printable("sub-Müller")
    ('sub-M%FCller', 'sub-Müller')
    """
    text = name
    if not is_utf8(name) or not name.isprintable():
        text = "".join(
            letter if letter.isprintable() else "".join(f"%{byte:02X}" for byte in os.fsencode(letter))
            for letter in name
        )
    if len(text.encode()) > _NAME_BYTES:
        raise DatasetError(f"{text[:40]}...: a name of {len(text.encode())} bytes, expected at most {_NAME_BYTES}")
    return text


def printable_path(path: Path) -> str:
    """A path as JSON has it, its parts as `printable` writes them."""
    return "/".join(printable(part) for part in path.parts)


def _cannot_be_entered(error: OSError) -> str:
    return (
        f"cannot be read ({error.strerror}), expected a folder of scans; "
        "allow it (`chmod u+rx`, or ask its owner), or leave it out of the dataset"
    )
