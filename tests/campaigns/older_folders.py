"""Two campaigns whose folders version 0.1 has made, unpacked.

campaigns_0_1.tar.xz holds what `mspipeline sweep` made at commit 2b346ad on a phantom of four cases: one campaign on
this machine, one on the tests' SLURM. Each has a cell that is done, and one that Ctrl-C interrupted in its first epoch.
Checkpoints of the cell that is done, samples, pickles and links are left out. Their files name paths of another
machine, for which those of this one are put in.
"""

import subprocess
import sys
import tarfile
from pathlib import Path

THEIRS = b"/home/user/sweeps"
FIRST, SECOND = "unet2d-tensorflow-s0", "unet2d-tensorflow-s1"


def unpack(folder: Path) -> Path:
    """Both campaigns: `local`, with the shards of both, and `slurm`."""
    with tarfile.open(Path(__file__).parent / "campaigns_0_1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".out", ".sh"):
            path.write_bytes(path.read_bytes().replace(THEIRS, str(folder).encode()))
    return folder


def command(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`mspipeline` with these words, in a folder."""
    start = [sys.executable, "-P", "-c", "import sys; from mspipeline.cli import main; sys.exit(main())"]
    return subprocess.run([*start, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)
