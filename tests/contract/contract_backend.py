"""Which backend this process tests: engines of Keras share one module, and a framework keeps the threads it began with.

MSPIPELINE_TEST_BACKEND names it, else it is the first that is installed; `test_every_backend.py` starts a process for
each other.
"""

from __future__ import annotations

import os
from pathlib import Path

from mspipeline.backends.registry import BACKENDS, availability

VARIABLE = "MSPIPELINE_TEST_BACKEND"
CHOSEN = os.environ.get(VARIABLE) or next((name for name in BACKENDS if not availability(name).problem), "none")
CHECKPOINTS = Path(__file__).parent / "checkpoints_of_adam"
"""What a version that had Adam alone wrote, with the keys of its states; by backend."""
