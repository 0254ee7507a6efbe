"""The commands: parse, call, print. What a command does is done by other rooms, imported when it is asked for.

One module a subject; importing this package gives `app` with every command in it, in the order of a user's way.
"""

from mspipeline.commands import data, runs, campaigns, status, results, networks, images, machine  # noqa: F401, I001
from mspipeline.commands.app import app

__all__ = ["app"]
