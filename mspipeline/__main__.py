"""`python -m mspipeline`: the command line, where its own program is not on PATH."""

from __future__ import annotations

from mspipeline.cli import main

if __name__ == "__main__":
    main()
