"""What the command line prints, a module for each of the subjects that `mspipeline.commands` has; `table` serves all.

May import all that lies below the command line.
"""

from mspipeline.commands.display.campaigns import LiveStates, print_states
from mspipeline.commands.display.data import print_derivative, print_manifest
from mspipeline.commands.display.images import print_images
from mspipeline.commands.display.machine import print_findings
from mspipeline.commands.display.networks import print_certification, print_models, print_nodes
from mspipeline.commands.display.results import print_comparison, print_tables
from mspipeline.commands.display.runs import print_cases, print_run
from mspipeline.commands.display.table import print_json

__all__ = [
    "LiveStates",
    "print_cases",
    "print_certification",
    "print_comparison",
    "print_derivative",
    "print_findings",
    "print_images",
    "print_json",
    "print_manifest",
    "print_models",
    "print_nodes",
    "print_run",
    "print_states",
    "print_tables",
]
