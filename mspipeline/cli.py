"""`mspipeline`: starts a command and ends with the exit code of `mspipeline.errors`.

The commands are in `commands/`. They are imported inside `main`, so that Ctrl-C is answered from the first moment on.
"""

from __future__ import annotations

import sys

from mspipeline import startup

DEBUG = "--debug"


def main() -> None:
    """Run the command line and exit; whatever goes wrong is one line on stderr."""
    debug = DEBUG in sys.argv
    try:
        startup.begin()
        from mspipeline.commands import app
        from mspipeline.console import ended

        try:
            app([word for word in sys.argv[1:] if word != DEBUG])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            sys.exit(ended(code, debug=debug))
    except (Exception, KeyboardInterrupt) as error:
        from mspipeline.console import ended, explain

        sys.exit(ended(explain(error, debug=debug), debug=debug))
