"""Which cases a folder holds. File names are all that counts here: the files are empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from mspipeline.datasets.bids import find_cases
from mspipeline.errors import DatasetError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def bids(root: Path, *subjects: str) -> Path:
    for subject in subjects:
        touch(
            root,
            f"{subject}/anat/{subject}_FLAIR.nii.gz",
            f"{subject}/anat/{subject}_T1w.nii.gz",
            f"derivatives/lesions/{subject}/anat/{subject}_label-lesion_mask.nii.gz",
        )
    return root


def test_subjects_come_in_order_with_the_modalities_asked_for_and_their_masks(tmp_path: Path) -> None:
    bids(tmp_path, "sub-02", "sub-01")
    touch(tmp_path, "derivatives/brain/sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    (tmp_path / "dataset_description.json").write_text('{"Name": "Two heads", "BIDSVersion": "1.9.0"}')

    found = find_cases(tmp_path, ["FLAIR"], masks="required")

    assert (found.dataset_name, found.layout, found.incomplete) == ("Two heads", "bids", ())
    first, second = found.cases
    assert (first.id, first.subject, first.session) == ("sub-01", "sub-01", None)
    assert first.scans == {"FLAIR": tmp_path / "sub-01/anat/sub-01_FLAIR.nii.gz"}
    assert first.lesion_mask == tmp_path / "derivatives/lesions/sub-01/anat/sub-01_label-lesion_mask.nii.gz"
    assert first.brain_mask == tmp_path / "derivatives/brain/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    assert (second.id, second.brain_mask) == ("sub-02", None)


def test_our_own_predictions_are_no_truth(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01", "sub-02")
    for subject in ("sub-01", "sub-02"):
        touch(tmp_path, f"derivatives/mspipeline-unet2d/{subject}/anat/{subject}_label-lesion_mask.nii.gz")
    drawn = tmp_path / "derivatives/lesions/sub-02/anat/sub-02_label-lesion_mask.nii.gz"
    (tmp_path / "derivatives/lesions/sub-01/anat/sub-01_label-lesion_mask.nii.gz").unlink()

    found = find_cases(tmp_path, ["FLAIR"], masks="required")

    assert [(case.id, case.lesion_mask) for case in found.cases] == [("sub-02", drawn)]
    assert [case for case, _ in found.incomplete] == ["sub-01"]


def test_each_session_is_a_case_of_its_subject(tmp_path: Path) -> None:
    for session in ("ses-1", "ses-2"):
        stem = f"sub-01_{session}"
        touch(
            tmp_path,
            f"sub-01/{session}/anat/{stem}_FLAIR.nii",
            f"derivatives/x/sub-01/{session}/anat/{stem}_label-lesion_mask.nii",
        )

    cases = find_cases(tmp_path, ["FLAIR"], masks="required").cases

    assert [(case.id, case.subject, case.session) for case in cases] == [
        ("sub-01_ses-1", "sub-01", "ses-1"),
        ("sub-01_ses-2", "sub-01", "ses-2"),
    ]
    assert [case.lesion_mask.parent.parent.name for case in cases if case.lesion_mask] == ["ses-1", "ses-2"]


def test_other_entities_in_a_name_are_tolerated(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sub-01/anat/sub-01_acq-3d_run-1_FLAIR.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_space-FLAIR_label-lesion_mask.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_space-FLAIR_label-brain_mask.nii.gz",
    )
    (case,) = find_cases(tmp_path, ["FLAIR"], masks="required").cases
    assert case.scans["FLAIR"].name == "sub-01_acq-3d_run-1_FLAIR.nii.gz"
    assert case.lesion_mask is not None
    assert case.brain_mask is not None


def test_two_runs_of_one_modality_are_refused_by_name_with_what_to_do(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01")
    touch(tmp_path, "sub-01/anat/sub-01_run-2_FLAIR.nii.gz")
    with pytest.raises(DatasetError, match=r"sub-01: 2 files for its FLAIR \(.*run-2_FLAIR.*\).*move the others away"):
        find_cases(tmp_path, ["FLAIR"], masks="required")


def test_two_runs_of_a_modality_not_asked_for_do_not_matter(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01")
    touch(tmp_path, "sub-01/anat/sub-01_run-2_T1w.nii.gz")
    assert len(find_cases(tmp_path, ["FLAIR"], masks="required").cases) == 1


def test_a_contrast_enhanced_t1_is_no_t1w(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01", "sub-02")
    touch(tmp_path, "sub-01/anat/sub-01_ce-gadolinium_T1w.nii.gz", "sub-02/anat/sub-02_ce-gadolinium_T1w.nii.gz")
    (tmp_path / "sub-02/anat/sub-02_T1w.nii.gz").unlink()

    found = find_cases(tmp_path, ["T1w"], masks="required")

    assert [case.scans["T1w"].name for case in found.cases] == ["sub-01_T1w.nii.gz"]
    assert found.incomplete == (("sub-02", "no T1w (has FLAIR, T1w (contrast-enhanced))"),)


def test_a_mask_with_a_desc_entity_yields_to_the_plain_one(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01")
    touch(tmp_path, "derivatives/mspipeline/sub-01/anat/sub-01_desc-unet2d_label-lesion_mask.nii.gz")
    (case,) = find_cases(tmp_path, ["FLAIR"], masks="required").cases
    assert case.lesion_mask is not None
    assert case.lesion_mask.name == "sub-01_label-lesion_mask.nii.gz"


def test_a_missing_modality_is_incomplete_and_says_what_is_there(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01", "sub-02")
    touch(tmp_path, "sub-01/anat/sub-01_T2w.nii.gz")
    found = find_cases(tmp_path, ["FLAIR", "T2w"], masks="required")
    assert [case.id for case in found.cases] == ["sub-01"]
    assert found.incomplete == (("sub-02", "no T2w (has FLAIR, T1w)"),)


def test_a_subject_without_scans_is_not_passed_over(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01")
    touch(tmp_path, "sub-02/func/sub-02_bold.nii.gz")
    assert find_cases(tmp_path, ["FLAIR"], masks="required").incomplete == (("sub-02", "no FLAIR (has no scan)"),)


def test_a_missing_lesion_mask_counts_only_where_masks_are_required(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_FLAIR.nii.gz")
    required = find_cases(tmp_path, ["FLAIR"], masks="required")
    optional = find_cases(tmp_path, ["FLAIR"], masks="optional")
    assert required.cases == ()
    assert "no lesion mask (derivatives/*/sub-01/" in required.incomplete[0][1]
    assert [(case.id, case.lesion_mask) for case in optional.cases] == [("sub-01", None)]


def test_a_dataset_without_a_description_takes_its_folders_name(tmp_path: Path) -> None:
    assert find_cases(bids(tmp_path / "heads", "sub-01"), ["FLAIR"], masks="required").dataset_name == "heads"


@pytest.mark.parametrize("data", [b'{"Name": ', b"\xff\xfe{", bytes(10)])
def test_a_broken_description_is_named_and_the_scans_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    bids(tmp_path / "heads", "sub-01")
    (tmp_path / "heads/dataset_description.json").write_bytes(data)
    found = find_cases(tmp_path / "heads", ["FLAIR"], masks="required")
    assert (found.dataset_name, len(found.cases)) == ("heads", 1)
    assert "dataset_description.json: not a readable BIDS description" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_description_in_another_encoding_keeps_its_name(tmp_path: Path, encoding: str) -> None:
    bids(tmp_path, "sub-01")
    (tmp_path / "dataset_description.json").write_bytes('{"Name": "Hôpital"}'.encode(encoding))
    assert find_cases(tmp_path, ["FLAIR"], masks="required").dataset_name == "Hôpital"


def test_a_folder_of_something_else_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    touch(tmp_path, "photos/cat.jpg", "notes.txt")
    with pytest.raises(DatasetError, match=r"not a BIDS dataset: no folder sub-\*.*found notes\.txt, photos"):
        find_cases(tmp_path, ["FLAIR"], masks="required")


def test_an_empty_folder_a_file_and_no_folder_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path, "file")
    (tmp_path / "empty").mkdir()
    for name, words in (("empty", "found nothing"), ("file", "a file, expected"), ("absent", "no such folder")):
        with pytest.raises(DatasetError, match=words):
            find_cases(tmp_path / name, ["FLAIR"], masks="required")


OPEN_MS = "_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz"


def open_ms(root: Path) -> Path:
    for patient in ("patient07", "patient26"):
        folder = f"cross_sectional/MNI/{patient}"
        touch(
            root,
            *(f"{folder}/{scan}{OPEN_MS}" for scan in ("FLAIR", "T1", "T1POST", "T1KS", "T2")),
            f"{folder}/GOLD_STANDARD_N4_noneck_reduced_winsor_regtoFLAIR_regtoMNI.nii.gz",
        )
    return root


@pytest.mark.parametrize("below", [".", "cross_sectional", "cross_sectional/MNI"])
def test_the_open_ms_repository_is_read_from_any_of_its_levels(tmp_path: Path, below: str) -> None:
    found = find_cases(open_ms(tmp_path) / below, ["FLAIR", "T1w", "T2w"], masks="required")
    assert (found.layout, [case.id for case in found.cases]) == ("open-ms", ["sub-patient07", "sub-patient26"])
    case = found.cases[0]
    assert {name: path.name for name, path in case.scans.items()} == {
        "FLAIR": f"FLAIR{OPEN_MS}",
        "T1w": f"T1{OPEN_MS}",
        "T2w": f"T2{OPEN_MS}",
    }
    assert case.lesion_mask is not None
    assert case.lesion_mask.name.startswith("GOLD_STANDARD")


def test_an_open_ms_patient_without_flair_is_incomplete_not_forgotten(tmp_path: Path) -> None:
    open_ms(tmp_path)
    (tmp_path / f"cross_sectional/MNI/patient26/FLAIR{OPEN_MS}").unlink()
    found = find_cases(tmp_path, ["FLAIR"], masks="required")
    assert found.incomplete == (("sub-patient26", "no FLAIR (has T1w, T1w (contrast-enhanced), T2w)"),)


@pytest.mark.real
def test_the_real_cases_are_found_and_the_one_without_t2w_is_named(real_data: Path) -> None:
    found = find_cases(real_data / "ms", ["FLAIR", "T2w"], masks="required")
    assert [case.id for case in found.cases] == ["sub-openms07", "sub-openms26"]
    assert found.incomplete == (("sub-msseg18", "no T2w (has FLAIR, T1w)"),)
