import re

import pytest

from mspipeline.backends.registry import BACKENDS
from mspipeline.containers.bases import Base, base_named
from mspipeline.containers.definitions import (
    FILES,
    FOLDERS,
    apptainer_definition,
    definitions,
    dockerfile,
)
from mspipeline.containers.image_facts import BACKEND, REVISION, VERSION
from mspipeline.containers.recipes import RECIPES, recipe_named
from mspipeline.errors import ConfigError, UsageError
from tests.conftest import REPOSITORY

GENERATED = REPOSITORY / "containers" / "generated"
DIGEST = f"sha256:{'5' * 64}"
PINNED = Base(reference="registry.example/python:3.12", digest=DIGEST, resolved="2026-11-30")
NAMES = sorted(RECIPES)


def test_the_committed_definitions_are_those_of_the_recipes():
    committed = {path.name: path.read_text() for path in GENERATED.iterdir()}
    assert committed == definitions(), "run `make definitions` and commit what it writes"


def twins(name):
    """Both definitions of an image, on a pinned base."""
    return dockerfile(RECIPES[name], PINNED), apptainer_definition(RECIPES[name], PINNED)


def section(definition, name, stage):
    """The lines of one section of an Apptainer definition. stage: 0 or 1."""
    part = definition.split("Stage: ")[1 + stage]
    found = re.search(rf"^%{name}\n((?:    .*\n|\n)*)", part, re.MULTILINE)
    assert found, name
    return [line.strip() for line in found[1].splitlines() if line.strip()]


def in_docker(text, word):
    """NAME="VALUE" lines of a Dockerfile; build arguments written as Apptainer does."""
    pairs = re.findall(rf'^{word} (\S+?)="(.*)"$', text, re.MULTILINE)
    return {name: re.sub(r"\$\{(\w+)\}", r"{{ \1 }}", value) for name, value in pairs}


@pytest.mark.parametrize("name", NAMES)
def test_both_twins_install_the_same_by_the_same_commands(name):
    docker, definition = twins(name)
    commands = [line.strip().removesuffix("\\").strip().removesuffix(";") for line in docker.splitlines()]
    commands = [line for line in commands if "python" in line and line.startswith(("python3", "/"))]
    assert [line for line in section(definition, "post", 0) if not line.startswith(("set", "if"))] == commands
    (locked,) = [line for line in commands if f"images/{name}.txt" in line]
    assert "--require-hashes --only-binary :all:" in locked
    assert "RUN mkdir --mode=1777 /var/cache/mspipeline\n" in docker
    assert section(definition, "post", 1) == ["mkdir --mode=1777 /var/cache/mspipeline"]
    assert section(definition, "files from build", 1) == ["/opt/mspipeline /opt/mspipeline"]
    assert "COPY --from=build /opt/mspipeline /opt/mspipeline\n" in docker


@pytest.mark.parametrize("name", NAMES)
def test_both_twins_have_the_same_environment_and_nothing_of_the_host_in_it(name):
    docker, definition = twins(name)
    exported = [line.removeprefix("export ").partition("=") for line in section(definition, "environment", 1)]
    environment = {key: value.strip('"') for key, _, value in exported}
    assert environment == in_docker(docker, "ENV")
    assert (environment["PYTHONNOUSERSITE"], environment["LC_ALL"]) == ("1", "C.UTF-8")
    for key in ("HOME", "KERAS_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        assert environment[key].startswith("/var/cache/mspipeline"), key


@pytest.mark.parametrize("name", NAMES)
def test_both_twins_say_the_same_of_themselves_and_begin_the_same_program(name):
    docker, definition = twins(name)
    labels = dict(line.partition(" ")[::2] for line in section(definition, "labels", 1))
    assert labels == in_docker(docker, "LABEL")
    kinds = "authors base.digest base.name created description licenses revision source title url vendor version"
    assert {key.removeprefix("org.opencontainers.image.") for key in labels} >= set(kinds.split())
    assert labels[REVISION] == "{{ REVISION }}"
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels[VERSION])
    assert labels[BACKEND] == name.removesuffix("-gpu")
    assert ("org.mspipeline.oldest-driver" in labels) is name.endswith("-gpu")
    *_, user, folder, entry, arguments = docker.splitlines()
    assert (user, folder) == ("USER 1000:1000", "WORKDIR /var/cache/mspipeline")
    assert (entry, arguments) == ('ENTRYPOINT ["/opt/mspipeline/bin/mspipeline"]', 'CMD ["--help"]')
    assert section(definition, "runscript", 1)[-1] == 'exec /opt/mspipeline/bin/mspipeline "$@"'


@pytest.mark.parametrize("name", NAMES)
def test_both_stages_of_both_twins_begin_with_the_pinned_base(name):
    docker, definition = twins(name)
    base = f"registry.example/python:3.12@{DIGEST}"
    assert re.findall(r"^(?:ARG BASE=|FROM )(\S+)", docker, re.MULTILINE) == [base, "${BASE}", "${BASE}"]
    assert re.findall(r"^    BASE=(\S+)", definition, re.MULTILINE) == [base] * 2
    assert re.findall(r"^From: (.+)", definition, re.MULTILINE) == ["{{ BASE }}"] * 2
    assert f"ARG BASE_DIGEST={DIGEST}\n" in docker
    assert f"    BASE_DIGEST={DIGEST}\n" in definition


def test_every_image_computes_with_a_backend_of_the_suite_or_with_none():
    assert {recipe.backend for recipe in RECIPES.values()} - {None} <= set(BACKENDS.built_in)
    assert RECIPES["host"].backend is None


LOCKED = [name for name in NAMES if (REPOSITORY / RECIPES[name].lock).exists()]


def locked(name):
    """The packages of a lock, with how many hashes each has."""
    lines = (REPOSITORY / "requirements" / "images" / f"{name}.txt").read_text().replace("\\\n", " ").splitlines()
    return {line.split()[0]: line.count("--hash=sha256:") for line in lines if "==" in line}


def test_all_locks_are_there_but_one_whose_index_is_none_of_the_usual():
    assert set(NAMES) - set(LOCKED) <= {"torch"}


@pytest.mark.parametrize("name", ["build", *LOCKED])
def test_every_package_of_a_lock_has_a_hash(name):
    packages = locked(name)
    assert packages
    assert all(packages.values()), packages


@pytest.mark.parametrize("name", LOCKED)
def test_images_have_the_versions_with_which_the_tests_run(name):
    tested = dict(
        line.split("==") for line in (REPOSITORY / "requirements" / "lock.txt").read_text().splitlines() if "==" in line
    )
    image = dict(
        word.split("==") for word in (each.partition("[")[0] if "[" in each else each for each in locked(name))
    )
    different = {each for each in tested.keys() & image.keys() if tested[each] != image[each]}
    assert different == set()


def test_gpu_images_are_of_cuda_12_alone():
    for name in ("tensorflow-gpu", "torch-gpu", "jax-gpu"):
        packages = " ".join(locked(name))
        assert "-cu12==" in packages, name
        assert "cu13" not in packages, name


def test_what_enters_the_first_stage_is_what_the_ignore_file_lets_through():
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    through = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert through == {*FILES, *FOLDERS, "requirements/images"}
    assert "*" in lines


def test_a_misspelt_image_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="unknown image 'jaxx'; did you mean 'jax'"):
        recipe_named("jaxx")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('reference = "python"', "reference"),
        ('reference = "docker.io/library/python:3"\ndigest = "sha256:12"\nresolved = 2026-01-01', "digest"),
        (f'reference = "docker.io/library/python:3"\ndigest = "{DIGEST}"', "digest and resolved belong together"),
    ],
)
def test_a_base_that_is_not_one_is_refused_in_one_line(tmp_path, text, said):
    file = tmp_path / "images.toml"
    file.write_text(f"[bases.python]\n{text}\n")
    with pytest.raises(ConfigError, match=said) as refusal:
        base_named("python", file)
    assert "\n" not in str(refusal.value)
