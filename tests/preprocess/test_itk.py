"""ITK's transform files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import io

from mspipeline.errors import DatasetError
from mspipeline.preprocess.itk import read_affine

HEAD = "#Insight Transform File V1.0\n#Transform 0\n"
KIND = "Transform: MatrixOffsetTransformBase_double_3_3\n"
# A quarter turn about the z axis through the point (10, 0, 0), then 1, 2, 3 mm on; all in LPS.
TURN = "Parameters: 0 -1 0 1 0 0 0 0 1 1 2 3\nFixedParameters: 10 0 0\n"


def lps(affine: np.ndarray, *point: float) -> list[float]:
    """Where an affine in RAS takes a point in LPS."""
    x, y, z = point
    moved = affine @ [-x, -y, z, 1]
    return [-moved[0], -moved[1], moved[2]]


@pytest.mark.parametrize("ending", ["txt", "tfm", "mat"])
def test_a_point_is_turned_about_the_centre_and_moved(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"turn.{ending}"
    if ending == "mat":
        numbers = np.array([0, -1, 0, 1, 0, 0, 0, 0, 1, 1, 2, 3], float)
        io.savemat(
            path, {"AffineTransform_double_3_3": numbers[:, None], "fixed": np.array([[10.0], [0], [0]])}, format="4"
        )
    else:
        path.write_text(HEAD + KIND + TURN)
    affine = read_affine(path)
    # The centre stays but for the shift; 5 mm to its left goes to 5 mm behind it.
    assert lps(affine, 10, 0, 0) == pytest.approx([11, 2, 3])
    assert lps(affine, 15, 0, 0) == pytest.approx([11, 7, 3])
    assert lps(affine, 10, 0, 4) == pytest.approx([11, 2, 7])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 3\n", "not an ITK transform .*does not begin with '#Insight Transform File'"),
        ("", "not an ITK transform"),
        (HEAD + KIND, "not an ITK transform .*'Parameters'"),
        (HEAD + KIND + "Parameters: 1 2 3\nFixedParameters: 0 0 0\n", "3 parameters and 3 fixed ones, expected 12"),
        (HEAD + KIND + TURN.replace("-1", "one"), "not an ITK transform .*'one'"),
        (HEAD + KIND + TURN.replace("-1", "nan"), "expected 12 finite numbers"),
        (HEAD + KIND + TURN + "#Transform 1\n" + KIND + TURN, "holds 2 transforms, expected one"),
        (
            HEAD + KIND.replace("MatrixOffsetTransformBase", "BSplineTransform") + TURN,
            "of type BSplineTransform_double",
        ),
        (HEAD + KIND + TURN.replace("0 -1 0 1", "0 0 0 0"), "singular"),
    ],
)
def test_what_is_no_affine_transform_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "sub-01_from-T1w_to-FLAIR_mode-image_xfm.txt"
    path.write_text(text)
    with pytest.raises(DatasetError, match=rf"xfm\.txt: .*{words}") as raised:
        read_affine(path)
    assert "\n" not in str(raised.value)


def test_a_mat_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(b"0" * 300)
    with pytest.raises(DatasetError, match=r"a\.mat: not an ITK transform"):
        read_affine(path)
    with pytest.raises(DatasetError, match=r"none\.txt: not an ITK transform .*No such file"):
        read_affine(tmp_path / "none.txt")
