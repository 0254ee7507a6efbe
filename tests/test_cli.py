"""What the command line says, in words and in JSON, and how it starts and ends."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mspipeline.console import explain
from mspipeline.datasets.phantom import make_phantom
from mspipeline.errors import BackendError, Interrupted
from tests.command_line import PROGRAM, Ended, files_below, run

COMMANDS = (
    *("phantom", "prepare", "train", "evaluate", "predict", "sweep"),
    *("resume", "cancel", "status", "logs", "collect", "report", "models"),
    *("certify", "import-weights", "export", "import", "doctor", "image"),
)
HEAVY = {"tensorflow", "keras", "numpy", "scipy", "pyarrow", "h5py", "nibabel", "rich", "submitit"}
"""Not pydantic: Typer itself loads it."""

HELP = """
import json, sys
from mspipeline.cli import main
sys.argv = ["mspipeline", *sys.argv[1:], "--help"]
try:
    main()
except SystemExit as end:
    modules = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps([end.code, modules]), file=sys.stderr)
"""


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=lambda words: " ".join(words) or "-")
def test_help_ends_in_an_example_and_loads_nothing_heavy(command: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-c", HELP, *command], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stderr)
    assert code == 0
    last = done.stdout.rstrip().rpartition("\n\n")[2].strip()
    assert last.startswith(f"example: {' '.join(['mspipeline', *command])}")
    assert not HEAVY & set(modules)


def test_every_command_is_tested_here() -> None:
    words = run("--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in words.splitlines()] == list(COMMANDS)


def test_a_misspelt_command_or_option_is_a_usage_error_with_the_nearest_one() -> None:
    misspelt = run("trian")
    assert (misspelt.code, misspelt.stdout) == (2, "")
    assert "Did you mean 'train'?" in misspelt.stderr
    assert run("prepare", "x", "--nope").code == 2
    assert run("train").code == 2
    assert run().code == 2


def test_what_nobody_foresaw_is_one_line_with_code_70_and_a_traceback_on_demand(tmp_path: Path) -> None:
    command = ("phantom", "heads", "--shape", 100_000, 100_000, 100_000)  # more memory than any machine has
    ended = run(*command, cwd=tmp_path)
    assert ended.code == 70
    assert ended.error.startswith("MemoryError: Unable to allocate")
    assert ended.error.endswith("; run with --debug for a traceback")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_anywhere_on_the_line_shows_the_traceback_and_keeps_the_code(tmp_path: Path, place: int) -> None:
    words = ["prepare", "nowhere"]
    words.insert(place, "--debug")
    ended = run(*words, cwd=tmp_path)
    assert ended.code == 65
    assert ended.stderr.startswith("Traceback (most recent call last):")
    assert ended.stderr.splitlines()[-1] == "error: nowhere: no such folder, expected a BIDS dataset"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BackendError("no [such] backend"), 69, "error: no [such] backend"),
        (Interrupted("stopped"), 130, "error: stopped"),
        (KeyError("x"), 70, "error: KeyError: 'x'; run with --debug for a traceback"),
        (ValueError("two\nlines"), 70, "error: ValueError: two lines; run with --debug for a traceback"),
        (OSError(errno.ENOSPC, "No space"), 74, "error: [Errno 28] No space; run with --debug for a traceback"),
        (FileNotFoundError(2, "No file", "x"), 2, "error: [Errno 2] No file: 'x'; run with --debug for a traceback"),
        (KeyboardInterrupt(), 130, "error: stopped by Ctrl-C; what was written is whole; run the same command again"),
    ],
)
def test_an_error_has_its_code_and_its_line(
    capfd: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert explain(error, debug=False) == code
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith(line)


INTERRUPTED = """
import os, runpy, signal, sys
program, module, sys.argv = sys.argv[1], sys.argv[2], [sys.argv[1], *sys.argv[3:]]

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
if program == "jobs":
    runpy.run_module("mspipeline.jobs", run_name="__main__", alter_sys=True)
from mspipeline.cli import main
main()
"""


@pytest.mark.parametrize(
    ("program", "module"),
    [
        *(
            ("mspipeline", module)
            for module in ("mspipeline.commands", "typer", "typer.main", "mspipeline.jobs.work.prepare", "numpy")
        ),
        *(("mspipeline", module) for module in ("pydantic", "rich.console", "nibabel", "h5py", "mspipeline.volume")),
        *(
            ("jobs", module)
            for module in (
                "mspipeline.jobs.process.launch",
                "numpy",
                "pyarrow",
                "rich.console",
                "mspipeline.jobs.work.prepare",
            )
        ),
    ],
)
def test_ctrl_c_while_a_command_starts_is_one_line(tmp_path: Path, program: str, module: str) -> None:
    (tmp_path / "job.toml").write_text('dataset = "nowhere"\noutput = "shards"\n')
    words = ("prepare", "job.toml") if program == "jobs" else ("prepare", "nowhere")
    command = [sys.executable, "-c", INTERRUPTED, program, module, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 130
    assert "stopped by Ctrl-C" in Ended(130, done.stdout, done.stderr).error


@pytest.mark.parametrize("words", ["models", "models --json", "--help"])
def test_a_reader_that_leaves_early_is_no_error(words: str) -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{PROGRAM} {words} | true"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_json_is_plain_even_where_colours_are_forced() -> None:
    plain, coloured = run("models", "--json"), run("models", "--json", FORCE_COLOR="1")
    assert plain.stdout == coloured.stdout
    assert "unet2d" in {model["name"] for model in json.loads(plain.stdout)}


def test_a_full_pipe_of_results_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [PROGRAM, "models", "--json"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 74
    assert done.stderr.startswith("error: stdout: cannot be written (No space left on device)")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of three heads, the second of them healthy, in a folder with an unusual name; nothing prepared yet."""
    folder = tmp_path_factory.mktemp("story") / "Läsionen [alt] : Δ 1"
    make_phantom(folder / "scans", cases=3, shape=(32, 32, 16))
    mask = folder / "scans/derivatives/lesions/sub-02/anat/sub-02_label-lesion_mask.nii.gz"
    image = nib.nifti1.load(mask)
    nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine).to_filename(mask)
    (folder / "split.toml").write_text('train = ["sub-01"]\nvalidation = ["sub-02"]\ntest = ["sub-03"]\n')
    # No probability gets there: nothing is predicted, so Dice is 0 where there are lesions and undefined elsewhere.
    (folder / "settings.toml").write_text("epochs = 1\nthreshold = 0.999999\n")
    return folder


def plain_json(ended: Ended) -> Any:
    """What a command printed as JSON; nothing else may be on stdout, and no error on stderr."""
    assert ended.code == 0, ended.stderr
    assert "error" not in ended.stderr
    return json.loads(ended.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.mark.slow
@pytest.mark.usefixtures("backend_needed")
def test_from_scans_to_report_every_json_output_is_json_alone(story: Path) -> None:
    manifest = plain_json(
        run("prepare", "scans", "--set", "size=[32,32,16]", "--split", "split.toml", "--json", cwd=story)
    )
    assert [entry["lesion_voxels"] > 0 for entry in manifest["cases"]] == [True, False, True]

    train = ("train", "unet2d", "shards", "--config", "settings.toml", "--set", "base_width=2")
    trained = run(*train, "--json", cwd=story)
    record = plain_json(trained)
    assert (record["status"], record["epochs"]) == ("complete", 1)
    assert "validation loss" in trained.stderr
    assert "Dice -" in trained.stderr  # the one validation case is healthy, and nothing was predicted
    again = run(*train, cwd=story)
    assert (again.code, again.stderr) == (0, "")
    assert "validation Dice -" in again.stdout

    rows = plain_json(run("evaluate", record["run_folder"], "shards", "--json", cwd=story))
    assert [(row["case"], row["subset"], row["dice"]) for row in rows] == [
        ("sub-02", "validation", None),
        ("sub-03", "test", 0.0),
    ]
    assert rows[0]["truth_ml"] == rows[0]["prediction_ml"] == 0.0

    counts = plain_json(run("collect", "runs", "--json", cwd=story))
    assert (counts["runs"], counts["epochs"], counts["cases"]) == (1, 2, 2)
    comparison = plain_json(run("report", "tables", "--json", cwd=story))
    assert comparison["page"] == "report.html"
    assert (story / "report.html").stat().st_size > 10_000
    assert not [name for name in files_below(story) if name.endswith(".partial")]


def test_an_undefined_dice_is_shown_as_a_dash(tmp_path: Path) -> None:
    from mspipeline.runs import RunPaths, write_rows
    from mspipeline.tables.schema import CASES

    row = dict.fromkeys(CASES.names) | {"run_id": "r", "case": "sub-02", "subset": "test", "checkpoint": "best"}
    scores = ("dice", "iou", "precision", "recall", "specificity", "volume_error_percent", "truth_ml", "prediction_ml")
    write_rows(RunPaths(tmp_path).cases, [row | {name: float("nan") for name in scores}], CASES)
    shown = print_cases_of(tmp_path, "best")
    assert shown.splitlines()[3].split() == ["sub-02", "test", *["-"] * 8]
    assert "median" not in shown
    assert "truth: not known of 1 case that an earlier version scored" in shown


def print_cases_of(folder: Path, checkpoint: str) -> str:
    code = f"print_cases(Path({str(folder)!r}), checkpoint={checkpoint!r}, as_json=False)"
    code = f"from pathlib import Path; from mspipeline.commands.display import print_cases; {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_evaluate_shows_the_cases_of_its_checkpoint_and_what_they_were_scored_against(tmp_path: Path) -> None:
    from mspipeline.runs import RunPaths, write_rows
    from mspipeline.tables.schema import CASES

    scores = ("dice", "iou", "precision", "recall", "specificity", "volume_error_percent", "truth_ml", "prediction_ml")
    row = dict.fromkeys(CASES.names) | {"run_id": "r", "subset": "test"} | dict.fromkeys(scores, 0.5)
    rows = [
        row | {"case": case, "checkpoint": checkpoint, "truth": truth}
        for case, checkpoint, truth in (
            ("sub-01", "best", "as drawn"),
            ("sub-01", "last", "as drawn"),
            ("sub-02", "last", "headers"),
            ("sub-03", "last", "as drawn"),
        )
    ]
    write_rows(RunPaths(tmp_path).cases, rows, CASES)
    best, last = (" ".join(print_cases_of(tmp_path, checkpoint).split()) for checkpoint in ("best", "last"))
    assert "sub-02" not in best
    assert best.endswith("truth: each case's mask as it was drawn, on the scan's own grid (1 case)")
    assert "test: median Dice 0.500 over 3 cases" in last
    assert last.endswith(
        "truth: each case's mask as it was drawn, on the scan's own grid (2 cases); masks drawn on another grid and "
        "resampled onto the scan's (sub-02 by headers)"
    )


def test_status_and_doctor_print_json_alone(small_shards: Path, tmp_path: Path) -> None:
    from mspipeline.campaigns.campaign import Campaign
    from mspipeline.campaigns.site_file import load_site
    from mspipeline.campaigns.sweep import Matrix, Sweep

    sweep = Sweep(name="tiny", matrix=Matrix(model=("unet2d",), seed=(0, 1)))
    Campaign.create(tmp_path / "campaign", sweep, small_shards, load_site("local"))
    states = plain_json(run("status", tmp_path / "campaign", "--json"))
    assert [(state["id"], state["state"]) for state in states] == [
        ("unet2d-tensorflow-s0", "pending"),
        ("unet2d-tensorflow-s1", "pending"),
    ]
    findings = plain_json(run("doctor", "--json"))
    assert {"Python", "machine", "disk", "GPU"} <= {finding["what"] for finding in findings}
    assert all(finding["remedy"] for finding in findings if finding["state"] != "ok")


def test_shards_made_again_are_told_on_stderr(small_dataset: Path, small_shards: Path, tmp_path: Path) -> None:
    shards = shutil.copytree(small_shards, tmp_path / "shards")
    (shards / "cases/sub-02.h5").write_bytes(b"broken")
    ended = run("prepare", small_dataset, "--set", "size=[32,32,16]", "-o", shards, "--json")
    assert plain_json(ended)["cases"]
    assert ended.stderr.splitlines() == ["shard made again case=sub-02: it has changed since it was written"]


def test_python_m_mspipeline_is_the_program() -> None:
    module, program = (
        subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
        for command in ([sys.executable, "-m", "mspipeline"], [str(PROGRAM)])
    )
    assert module == program
    assert module.startswith("mspipeline ")
