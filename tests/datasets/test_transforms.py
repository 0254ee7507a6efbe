"""Which transforms a case has, and the way from one space to another."""

from __future__ import annotations

from pathlib import Path

import pytest

from mspipeline.datasets.layouts import find_cases
from mspipeline.datasets.transforms import Transform, chain_between, named_transforms
from mspipeline.errors import DatasetError

RAW = (
    "study1_FLAIR.nii.gz",
    "study1_T1W.nii.gz",
    "study1_T2W.nii.gz",
    "study1_T1W_intrastudy_to_FLAIR.txt",
    "study1_T2W_intrastudy_to_FLAIR.txt",
    "study1_FLAIR_to_common_space.txt",
    "brainmask_commonspace.nii.gz",
    "gt_commonspace.nii.gz",
)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0")
    return folder


def test_names_tell_which_space_a_transform_leads_to() -> None:
    found = named_transforms(
        [
            Path("sub-01_from-T1w_to-FLAIR_mode-image_xfm.mat"),
            Path("sub-01_FLAIR.json"),
            Path("study1_FLAIR_to_common_space.txt"),
            Path("study2_T2W_intrastudy_to_FLAIR.txt"),
        ]
    )
    assert [(transform.moving, transform.fixed) for transform in found] == [
        ("FLAIR", "common"),
        ("T2w", "FLAIR"),
        ("T1w", "FLAIR"),
    ]


def test_a_route_goes_with_and_against_transforms() -> None:
    a, b = Path("a"), Path("b")
    transforms = [Transform("T1w", "FLAIR", a), Transform("FLAIR", "common", b)]
    assert chain_between(transforms, "FLAIR", "T1w") == ((a, False),)
    assert chain_between(transforms, "common", "T1w") == ((b, False), (a, False))
    assert chain_between(transforms, "T1w", "common") == ((a, True), (b, True))
    assert chain_between(transforms, "FLAIR", "FLAIR") == ()
    assert chain_between(transforms, "FLAIR", "T2w") is None


@pytest.mark.parametrize("below", [".", "patient05", "longitudinal/raw/patient05"])
def test_raw_open_ms_scans_are_a_session_each_study(tmp_path: Path, below: str) -> None:
    folder = touch(tmp_path / "raw-5", *(f"{below}/{name}" for name in RAW), f"{below}/study2_FLAIR.nii.gz")
    found = find_cases(folder, ["FLAIR", "T1w"], masks="optional")
    patient = "raw5" if below == "." else "patient05"
    assert found.layout == "open-ms-raw"
    assert [case.id for case in found.cases] == [f"sub-{patient}_ses-study1"]
    assert found.incomplete == ((f"sub-{patient}_ses-study2", "no T1w (has FLAIR)"),)
    (case,) = found.cases
    assert (case.scans["T1w"].name, case.brain_mask and case.brain_mask.name) == (
        RAW[1],
        "brainmask_commonspace.nii.gz",
    )
    chains = {name: [(path.name, back) for path, back in way] for name, way in case.transform_chains("FLAIR").items()}
    assert chains == {
        "T1w": [("study1_T1W_intrastudy_to_FLAIR.txt", False)],
        "brain": [("study1_FLAIR_to_common_space.txt", True)],
        "lesions": [("study1_FLAIR_to_common_space.txt", True)],
    }
    assert case.transform_chains(None) == {}


def test_a_mask_of_changed_lesions_is_no_lesion_mask_unless_asked_for(tmp_path: Path) -> None:
    folder = touch(tmp_path, *RAW)
    found = find_cases(folder, ["FLAIR"], masks="required")
    assert not found.cases
    assert "no lesion mask (gt*.nii.gz marks only lesions that changed" in found.incomplete[0][1]
    assert "--change-mask" in found.incomplete[0][1]
    (case,) = find_cases(folder, ["FLAIR"], masks="required", change_masks=True).cases
    assert case.lesion_mask == folder / "gt_commonspace.nii.gz"
    touch(folder, "gt_other.nii.gz")
    with pytest.raises(DatasetError, match=r"2 files for its lesion mask \(gt\*\)"):
        find_cases(folder, ["FLAIR"], masks="required", change_masks=True)


def test_bids_transforms_and_the_space_of_a_mask_are_found(tmp_path: Path) -> None:
    anat, derived = "sub-01/anat/sub-01", "derivatives/lesions/sub-01/anat/sub-01"
    folder = touch(
        tmp_path,
        f"{anat}_FLAIR.nii.gz",
        f"{anat}_T1w.nii.gz",
        f"{derived}_from-T1w_to-FLAIR_mode-image_xfm.txt",
        f"{derived}_space-T1w_label-lesion_mask.nii.gz",
    )
    (case,) = find_cases(folder, ["FLAIR", "T1w"], masks="required").cases
    steps = ((folder / f"{derived}_from-T1w_to-FLAIR_mode-image_xfm.txt", False),)
    assert case.transform_chains("FLAIR") == {"T1w": steps, "lesions": steps}
