"""The NumPy forms of every operation and the gallery of all of them are the contract's."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "contract"))
