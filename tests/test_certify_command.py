"""`mspipeline certify` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mspipeline.backends.registry import availability
from tests.command_line import files_below, run

PAIR = [name for name in ("pyeddl", "tensorflow", "torch", "jax") if not availability(name).problem][:2]


@pytest.mark.skipif(len(PAIR) < 2, reason="needs two backends")
@pytest.mark.slow
def test_two_backends_are_shown_quantity_by_quantity_and_signed_off(tmp_path: Path) -> None:
    words = ("certify", "cascade3d", "--backends", ",".join(PAIR), "--set", "base_width=2", "--device", "cpu")
    ended = run(*words, "-o", tmp_path / "out")
    assert ended.code == 0, ended.stderr
    for quantity in ("forward", "statistics", "loss", "gradient", "step_adam", "step_sgd", "step_adadelta"):
        assert any(line.split()[:2] == [PAIR[1], quantity] and "agrees" in line for line in ended.stdout.splitlines())
    assert f"{PAIR[0]} is the reference" in ended.stdout
    (file,) = files_below(tmp_path / "out")
    assert f"{PAIR[1]} certified; {tmp_path / 'out' / file}" in ended.stdout
    ended = run(*words, "--json", "-o", tmp_path / "out")
    reference, other = json.loads(ended.stdout)
    assert (reference["state"], other["state"]) == ("reference", "certified")
    assert other["certificate"]["network"]["image_shape"] == [11, 11, 11, 3]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("unet2d", "--backends", "tensorflow"), 2, "--backends needs two or more different ones"),
        (
            ("unet2d", "--backends", "tensorflow,tensorflaw"),
            78,
            "unknown backend 'tensorflaw'; did you mean 'tensorflow'",
        ),
        (("unet", "--backends", "tensorflow,jax"), 78, "unknown model 'unet'; did you mean 'unet2d'"),
        (("unet2d", "--backends", "tensorflow,jax", "--shape", "32"), 65, "takes 2-D images"),
        (("unet2d", "--backends", "tensorflow,jax", "--shape", "32x0x1"), 2, "--shape 32x0x1: expected sizes such as"),
        (("unet2d", "--backends", "tensorflow,jax", "--device", "tpu"), 2, "--device is auto, cpu or gpu"),
        (
            ("unet2d", "--backends", "tensorflow,jax", "--optimizers", "adam,sdg"),
            78,
            "--optimizers: unknown optimizer 'sdg'; did you mean 'sgd'",
        ),
    ],
)
def test_what_cannot_be_certified_is_one_line(words: tuple[str, ...], code: int, said: str, tmp_path: Path) -> None:
    ended = run("certify", *words, cwd=tmp_path)
    assert ended.code == code
    assert said in ended.error
    assert files_below(tmp_path) == set()
