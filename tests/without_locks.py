"""A file system without locks, as NFS, Lustre and DVS can be: a library that answers `flock` and `fcntl` locks with an
error, loaded before the C library."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
int flock(int descriptor, int operation) { errno = atoi(getenv("FLOCK_ERRNO")); return -1; }
int fcntl64(int descriptor, int command, ...) {
    va_list rest; va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest);
    if (command == F_SETLK || command == F_SETLKW) { errno = atoi(getenv("FLOCK_ERRNO")); return -1; }
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, "fcntl64");
    return real(descriptor, command, argument);
}
"""
ENOLCK, ENOTSUPP = 37, 524


def without_locks(folder: Path, error: int) -> dict[str, str]:
    """The environment in which no file can be locked; skips without gcc."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc to stand in for a file system without locks")
    source, library = folder / "no_locks.c", folder / "no_locks.so"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "FLOCK_ERRNO": str(error)}
