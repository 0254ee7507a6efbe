"""Which cases a folder holds. File names are all that counts here: the files are empty."""

from __future__ import annotations

import os
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mspipeline.datasets.layouts import find_cases
from mspipeline.errors import DatasetError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0")


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


LESIONS = "derivatives/lesions/sub-01/anat/sub-01"


@pytest.mark.parametrize(
    "mask",
    [
        "label-lesion_mask.nii.gz",
        "label-lesion_desc-consensus_mask.nii.gz",
        "desc-consensus_label-lesion_mask.nii.gz",
        "space-orig_label-L_desc-T1lesion_mask.nii.gz",
        "label-lesion_roi.nii",
        "label-Lesion_MASK.NII.GZ",
    ],
)
def test_a_lesion_mask_is_found_whatever_the_order_of_its_entities(tmp_path: Path, mask: str) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_FLAIR.nii.gz", f"{LESIONS}_{mask}")
    (case,) = find_cases(tmp_path, ["FLAIR"], masks="required").cases
    assert (case.lesion_mask, dict(case.mask_spaces)) == (tmp_path / f"{LESIONS}_{mask}", {})


@pytest.mark.parametrize("masks", [("label-brain_mask", "desc-brain_mask"), ("desc-brain_label-lesion_mask",)])
def test_a_lesion_mask_is_no_brain_mask(tmp_path: Path, masks: tuple[str, ...]) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_FLAIR.nii.gz", *(f"{LESIONS}_{mask}.nii.gz" for mask in masks))
    if len(masks) == 1:
        (case,) = find_cases(tmp_path, ["FLAIR"], masks="required").cases
        assert (case.lesion_mask, case.brain_mask) == (tmp_path / f"{LESIONS}_{masks[0]}.nii.gz", None)
        return
    with pytest.raises(
        DatasetError, match=r"2 files for its brain mask .* --prefer desc-brain or --prefer label-brain"
    ):
        find_cases(tmp_path, ["FLAIR"], masks="optional")
    assert find_cases(tmp_path, ["FLAIR"], masks="optional", brain=False).cases[0].brain_mask is None
    (case,) = find_cases(tmp_path, ["FLAIR"], masks="optional", prefer=["label-brain"]).cases
    assert case.brain_mask == tmp_path / f"{LESIONS}_label-brain_mask.nii.gz"


@pytest.mark.parametrize(
    ("files", "prefer", "chosen"),
    [
        (["label-lesion_desc-rater1_mask", "label-lesion_desc-rater2_mask"], (), None),
        (["label-lesion_desc-rater1_mask", "label-lesion_desc-rater2_mask"], ("desc-rater2",), 1),
        (["label-lesion_mask", "label-lesion_desc-rater2_mask"], (), 0),
        (["label-lesion_mask", "label-lesion_desc-rater2_mask"], ("desc-rater2",), 1),
        (["space-MNI152_label-lesion_mask", "label-lesion_mask"], (), 1),
        (["space-MNI152_label-lesion_mask", "label-lesion_desc-consensus_mask"], (), 1),
        (["space-MNI152_label-lesion_mask", "space-orig_label-lesion_mask"], (), 1),
        (["space-MNI152_label-lesion_mask", "space-T1w_label-lesion_mask"], (), None),
        (["space-MNI152_label-lesion_mask", "space-T1w_label-lesion_mask"], ("space-T1w",), 1),
        (["run-1_label-lesion_mask", "run-2_label-lesion_mask"], (), None),
        (["run-1_label-lesion_mask", "run-2_label-lesion_mask"], ("desc-rater2", "run-1"), 0),
    ],
)
def test_of_several_masks_one_is_chosen_by_rule_or_all_are_named(
    tmp_path: Path, files: list[str], prefer: tuple[str, ...], chosen: int | None
) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_FLAIR.nii.gz", *(f"{LESIONS}_{file}.nii.gz" for file in files))
    if chosen is None:
        with pytest.raises(DatasetError, match="sub-01: 2 files for its lesion mask") as caught:
            find_cases(tmp_path, ["FLAIR"], masks="required", prefer=prefer)
        assert all(f"{file}.nii.gz" in str(caught.value) for file in files)
        assert "choose with --prefer" in str(caught.value)
    else:
        found = find_cases(tmp_path, ["FLAIR"], masks="required", prefer=prefer)
        assert found.cases[0].lesion_mask == tmp_path / f"{LESIONS}_{files[chosen]}.nii.gz"
        assert found.warnings == [
            f"1 file not used, another file was chosen: {LESIONS}_{files[1 - chosen]}.nii.gz",
        ]


def test_two_raters_in_folders_of_their_own_are_told_apart_by_the_folder(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01")
    touch(tmp_path, "derivatives/rater2/sub-01/anat/sub-01_label-lesion_mask.nii.gz")
    with pytest.raises(DatasetError, match=r"choose with --prefer lesions or --prefer rater2, or move"):
        find_cases(tmp_path, ["FLAIR"], masks="required")
    (case,) = find_cases(tmp_path, ["FLAIR"], masks="required", prefer=["rater2"]).cases
    assert case.lesion_mask is not None
    assert "rater2" in case.lesion_mask.parts
    assert len(find_cases(tmp_path, ["FLAIR"], masks="optional").cases) == 1  # a prediction needs no truth


@pytest.mark.parametrize(
    ("second", "prefer"),
    [
        ("sub-01_run-2_FLAIR.nii.gz", "run-2"),
        ("sub-01_acq-3d_FLAIR.nii.gz", "acq-3d"),
        ("sub-01_FLAIR.nii", ".nii"),
        ("sub-01_flair.nii.gz", None),
        ("sub-01_FLAIR.NII.GZ", None),
    ],
)
def test_two_scans_of_one_modality_are_never_one_of_them_by_chance(
    tmp_path: Path, second: str, prefer: str | None
) -> None:
    bids(tmp_path, "sub-01")
    touch(tmp_path, f"sub-01/anat/{second}")
    with pytest.raises(DatasetError, match="2 files for its FLAIR") as caught:
        find_cases(tmp_path, ["FLAIR"], masks="required")
    if prefer is None:
        assert "), expected one; move the others away" in str(caught.value)
    else:
        assert f"--prefer {prefer}" in str(caught.value)
        (case,) = find_cases(tmp_path, ["FLAIR"], masks="required", prefer=[prefer]).cases
        assert case.scans["FLAIR"].name == second


@pytest.mark.parametrize("name", ["sub-01_flair.nii.gz", "sub-01_Flair.nii", "sub-01_FLAIR.NII.GZ", "FLAIR.nii.gz"])
@pytest.mark.parametrize("asked", ["FLAIR", "flair"])
def test_upper_and_lower_case_of_a_modality_do_not_matter(tmp_path: Path, name: str, asked: str) -> None:
    touch(tmp_path, f"sub-01/anat/{name}")
    (case,) = find_cases(tmp_path, [asked], masks="optional").cases
    assert case.scans[asked].name == name


def test_anat_beside_sessions_is_a_case_of_its_own(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01", "sub-02", "sub-03")
    for stem in ("sub-01/ses-2", "sub-02/ses-2"):
        name = stem.replace("/", "_")
        touch(
            tmp_path,
            f"{stem}/anat/{name}_FLAIR.nii.gz",
            f"derivatives/lesions/{stem}/anat/{name}_label-lesion_mask.nii.gz",
        )
    (tmp_path / "sub-02/anat/sub-02_FLAIR.nii.gz").unlink()  # what is left there was not asked for

    found = find_cases(tmp_path, ["FLAIR"], masks="required")

    assert [(case.id, case.subject) for case in found.cases] == [
        ("sub-01", "sub-01"),
        ("sub-01_ses-2", "sub-01"),
        ("sub-02_ses-2", "sub-02"),
        ("sub-03", "sub-03"),
    ]
    assert found.warnings == [
        "1 file not used, a lesion mask of no session or of another one than its folder: "
        "derivatives/lesions/sub-02/anat/sub-02_label-lesion_mask.nii.gz",
        "sub-01: anat/ beside ses-* folders, taken for a case of its own",
    ]
    assert found.others == {"T1w": 3}


def test_a_brain_mask_of_the_subject_serves_the_sessions_without_their_own(tmp_path: Path) -> None:
    for session in ("ses-1", "ses-2"):
        touch(tmp_path, f"sub-01/{session}/anat/sub-01_{session}_FLAIR.nii.gz")
    of_subject = "derivatives/fmriprep/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    in_mni = "derivatives/fmriprep/sub-01/anat/sub-01_space-MNI152NLin2009cAsym_res-1_desc-brain_mask.nii.gz"
    own = "derivatives/brain/sub-01/ses-2/anat/sub-01_ses-2_desc-brain_mask.nii.gz"
    touch(tmp_path, of_subject, in_mni, own)
    cases = find_cases(tmp_path, ["FLAIR"], masks="optional").cases
    assert [case.brain_mask for case in cases] == [tmp_path / of_subject, tmp_path / own]


def test_a_mask_that_names_its_session_needs_no_session_folder(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz",
        f"{LESIONS}_ses-2_label-lesion_mask.nii.gz",
    )
    found = find_cases(tmp_path, ["FLAIR"], masks="required")
    assert [case.id for case in found.cases] == ["sub-01_ses-2"]
    assert [case for case, _ in found.incomplete] == ["sub-01_ses-1"]


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("sub-01/sub-01_FLAIR.nii.gz", "not in a folder anat"),
        ("sub-01/session2/anat/sub-01_FLAIR.nii.gz", "not in a folder anat"),
        ("sub-01/anat/sub-02_FLAIR.nii.gz", "named after sub-02 in the folder of sub-01"),
        ("sub-01/anat/sub-01_FLAIR.mgz", "of the format .mgz, expected .nii or .nii.gz"),
        (f"{LESIONS}_lesionmask.nii.gz", "by the name perhaps a lesion mask, expected *_label-lesion_mask.nii.gz"),
        (f"{LESIONS}_brainmask.nii.gz", "by the name perhaps a brain mask, expected *_desc-brain_mask.nii.gz"),
        ("sub-01/anat/sub-01_brain_mask.nii.gz", "by the name perhaps a brain mask, expected *_desc-brain_mask.nii.gz"),
        ("derivatives/x/sub-01/sub-01_desc-brain_mask.nii.gz", "not in a folder anat"),
        (f"{LESIONS}_ses-9_label-lesion_mask.nii.gz", "another file was chosen"),
        ("derivatives/x/sub-01/ses-9/anat/sub-01_ses-9_label-lesion_mask.nii.gz", "of another session than its folder"),
    ],
)
def test_a_file_that_looks_as_if_it_should_be_used_is_named(tmp_path: Path, file: str, why: str) -> None:
    bids(tmp_path, "sub-01", "sub-02")
    (tmp_path / "sub-01/anat/sub-01_T1w.nii.gz").unlink()
    if "ses-9_label" in file and file.startswith(LESIONS):
        touch(tmp_path, file)
        with pytest.raises(DatasetError, match="2 files for its lesion mask"):
            find_cases(tmp_path, ["FLAIR"], masks="required")
        return
    touch(tmp_path, file)
    found = find_cases(tmp_path, ["FLAIR"], masks="required")
    assert [(name, reason.startswith(why)) for name, reason in found.unused] == [(file, True)]
    assert found.others == {"T1w": 1}


def test_folders_that_are_nearly_subjects_and_masks_without_scans_are_named(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01")
    touch(tmp_path, "Sub-02/anat/Sub-02_FLAIR.nii.gz", "sub03/anat/x.nii", "subjects.txt", "sourcedata/x.nii")
    touch(tmp_path, "derivatives/lesions/sub-09/anat/sub-09_label-lesion_mask.nii.gz")
    assert find_cases(tmp_path, ["FLAIR"], masks="required").warnings == [
        "2 files not used, its name is no subject's, expected sub-<label>: Sub-02, sub03",
        "1 file not used, of a subject without scans: derivatives/lesions/sub-09",
    ]


def test_many_files_of_one_reason_are_one_line(tmp_path: Path) -> None:
    subjects = [f"sub-{number:02d}" for number in range(1, 8)]
    bids(tmp_path, *subjects)
    touch(tmp_path, *(f"derivatives/x/{subject}/anat/{subject}_brainmask.nii.gz" for subject in subjects))
    (line,) = find_cases(tmp_path, ["FLAIR"], masks="required").warnings
    assert line.startswith("7 files not used, by the name perhaps a brain mask")
    assert line.endswith("sub-03/anat/sub-03_brainmask.nii.gz and 4 more")


def test_our_own_maps_are_no_truth_whatever_their_folder_is_called(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01")
    (tmp_path / "derivatives/lesions/dataset_description.json").write_text(
        '{"Name": "Lesion maps by unet2d", "GeneratedBy": [{"Name": "mspipeline", "Version": "0"}]}'
    )
    assert not find_cases(tmp_path, ["FLAIR"], masks="required").cases


ANNEX = "../../.git/annex/objects/zJ/Vq/MD5E-s2787022--5f.nii.gz/MD5E-s2787022--5f.nii.gz"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda scan: scan.symlink_to(ANNEX), "a git-annex link without its content: fetch it with `datalad get {}`"),
        (lambda scan: scan.symlink_to("elsewhere.nii.gz"), "a link to elsewhere.nii.gz, which is not there"),
        (lambda scan: scan.symlink_to(scan.name), "a link that leads back to itself"),
        (lambda scan: scan.mkdir(), "a folder, expected a file"),
        (os.mkfifo, "no regular file"),
        (Path.touch, "empty (0 bytes): copy it again"),
        (
            lambda scan: scan.write_text("/annex/objects/MD5E-s2787022--5f.nii.gz\n"),
            "a git-annex pointer without its content: fetch it with `datalad get {}`",
        ),
        (
            lambda scan: scan.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n"),
            "a git-lfs pointer without its content: fetch it with `git lfs pull`",
        ),
    ],
)
@pytest.mark.parametrize("what", ["FLAIR", "lesion mask", "brain mask"])
def test_a_file_that_cannot_be_read_makes_its_case_incomplete(
    tmp_path: Path, spoil: Callable[[Path], object], words: str, what: str
) -> None:
    bids(tmp_path, "sub-01", "sub-02")
    file = {
        "FLAIR": "sub-01/anat/sub-01_FLAIR.nii.gz",
        "lesion mask": f"{LESIONS}_label-lesion_mask.nii.gz",
        "brain mask": f"{LESIONS}_desc-brain_mask.nii.gz",
    }[what]
    (tmp_path / file).unlink(missing_ok=True)
    spoil(tmp_path / file)
    found = find_cases(tmp_path, ["FLAIR"], masks="required")
    assert [case.id for case in found.cases] == ["sub-02"]
    ((case, reason),) = found.incomplete
    assert (case, reason.startswith(f"its {what} {tmp_path / file} is ")) == ("sub-01", True)
    assert words.format(tmp_path / file) in reason


def test_links_to_files_and_folders_that_are_there_are_followed(tmp_path: Path) -> None:
    bids(tmp_path / "store", "sub-01", "sub-02")
    (tmp_path / "linked").mkdir()
    for name in ("sub-01", "derivatives"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "store" / name)
    (tmp_path / "linked/sub-02/anat").mkdir(parents=True)
    flair = "sub-02/anat/sub-02_FLAIR.nii.gz"
    (tmp_path / "linked" / flair).symlink_to(tmp_path / "store" / flair)
    (tmp_path / "linked/sub-01/anat/loop").symlink_to(tmp_path / "linked/sub-01")
    (tmp_path / "linked/sub-03").symlink_to("nowhere")
    (tmp_path / "dataset").symlink_to(tmp_path / "linked")

    found = find_cases(tmp_path / "dataset", ["FLAIR"], masks="required")

    assert [case.id for case in found.cases] == ["sub-01", "sub-02"]
    assert found.cases[1].scans["FLAIR"] == tmp_path / "dataset" / flair
    ((case, reason),) = found.incomplete
    assert (case, "sub-03 is a link to nowhere, which is not there" in reason) == ("sub-03", True)


def test_a_dataset_that_is_a_link_to_nothing_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name, words in (("broken", "is a link to nowhere, which is not there"), ("loop", "leads back to itself")):
        with pytest.raises(DatasetError, match=words):
            find_cases(tmp_path / name, ["FLAIR"], masks="required")


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
@pytest.mark.parametrize("what", ["", "sub-01", "sub-01/anat", "derivatives", "derivatives/lesions/sub-01"])
def test_a_folder_that_may_not_be_read_is_no_empty_one(what: str, mode: int) -> None:
    with closed_to_the_user(what, mode) as folder:
        if what in ("", "derivatives"):
            with pytest.raises(DatasetError, match=r"cannot be read \(Permission denied\).*chmod u\+rx"):
                find_cases(folder, ["FLAIR"], masks="required")
            return
        found = find_cases(folder, ["FLAIR"], masks="required")
    assert [case.id for case in found.cases] == ["sub-02"]
    ((case, reason),) = found.incomplete
    assert (case, str(folder / what) in reason, "(Permission denied)" in reason) == ("sub-01", True, True)


@pytest.mark.parametrize("what", ["sub-01/anat/sub-01_FLAIR.nii.gz", f"{LESIONS}_label-lesion_mask.nii.gz"])
def test_a_file_that_may_not_be_read_makes_its_case_incomplete(what: str) -> None:
    with closed_to_the_user(what, 0o000) as folder:
        found = find_cases(folder, ["FLAIR"], masks="required")
    assert [case.id for case in found.cases] == ["sub-02"]
    ((case, reason),) = found.incomplete
    assert (case, f"{folder / what} is not readable (Permission denied): `chmod u+r` it" in reason) == ("sub-01", True)


@contextmanager
def closed_to_the_user(what: str, mode: int) -> Iterator[Path]:
    """A dataset of two subjects, one part of which has this mode; inside, root is somebody else, as modes bind."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # pytest's own folders are closed to others
        Path(place).chmod(0o755)
        folder = bids(Path(place) / "dataset", "sub-01", "sub-02")
        was, user = (folder / what).stat().st_mode, os.geteuid()
        (folder / what).chmod(mode)
        if user == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(user)
            (folder / what).chmod(was)


def test_names_that_are_not_utf8_and_control_characters_are_written_reversibly(tmp_path: Path) -> None:
    latin = os.fsdecode(b"sub-M\xfcller")
    bids(tmp_path, latin, "sub-Müller", "sub-a\nb")
    touch(tmp_path, f"derivatives/x/{latin}/anat/{latin}_brainmask.nii.gz")
    found = find_cases(tmp_path, ["FLAIR"], masks="required")
    assert [(case.id, case.subject) for case in found.cases] == [(name, name) for name in NAMES]
    assert sorted(urllib.parse.unquote_to_bytes(name) for name in NAMES) == sorted(
        [b"sub-M\xfcller", "sub-Müller".encode(), b"sub-a\nb"]
    )
    assert found.cases[NAMES.index("sub-M%FCller")].scans["FLAIR"].exists()
    assert "derivatives/x/sub-M%FCller/anat/sub-M%FCller_brainmask.nii.gz" in found.warnings[0]


NAMES = ["sub-Müller", "sub-M%FCller", "sub-a%0Ab"]


def test_two_subjects_whose_printed_names_are_one_are_refused(tmp_path: Path) -> None:
    bids(tmp_path, os.fsdecode(b"sub-M\xfcller"), "sub-M%FCller")
    with pytest.raises(DatasetError, match="several folders give a case sub-M%FCller"):
        find_cases(tmp_path, ["FLAIR"], masks="required")


@pytest.mark.parametrize("subject", ["sub-C:\\data\\01", "sub-a b ", "sub-[x]*?", "sub-01%", "sub-" + "x" * 190])
def test_odd_names_are_names(tmp_path: Path, subject: str) -> None:
    (case,) = find_cases(bids(tmp_path, subject), ["FLAIR"], masks="required").cases
    assert (case.id, case.scans["FLAIR"].parent.parent.name) == (subject, subject)


def test_a_name_that_leaves_no_room_for_endings_is_refused(tmp_path: Path) -> None:
    (tmp_path / ("sub-" + "x" * 200)).mkdir()
    with pytest.raises(DatasetError, match="a name of 204 bytes, expected at most 200"):
        find_cases(tmp_path, ["FLAIR"], masks="required")


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
