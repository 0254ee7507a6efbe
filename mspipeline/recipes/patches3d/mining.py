"""What the first stage of a cascade says of every candidate: the second is trained on what it takes for lesion.

Kept beside the checkpoints: asking again costs as much as a prediction of every training case.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mspipeline.errors import RunFolderError
from mspipeline.files import whole_file
from mspipeline.hdf5 import open_hdf5, refusal

Scores = Mapping[str, npt.NDArray[np.float32]]
"""By case the first stage's probability of lesion at each candidate, (K,), in the order of the shard."""


def write_scores(path: Path, scores: Scores, *, config_hash: str) -> None:
    """Keep the scores of every case, whole or not at all. config_hash: of the run. Raises StorageError."""
    with whole_file(path) as partial, open_hdf5(partial, "w", libver="latest") as file:
        file.attrs["config_hash"] = config_hash
        for case, probability in scores.items():
            file[case] = probability


def read_scores(path: Path, *, config_hash: str) -> dict[str, npt.NDArray[np.float32]]:
    """What `write_scores` kept. Raises RunFolderError where it cannot be read or is another run's."""
    try:
        with open_hdf5(path) as file:
            if file.attrs["config_hash"] != config_hash:
                raise RunFolderError(f"{path}: of another configuration; train into another folder")
            return {case: np.asarray(probability) for case, probability in file.items()}
    except (OSError, KeyError) as error:
        if reason := refusal(error):
            raise RunFolderError(f"{path}: cannot be read ({reason}); it may be whole: see to its disk") from error
        raise RunFolderError(f"{path}: not readable ({error}); delete it, it will be made again") from error
