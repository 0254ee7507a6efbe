"""`mspipeline`: starts a command and ends with the exit code of `mspipeline.errors`.

The commands are in `commands/`. They are imported inside `main`, so that Ctrl-C is answered from the first moment on.
"""

from __future__ import annotations

import sys

from mspipeline import startup

DEBUG = "--debug"


def main() -> None:
    """Run the command line and exit; whatever goes wrong is one line on stderr."""
    debug, code, error = DEBUG in sys.argv, 0, None
    try:
        startup.begin()
        from mspipeline.commands import app

        app([word for word in sys.argv[1:] if word != DEBUG])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except (Exception, KeyboardInterrupt) as raised:
        error = raised
    refused = startup.unwritten()
    if isinstance(error, OSError) and _while_printing(error):
        error = startup.no_stdout(error)
    elif error is None and code == 0:
        error = refused
    if error is not None:
        from mspipeline.console import explain

        code = explain(error, debug=debug)
    sys.exit(code)


def _while_printing(error: OSError) -> bool:
    """Whether Typer raised it: what it prints, help and the version, it prints by itself."""
    from traceback import walk_tb  # not before `startup.begin`: its own imports may be hidden by the user's modules

    return any(frame.f_code.co_name == "echo" for frame, _ in walk_tb(error.__traceback__))
