from __future__ import annotations

from pathlib import Path

import pytest

from mspipeline.config import EvaluateJob, Strict, TrainingSettings, TrainJob, parse, parse_assignments, read_config
from mspipeline.errors import ConfigError

TRAIN = """
shards = "shards"
run_folder = "run"
[model]
name = "unet2d"
"""


def read(tmp_path: Path, text: str, schema: type[Strict] = TrainJob) -> Strict:
    (tmp_path / "job.toml").write_text(text)
    return read_config(tmp_path / "job.toml", schema)


def test_a_file_gives_settings_with_defaults(tmp_path: Path) -> None:
    job = read(tmp_path, TRAIN)
    assert isinstance(job, TrainJob)
    assert (job.backend, job.training.epochs, job.training.loss) == ("tensorflow", 128, "auto")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sead = 1\n" + TRAIN, "unknown key 'sead'; did you mean 'seed'"),
        (TRAIN + "[training]\nepoch = 3\n", r"unknown key 'training\.epoch'; did you mean 'epochs'"),
        (TRAIN + "[training]\nepochs = 0\n", r"training\.epochs: input should be greater than 0; received: 0"),
        (TRAIN + "[training]\nloss = 'l2'\n", r"training\.loss: unknown loss 'l2'; valid: auto, bce, bce_dice"),
        (
            TRAIN + "[training]\noptimizer = 'adem'\n",
            r"training\.optimizer: unknown .* did you mean 'adam'",
        ),
        (TRAIN + "[training]\nschedule = 'cosin'\n", r"training\.schedule: unknown .* did you mean 'cosine'"),
        (TRAIN + "[training]\nrho = 0.9\n", r"training: rho: not of optimizer 'adam', which has learning_rate, beta1"),
        (TRAIN + "[training]\nstep_epochs = 3\n", r"training: step_epochs: not of schedule 'constant'"),
        (TRAIN + "[training]\noptimizer = 'sgd'\nmomentum = 1\n", r"training\.momentum: input should be less than 1"),
        ("run_folder = 'x'\n[model]\nname = 'unet2d'\n", "shards: field required"),
        ("this is not toml", "not readable as a configuration file"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "job.toml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_file_of_another_editor_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "job.toml").write_bytes(f"# Zürich\n\n{TRAIN}".replace("\n", "  \r\n").encode(encoding))
    job = read_config(tmp_path / "job.toml", TrainJob)
    assert (job.model.name, job.shards) == ("unet2d", Path("shards"))


def test_a_folder_and_bytes_that_are_no_text_are_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "zeros.toml").write_bytes(bytes(8))
    for name in ("folder", "zeros"):
        with pytest.raises(ConfigError, match=rf"{name}\.toml: not readable as a configuration file"):
            read_config(tmp_path / f"{name}.toml", TrainJob)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such configuration file"):
        read_config(tmp_path / "none.toml", TrainJob)


def test_json_is_read_by_its_ending(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"run_folder": "run", "shards": "s", "subsets": ["test"]}')
    assert read_config(tmp_path / "job.json", EvaluateJob).subsets == ("test",)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainingSettings().epochs = 3  # type: ignore[misc]


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"epochs: .*batch_size: "):
        parse({"epochs": -1, "batch_size": "many"}, TrainingSettings, where="here")


def test_assignments_are_toml_values_or_words() -> None:
    given = ["a=1", "b=1.5", "c=true", "d=[1, 2]", 'e="x"', "f=plain words", "g=a=b"]
    assert parse_assignments(given) == {
        "a": 1, "b": 1.5, "c": True, "d": [1, 2], "e": "x", "f": "plain words", "g": "a=b",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        parse_assignments(["novalue"])
