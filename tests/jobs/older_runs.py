"""Shards, runs, maps and tables that version 0.1 has made, before masks had label sets, unpacked.

runs_0_1.tar.xz was made at commit eded581, on CPUs, with these commands:

mspipeline phantom dataset --cases 4 --seed 0 --shape 20 20 12    # without the T2w scans
mspipeline prepare dataset --recipe slices2d --set size=[16,16,12] -o slices
mspipeline prepare dataset --recipe patches3d --set patch_size=[5,5,5] --set modalities=["FLAIR","T1w"] -o patches
mspipeline train unet2d slices ... -o runs ; mspipeline train cascade3d patches ... -o runs    # one epoch
mspipeline evaluate ... ; mspipeline predict ... dataset -o derivatives
mspipeline collect runs -o tables ; mspipeline report tables --json > report.json

The settings of the trainings are in the runs' jobs/train.json. Telemetry, last checkpoints and the maps of all cases
but sub-03 are left out. Files name paths of another machine, for which those of this one are put in.
"""

import tarfile
from pathlib import Path

THEIRS = b"/home/user/bench"


def unpack(folder: Path) -> Path:
    """dataset, slices, patches, runs, derivatives, tables and report.json."""
    with tarfile.open(Path(__file__).parent / "runs_0_1.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for path in folder.rglob("*.json"):
        path.write_bytes(path.read_bytes().replace(THEIRS, str(folder).encode()))
    return folder
