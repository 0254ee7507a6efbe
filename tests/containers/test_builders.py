import json
import shlex

import pytest

from mspipeline import __version__
from mspipeline.containers.build import chosen_base, run_build, tag_of, try_image
from mspipeline.containers.builders import Build, build_command, builders_here, choose_builder
from mspipeline.containers.recipes import RECIPES
from mspipeline.errors import ConfigError, StorageError, UsageError
from tests.command_line import run

HOST = RECIPES["host"]
ARGUMENTS = {"REVISION": "c0ffee", "SOURCE": "", "PIP_INDEX_URL": "http://127.0.0.1/simple"}


def line(builder, target):
    build = Build(HOST, target, "reg.example/python:3@sha256:12", ARGUMENTS, ("--network=host",))
    return shlex.join(build_command(builder, build))


GIVEN = (
    "--build-arg BASE=reg.example/python:3@sha256:12 --build-arg BASE_DIGEST=sha256:12 --build-arg REVISION=c0ffee "
    "--build-arg PIP_INDEX_URL=http://127.0.0.1/simple"
)


def test_each_builder_is_given_the_same_definition_and_arguments_in_its_own_words():
    end = "--file containers/generated/host.Dockerfile --network=host ."
    assert line("docker", "host:1") == f"docker build {GIVEN} --tag host:1 {end}"
    for builder in ("podman", "buildah"):
        assert line(builder, "host:1") == f"{builder} build {GIVEN} --tag host:1 --format docker {end}"
    for builder in ("apptainer", "singularity"):
        expected = f"{builder} build --network=host {GIVEN} /images/host.sif containers/generated/host.def"
        assert line(builder, "/images/host.sif") == expected


def test_the_first_builder_that_answers_is_taken_unless_another_is_asked_for():
    here = {"docker": "Cannot connect to the Docker daemon", "podman": "", "buildah": ""}
    assert choose_builder(None, here) == "podman"
    assert choose_builder("buildah", here) == "buildah"
    with pytest.raises(ConfigError, match="builder docker does not work here: Cannot connect to the Docker daemon"):
        choose_builder("docker", here)
    with pytest.raises(ConfigError, match="builder apptainer is not installed here; there is docker, podman, buildah"):
        choose_builder("apptainer", here)
    with pytest.raises(UsageError, match="unknown builder 'podmann'; did you mean 'podman'"):
        choose_builder("podmann", here)
    with pytest.raises(ConfigError, match="no builder of images here; install one of docker, podman, buildah"):
        choose_builder(None, {})
    with pytest.raises(ConfigError, match="no builder of images works here: docker: no daemon; start one of them"):
        choose_builder(None, {"docker": "no daemon"})


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A function that puts a program of this name on PATH, a shell script, and hides all other builders."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")

    def make(name, script):
        file = tmp_path / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    return make


def test_a_builder_without_its_daemon_says_so(program, monkeypatch, tmp_path):
    program("docker", "echo 'Client: 28' ; echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    program("apptainer", "echo apptainer version 1.4.5")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert builders_here() == {"docker": "Cannot connect to the Docker daemon", "apptainer": ""}


def build_with(script, program, tmp_path):
    program("podman", script)
    said: list[str] = []
    run_build("podman", Build(HOST, "host:1", "base"), tmp_path, said.append)
    return said


def test_what_a_builder_prints_is_passed_on_line_by_line(program, tmp_path):
    assert build_with("echo one; echo two >&2", program, tmp_path) == ["one", "two"]


def test_a_build_that_fails_ends_with_the_builders_last_words(program, tmp_path):
    with pytest.raises(ConfigError) as failure:
        build_with("echo STEP 1; echo 'ERROR: hashes do not match'; echo; exit 3", program, tmp_path)
    assert str(failure.value) == "image 'host': podman ended with code 3: ERROR: hashes do not match"


def test_a_full_disk_is_told_as_one_whatever_the_builder_says_after_it(program, tmp_path):
    script = "echo 'write /var/x: No space left on device'; echo 'Error: building at STEP 5'; exit 1"
    with pytest.raises(StorageError, match=r"no room \(write /var/x: No space left on device\)"):
        build_with(script, program, tmp_path)


def test_a_base_must_be_pinned_by_somebody():
    with pytest.raises(
        ConfigError, match=r"base 'python' \(docker.io/library/python:3.12-slim-bookworm\) has no digest"
    ):
        chosen_base(HOST, None)
    assert chosen_base(HOST, "localhost/python:3.12") == "localhost/python:3.12"


def podman_with(version, answer):
    """A podman whose image has this version, and whose containers print this."""
    labels = {"org.mspipeline.backend": "host", "org.opencontainers.image.version": version}
    document = json.dumps([{"Id": "1" * 64, "Config": {"Labels": labels}}])
    return f"""case $1 in
    image) echo '{document}';;
    run) {answer};;
    esac"""


def test_an_image_of_another_version_than_the_code_is_refused_before_it_runs(program):
    program("podman", podman_with("0.0.9", "echo '[]'"))
    with pytest.raises(
        ConfigError, match=rf"holds version 0.0.9 of the suite, and {__version__} submits; build it again"
    ):
        try_image("podman", tag_of(HOST), HOST)


def test_what_an_image_answers_is_what_was_found_in_it(program):
    finding = {"what": "MPI", "state": "broken", "detail": "no ranks", "remedy": ""}
    program("podman", podman_with(__version__, f"echo noise; echo '{json.dumps([finding])}'; exit 1"))
    (found,) = try_image("podman", tag_of(HOST), HOST)
    assert (found.what, found.state, found.detail) == ("MPI", "broken", "no ranks")


def test_an_image_that_does_not_start_is_told_with_the_runtimes_last_words(program):
    program("podman", podman_with(__version__, "echo 'exec format error' >&2; exit 126"))
    with pytest.raises(ConfigError, match="podman ended with code 126 and no answer: exec format error"):
        try_image("podman", tag_of(HOST), HOST)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("build", "hots"), 2, "unknown image 'hots'; did you mean 'host'? valid: host, jax"),
        (("build", "host"), 78, "images.toml: base 'python'"),
        (("build", "host", "--base", "localhost/x", "--builder", "kaniko"), 2, "unknown builder 'kaniko'; valid: app"),
    ],
)
def test_a_command_that_cannot_be_done_is_one_line(words, code, said, tmp_path):
    ended = run("image", *words, cwd=tmp_path)
    assert ended.code == code
    assert said in ended.error


def test_the_list_names_every_image_and_what_it_lacks(tmp_path):
    ended = run("image", "list", "--json", cwd=tmp_path)
    rows = {row["name"]: row for row in json.loads(ended.stdout)}
    assert set(rows) == set(RECIPES)
    assert (rows["jax-gpu"]["oldest_driver"], rows["jax"]["oldest_driver"]) == ("525.60.13", None)
    assert rows["host"]["backend"] is None
    assert rows["jax"]["packages"] > 40
