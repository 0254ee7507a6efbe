"""The suite: prepares scans, trains and evaluates one network on several frameworks, and reports what that cost.

Rooms and what each may import are listed in CONTRIBUTING.md; `tests/test_layers.py` holds it.
Importing this package loads no framework and no third-party code.
"""

__version__ = "0.1.0"
