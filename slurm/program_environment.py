"""The variables that SLURM's programs are started with: this process's, but for a user's own settings of them."""

from __future__ import annotations

import os

SETTINGS = ("SACCT_", "SACCTMGR_", "SCANCEL_", "SCONTROL_", "SINFO_", "SQUEUE_")
"""How the names begin by which people change what the programs show them, or have them ask first.

With SQUEUE_STATES=RUNNING a job that waits would be taken for over, and its cell be run twice.
"""


def program_environment() -> dict[str, str]:
    """Variables for squeue, scontrol, scancel, sacct, sacctmgr and sinfo, whose answers are read by a program."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
