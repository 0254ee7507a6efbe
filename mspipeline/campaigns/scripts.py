"""The batch scripts of a sweep, written to read before anything runs."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from mspipeline.campaigns import before_and_after
from mspipeline.campaigns.arrays import Array, chains, job_commands
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.job_shape import JobShape
from mspipeline.files import write_bytes

SHOWN = 3
"""Cells whose commands stand in a script that is written for reading."""


def write_scripts(campaign: Campaign) -> list[Path]:
    """Write OUTPUT/dry-run/*.sh, a script a submission, to read or for `sbatch --test-only`; none where none would be.

    A comment says what each waits for, which only a submission can tell the scheduler, and what its first cells run.
    """
    site, folder = campaign.record.site, campaign.folder / "dry-run"
    scripts: list[tuple[str, str, int, JobShape, list[str]]] = []
    device = site.device_of_steps
    first = ""
    if campaign.to_prepare:
        first = "01-prepare"
        shape = before_and_after.prepare_shape(campaign.record.sweep.prepare.ranks)
        scripts.append((first, device, 1, shape, ["prepares the scans that the cells wait for"]))
    for chain in chains(campaign.cells, site, campaign.scheduler, separate_jobs=campaign.record.sweep.separate_jobs):
        after = f"after {first}.sh went well" if first else ""
        for array in chain:
            name = f"{len(scripts) + 1:02}-{array.name}-{array.partition_name}"
            scripts.append(
                (name, array.device, len(array.cells), array.shape, [*filter(None, [after]), *_first_commands(array)])
            )
            after = f"each element after the same one of {name}.sh went well"
    if campaign.record.collect:
        name = f"{len(scripts) + 1:02}-collect"
        scripts.append(
            (name, device, 1, before_and_after.collect_shape(), ["after all others, however they ended: the tables"])
        )
    written: list[Path] = []
    for name, where, count, shape, comments in scripts:
        text = campaign.scheduler.script(
            site, where, count, campaign.folder / "logs" / name, name=name[3:], shape=shape
        )
        if text is None:
            continue
        if not written:
            shutil.rmtree(folder, ignore_errors=True)
        shebang, _, rest = text.partition("\n")
        head = "".join(f"# {line}\n" for line in comments)
        path = folder / f"{name}.sh"
        write_bytes(path, f"{shebang}\n{head}{rest}".encode())
        written.append(path)
    return written


def _first_commands(array: Array) -> list[str]:
    """What the first cells of an array run."""
    lines = [f"{len(array.cells)} cells in {array.jobs} jobs, {array.shape.pack} in each"]
    for cell in array.cells[:SHOWN]:
        commands = job_commands(cell)
        lines += [f"{cell.id}: {shlex.join(commands[number])}" for number in array.steps]
    return [*lines, *(["..."] if len(array.cells) > SHOWN else [])]
