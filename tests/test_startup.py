"""The command line in an environment that lacks something, or has something that it should not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mspipeline.errors import StorageError
from tests.command_line import PROGRAM, Ended, files_below
from tests.conftest import SMALL_UNET

QUICK = ("phantom", "data", "--cases", "2", "--shape", "16", "16", "8")


def shell(redirection: str, *words: object, cwd: Path, **environment: str) -> Ended:
    """Run `mspipeline WORDS REDIRECTION` in a shell."""
    script = f'"$0" "$@" {redirection}'
    done = subprocess.run(
        ["bash", "-c", script, str(PROGRAM), *map(str, words)],
        capture_output=True,
        text=True,
        encoding="latin-1" if "latin-1" in environment.values() else "utf-8",
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(closed: str, tmp_path: Path) -> None:
    plain, ended = (
        shell(redirection, *QUICK, "--seed", "1", cwd=folder(tmp_path, name))
        for name, redirection in (("plain", ""), ("closed", closed))
    )
    assert (plain.code, ended.code) == (0, 0), ended
    assert ended.stderr == ""
    assert files_below(tmp_path / "closed") == files_below(tmp_path / "plain") != set()
    for name in files_below(tmp_path / "plain"):  # nothing that was printed went into a file
        if name.endswith(".json"):
            assert (tmp_path / "closed" / name).read_text() == (tmp_path / "plain" / name).read_text()


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_an_error_has_its_code_where_nobody_can_read_it(closed: str, tmp_path: Path) -> None:
    ended = shell(closed, "prepare", "nowhere", cwd=tmp_path)
    assert ended.code == shell("", "prepare", "nowhere", cwd=tmp_path).code != 0


@pytest.mark.parametrize("words", [("models",), ("models", "--json"), ("--version",), ("train", "--help")])
def test_results_that_stdout_does_not_take_are_an_error(words: tuple[str, ...], tmp_path: Path) -> None:
    ended = shell(">/dev/full", *words, cwd=tmp_path)
    assert ended.code == StorageError.exit_code
    assert ended.error == "stdout: cannot be written (No space left on device); send the results elsewhere"


def test_work_does_not_end_because_its_progress_cannot_be_shown(tmp_path: Path) -> None:
    assert shell("2>/dev/full", *QUICK, cwd=tmp_path).code == 0
    assert (
        shell("2>/dev/full", "prepare", "nowhere", cwd=tmp_path).code
        == shell("", "prepare", "nowhere", cwd=tmp_path).code
    )
    assert shell("| head -0; exit ${PIPESTATUS[0]}", "models", cwd=tmp_path).code == 0


ASCII = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"LC_ALL": "POSIX"},
    {"PYTHONIOENCODING": "latin-1"},
]


@pytest.mark.parametrize("environment", ASCII, ids=lambda each: " ".join(f"{k}={v}" for k, v in each.items()))
def test_letters_that_a_stream_lacks_are_written_as_escapes(environment: dict[str, str], tmp_path: Path) -> None:
    made = shell("", "phantom", "größe-日本", "--cases", "2", "--shape", "16", "16", "8", cwd=tmp_path, **environment)
    assert made.code == 0, made.stderr
    wrong = shell("", "prepare", "größe-日本-nicht", cwd=tmp_path, **environment)
    assert wrong.code in (2, 65)
    assert wrong.error.startswith(("gr", "/"))
    assert "Traceback" not in wrong.stderr
    prepared = shell(
        "",
        "prepare",
        "größe-日本",
        "-o",
        "schnitte-日本",
        "--set",
        "size=[16,16,8]",
        "--json",
        cwd=tmp_path,
        **environment,
    )
    assert prepared.code == 0, prepared.stderr
    json.loads(prepared.stdout)


@pytest.mark.parametrize(
    "environment",
    [
        {"COLUMNS": "1"},
        {"COLUMNS": "wide", "LINES": "-1"},
        {"TERM": "dumb"},
        {"TERM": ""},
        {"NO_COLOR": "1"},
        {"PYTHONOPTIMIZE": "2", "PYTHONDONTWRITEBYTECODE": "1"},
        {"PYTHONSTARTUP": "/nowhere/startup.py", "PYTHONWARNINGS": "always::DeprecationWarning:nowhere"},
        {"HOME": "/nowhere", "XDG_CACHE_HOME": "/proc/nowhere", "XDG_CONFIG_HOME": "/proc/nowhere"},
        {"NUMBA_CACHE_DIR": "/proc/nowhere", "MPLCONFIGDIR": "/proc/nowhere", "TMPDIR": "/proc/nowhere"},
    ],
    ids=" ".join,
)
def test_settings_of_terminal_python_and_home_do_not_matter(environment: dict[str, str], tmp_path: Path) -> None:
    for words in (QUICK, ("prepare", "data", "--set", "size=[16,16,8]"), ("models", "--json"), ("--help",)):
        ended = shell("", *words, cwd=tmp_path, **environment)
        assert ended.code == 0, ended
        assert ended.stderr == ""
        assert "\x1b" not in ended.stdout


def test_without_a_home_and_for_the_user_alone(tmp_path: Path) -> None:
    script = 'unset HOME USER LOGNAME; umask 077; exec "$0" phantom data --cases 2 --shape 16 16 8'
    done = subprocess.run(
        ["bash", "-c", script, str(PROGRAM)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "data").rglob("*")}
    assert modes == {0}


@pytest.mark.parametrize(
    "name", ["random", "tempfile", "queue", "statistics", "platform", "token", "typing", "sysconfig"]
)
def test_a_module_of_the_users_does_not_hide_pythons_own(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / f"mine/{name}.py").write_text("raise SystemExit('the wrong module')\n")
    for start in ([str(PROGRAM)], [sys.executable, "-P", "-m", "mspipeline"]):
        done = subprocess.run(
            [*start, "models", "unet2d", "--table"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "mine")},
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_the_module_is_the_command(tmp_path: Path) -> None:
    words = [[str(PROGRAM)], [sys.executable, "-m", "mspipeline"]]
    one, other = (
        subprocess.run([*each, "models", "--json"], capture_output=True, text=True, cwd=tmp_path, check=False)
        for each in words
    )
    assert (one.returncode, one.stdout) == (other.returncode, other.stdout)
    assert one.returncode == 0
    wrong = subprocess.run([*words[1], "models", "nosuch"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert wrong.returncode != 0
    assert wrong.stderr.startswith("error: ")


@pytest.mark.slow
@pytest.mark.usefixtures("backend_needed")
@pytest.mark.parametrize("memory", [True, False], ids=["with /dev/shm", "without"])
def test_a_training_needs_no_temporary_folder(memory: bool, small_shards: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, to make folders read-only")
    closed = ["/tmp", "/var/tmp", "/usr/tmp", *([] if memory else ["/dev/shm"]), "/"]
    script = (
        f"unset TMPDIR TEMP TMP; for place in {' '.join(closed)}; do "
        "[ ! -d $place ] || { mount --bind $place $place && mount -o remount,ro,bind $place; } || exit 99; done; "
        "mount -t tmpfs tmpfs /mnt || exit 99; cd / && "
        'exec "$0" train "$2" "$1" --epochs 1 --threads 1 -o /mnt/runs --json'
    )
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, str(PROGRAM), str(small_shards), SMALL_UNET.name],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 99:
        pytest.skip(f"cannot mount: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "complete"
