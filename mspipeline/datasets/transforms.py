"""Transforms between the spaces of one case's files, found by their names, and the chain from one space to another.

BIDS        *_from-<moving>_to-<fixed>_mode-image_xfm.{txt,tfm,mat}     sub-01_from-T1w_to-FLAIR_mode-image_xfm.txt
open-MS     <study>_<moving>[_intrastudy]_to_<fixed>.txt                study1_T1W_intrastudy_to_FLAIR.txt

Each maps points of the fixed image's space to points of the moving one's, as ITK writes it: it resamples the moving
image onto the fixed one as it is. A scan's space has the name of its modality.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mspipeline.grid import TransformChain

COMMON = "common"
"""The space of open-MS's masks of a patient's studies."""

_BIDS = re.compile(r"_from-(?P<moving>[A-Za-z0-9]+)_to-(?P<fixed>[A-Za-z0-9]+)(_[^.]*)?_xfm\.\w+$")
_OPEN_MS = re.compile(
    r"_(?P<moving>FLAIR|T1W|T2W)(_intrastudy)?_to_(?P<fixed>FLAIR|T1W|T2W|common_space)\.(txt|tfm|mat)$"
)
_SPACES = {"T1W": "T1w", "T2W": "T2w", "common_space": COMMON}


@dataclass(frozen=True)
class Transform:
    """A file that maps points of the space `fixed` to points of the space `moving`."""

    moving: str
    fixed: str
    path: Path


def named_transforms(files: Iterable[Path]) -> tuple[Transform, ...]:
    """Those of `files` whose names say that they are transforms, and between which spaces."""
    found = []
    for path in sorted(files):
        if match := _BIDS.search(path.name) or _OPEN_MS.search(path.name):
            moving, fixed = (_SPACES.get(name, name) for name in (match["moving"], match["fixed"]))
            found.append(Transform(moving, fixed, path))
    return tuple(found)


def chain_between(transforms: Sequence[Transform], start: str, end: str) -> TransformChain | None:
    """The shortest chain of transforms from one space to another; None where they do not lead there.

    >>> to_common = Transform("FLAIR", "common", Path("a.txt"))
    >>> chain_between([to_common], "common", "FLAIR"), chain_between([to_common], "FLAIR", "common")
    (((PosixPath('a.txt'), False),), ((PosixPath('a.txt'), True),))
    """
    chains: dict[str, TransformChain] = {start: ()}
    reached = deque([start])
    while reached:
        space = reached.popleft()
        for transform in transforms:
            for here, there, inverted in (
                (transform.fixed, transform.moving, False),
                (transform.moving, transform.fixed, True),
            ):
                if here == space and there not in chains:
                    chains[there] = (*chains[space], (transform.path, inverted))
                    reached.append(there)
    return chains.get(end)


def chains_from(
    transforms: Sequence[Transform], reference: str, spaces: Mapping[str, str]
) -> dict[str, TransformChain]:
    """The chains from the reference's space to that of each file that transforms lead to. spaces: file -> its space."""
    found = {file: chain_between(transforms, reference, space) for file, space in spaces.items()}
    return {file: chain for file, chain in found.items() if chain}
