"""Images from the committed recipes, for real: built, tried out as an unprivileged user, pushed, pulled, saved, loaded.

`make images`. Needs Podman, a base that `local_base` can make, and a package index. Only base and builder's words are
other than a user's.
"""

import json
import os
import subprocess

import pytest

from mspipeline import __version__
from mspipeline.containers.recipes import CACHES
from tests.command_line import PROGRAM
from tests.containers.local_base import import_base
from tests.slurm.image_runtimes import NoRuntime, start_runtime

pytestmark = [pytest.mark.container, pytest.mark.long, pytest.mark.timeout(3600)]
ROOM = ("--option=--isolation=chroot", "--option=--network=host")


@pytest.fixture(scope="module")
def podman(tmp_path_factory):
    """Environment of a Podman of its own, and the name of a base in its store."""
    try:
        with start_runtime("podman") as runtime:
            base = import_base(tmp_path_factory.mktemp("base"), runtime.environment)
            yield {**os.environ, **runtime.environment}, base
    except NoRuntime as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module", params=["host", "jax"])
def built(request, podman):
    """The name of an image that was built by the command, and the environment in which it is there."""
    environment, base = podman
    words = ["image", "build", request.param, "--builder", "podman", "--base", base, *ROOM]
    done = subprocess.run([str(PROGRAM), *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == f"localhost/mspipeline-{request.param}:{__version__}"
    return request.param, done.stdout.strip(), environment


def inside(built, *words, options=()):
    """What a command in the image prints. options: of `podman run`."""
    _, image, environment = built
    command = ["podman", "run", "--rm", "--network", "none", "--pull", "never", *options, image, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_image_works_for_a_user_who_is_not_root(built):
    name, _, environment = built
    done = subprocess.run(
        [str(PROGRAM), "image", "test", name, "--builder", "podman", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = {each["what"]: each for each in json.loads(done.stdout)}
    assert done.returncode == 0, found
    assert "Python 3.12." in found["versions"]["detail"]
    assert found["versions"]["detail"].endswith("user 1000:1000")
    assert found["MPI"]["detail"].startswith("2 ranks of MPICH")
    if name != "host":
        assert "a training step, loss 0.745049; computes what tensorflow" in found[f"backend {name}"]["detail"]


def test_it_runs_the_suite_for_a_number_without_a_name_on_a_root_that_cannot_be_written(built):
    options = ["--read-only", "--user", "4321:4321", "--env", "PYTHONPATH="]
    assert inside(built, "--version", options=options).strip() == f"mspipeline {__version__}"
    assert "usage:" in inside(built).lower()


def test_no_compiler_and_no_installer_of_the_suites_is_in_it_and_nothing_of_the_host(built):
    script = (
        "command -v gcc cc g++ make uv; ls /opt/mspipeline/bin/pip* /src /build 2>/dev/null;"
        f" echo home $HOME; echo site $(python -c 'import site; print(site.ENABLE_USER_SITE)'); ls -A {CACHES}"
    )
    said = inside(built, "-c", script, options=["--entrypoint", "/bin/sh"])
    assert said.splitlines() == [f"home {CACHES}", "site False"]


def test_its_labels_say_where_it_came_from(built):
    name, image, environment = built
    done = subprocess.run(
        ["podman", "image", "inspect", image], env=environment, capture_output=True, text=True, check=True
    )
    labels = json.loads(done.stdout)[0]["Config"]["Labels"]
    assert labels["org.mspipeline.backend"] == name
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.base.name"] == "localhost/python:3.12"
    assert labels["org.opencontainers.image.created"].endswith("Z")
