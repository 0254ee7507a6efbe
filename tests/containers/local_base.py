"""A stand-in for the images' base where no registry can be reached: Debian's userland and a Python 3.12 in /usr/local.

That is what the official image is, too. Made of Debian's packages by mmdebstrap and of a Python 3.12 that lies on this
machine; it knows the certificates and the settings of pip that this machine has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.slurm.image_runtimes import NoRuntime

LIBRARIES = "ca-certificates,libssl3,libffi8,zlib1g,libbz2-1.0,liblzma5,libsqlite3-0,libncursesw6,libuuid1,libexpat1"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
TAG = "localhost/python:3.12"


def import_base(folder: Path, environment: dict[str, str]) -> str:
    """Make the base and take it into Podman's store; its name. Raises NoRuntime where it cannot be made here."""
    if os.getuid() or not shutil.which("mmdebstrap"):
        raise NoRuntime("no base image can be made here: needs root, and `apt-get install mmdebstrap`")
    prefix = _python()
    copies = [f"cp -a {prefix}/bin/python3* $1/usr/local/bin/", f"cp -a {prefix}/lib/python3.12 $1/usr/local/lib/"]
    copies += [
        f"if ls {prefix}/lib/libpython3* >/dev/null 2>&1; then cp -a {prefix}/lib/libpython3* $1/usr/local/lib/; fi"
    ]
    copies += [f"cp -L {CERTIFICATES} $1{CERTIFICATES}", "if [ -f /etc/pip.conf ]; then cp /etc/pip.conf $1/etc/; fi"]
    tidy = ["rm -rf $1/usr/local/lib/python3.12/site-packages/* $1/usr/local/lib/python3.12/test", "chroot $1 ldconfig"]
    hook = " && ".join(
        ["mkdir -p $1/usr/local/bin $1/usr/local/lib", *copies, *tidy, "chroot $1 python3 -c 'import ssl'"]
    )
    archive = folder / "base.tar"
    made = ["mmdebstrap", "--variant=minbase", f"--include={LIBRARIES}", f"--customize-hook={hook}", "bookworm"]
    for command in ([*made, str(archive)], ["podman", "import", str(archive), TAG]):
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NoRuntime(f"no base image can be made here: {command[0]}: {' '.join(done.stderr.split())[-300:]}")
    archive.unlink()
    return TAG


def _python() -> Path:
    """A Python 3.12 that lies beside the one that runs, as pyenv and uv keep them; the distribution's is no such."""
    beside = Path(sys.base_prefix).resolve().parent
    found = [path for path in sorted(beside.glob("*3.12*")) if (path / "lib" / "python3.12").is_dir()]
    if not found:
        raise NoRuntime(
            f"no Python 3.12 in {beside}, for the base image; `pyenv install 3.12` or `uv python install 3.12`"
        )
    return found[-1]
