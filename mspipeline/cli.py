"""`mspipeline`: starts a command and ends with the exit code of `mspipeline.errors`.

The commands are in the package `commands`. They are imported inside `main`, so that Ctrl-C is answered from the first
moment on.
"""

from __future__ import annotations

import sys

DEBUG = "--debug"


def main() -> None:
    """Run the command line and exit; whatever goes wrong is one line on stderr."""
    try:
        from mspipeline.commands import app

        app([word for word in sys.argv[1:] if word != DEBUG])
    except (Exception, KeyboardInterrupt) as error:
        from mspipeline.console import explain

        sys.exit(explain(error, debug=DEBUG in sys.argv))
