"""Runs a campaign in a process of its own, as the command line would: campaign_program.py CAMPAIGN [cell options...]"""

import sys
from pathlib import Path

from mspipeline.campaigns.arrays import config_path
from mspipeline.campaigns.campaign import Campaign
from mspipeline.campaigns.cells import Cell
from mspipeline.errors import SuiteError

CELL_PROGRAM = Path(__file__).parent / "cell_program.py"


def cell_commands(*options):
    """How a cell runs in these tests: the stand-in program with these options."""

    def commands(cell: Cell) -> list[list[str]]:
        start = [sys.executable, str(CELL_PROGRAM)]
        return [[*start, job, str(config_path(cell, job)), *options] for job in ("train", "evaluate")]

    return commands


def main() -> int:
    folder, grace_s, *options = sys.argv[1:]
    try:
        Campaign.open(Path(folder)).run(commands=cell_commands(*options), poll_s=0.05, grace_s=float(grace_s))
    except SuiteError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
