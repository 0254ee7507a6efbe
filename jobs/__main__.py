"""`python -m mspipeline.jobs [supervise] NAME CONFIG`: the command line's work, as a container or scheduler runs it.

The exit code is that of `mspipeline.errors`; an error is one line on stderr. The rest is imported inside, so that
Ctrl-C is answered from the first moment on.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from mspipeline import startup

        startup.begin()
        from mspipeline.jobs.process.launch import main

        code = main()
        startup.unwritten()
        sys.exit(code)
    except KeyboardInterrupt as error:
        from mspipeline.console import explain

        sys.exit(explain(error, debug=False))
