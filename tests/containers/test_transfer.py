"""Podman and a registry for real, on loopback, with an image that is made in a moment (`image_runtimes`)."""

import hashlib
import re
import shutil
import socket
import subprocess
import time

import pytest

from mspipeline.containers.recipes import RECIPES
from mspipeline.containers.transfer import check_archive, check_pinned, load, pull, push, record_of, save, verify
from mspipeline.errors import ConfigError, DataError, StorageError, UsageError
from tests.command_line import small_disk
from tests.slurm.image_runtimes import LABELS, NoRuntime, start_runtime

TENSORFLOW = RECIPES["tensorflow"]
INSECURE = ("--tls-verify=false",)
ELSEWHERE = f"sha256:{'1' * 64}"


def quiet(line):
    """A listener that hears nothing."""


@pytest.fixture(scope="module")
def started():
    try:
        with start_runtime("podman") as runtime:
            yield runtime
    except NoRuntime as reason:
        pytest.skip(str(reason))


@pytest.fixture
def podman(started, monkeypatch):
    for name, value in started.environment.items():
        monkeypatch.setenv(name, value)
    return started


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """HOST:PORT of an empty registry, and the folder where it keeps its blobs."""
    if not shutil.which("docker-registry"):
        pytest.skip("no registry here; apt-get install -y --no-install-recommends docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "registry.yml"
    settings.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {folder}/blobs\nhttp:\n  addr: 127.0.0.1:{port}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(settings)], stdout=log, stderr=log)
    try:
        ends = time.monotonic() + 60
        while not _listens(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < ends, "the registry does not answer"
            time.sleep(0.1)
        yield f"127.0.0.1:{port}", folder / "blobs"
    finally:
        process.terminate()
        process.wait(30)


pytestmark = pytest.mark.container


def test_an_image_goes_to_a_registry_and_comes_back_by_its_digest(podman, registry):
    host, _ = registry
    pushed = push("podman", podman.image, f"{host}/suite/app:1", quiet, INSECURE)
    assert re.fullmatch(rf"{re.escape(host)}/suite/app@sha256:[0-9a-f]{{64}}", pushed)
    subprocess.run(["podman", "rmi", "--force", f"{host}/suite/app:1"], check=False, capture_output=True)
    facts = pull("podman", pushed, TENSORFLOW, quiet, INSECURE)
    assert facts.digest == pushed.partition("@")[2]
    assert (facts.backend, facts.revision) == ("tensorflow", LABELS["org.opencontainers.image.revision"])
    assert verify("podman", pushed, TENSORFLOW) == facts
    with pytest.raises(ConfigError, match="an image of backend 'tensorflow', named for 'jax'"):
        verify("podman", pushed, RECIPES["jax"])


def test_a_digest_that_the_registry_does_not_have_is_one_line(podman, registry):
    host, _ = registry
    with pytest.raises(ConfigError, match=r"pull of .*: podman ended with code 125: .*manifest unknown") as refusal:
        pull("podman", f"{host}/suite/app@{ELSEWHERE}", TENSORFLOW, quiet, INSECURE)
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match="no such image for podman on this machine"):
        verify("podman", f"{host}/suite/app@{ELSEWHERE}", TENSORFLOW)


def test_a_registry_that_does_not_answer_is_one_line(podman):
    with pytest.raises(ConfigError, match="connection refused"):
        push("podman", podman.image, "127.0.0.1:1/suite/app:1", quiet, INSECURE)


def test_a_layer_that_was_changed_in_the_registry_is_refused(podman, registry, tmp_path):
    host, blobs = registry
    other = podman.another(tmp_path, {**LABELS, "org.mspipeline.backend": "jax"})
    before = set(blobs.rglob("data"))
    pushed = push("podman", other, f"{host}/suite/other:1", quiet, INSECURE)
    subprocess.run(["podman", "rmi", "--force", other], check=True, capture_output=True)
    added = {path: path.read_bytes() for path in set(blobs.rglob("data")) - before}
    ((layer, whole),) = [(path, data) for path, data in added.items() if data.startswith(b"\x1f\x8b")]  # gzip
    layer.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    try:
        with pytest.raises(ConfigError, match=r"podman ended with code 125: .*([Dd]igest did not|does not) match"):
            pull("podman", pushed, RECIPES["jax"], quiet, INSECURE)
    finally:
        layer.write_bytes(whole)


def test_an_image_goes_through_a_file_and_a_changed_file_is_refused(started, tmp_path, monkeypatch):
    try:
        with start_runtime("podman") as podman:
            for name, value in podman.environment.items():
                monkeypatch.setenv(name, value)
            file = tmp_path / "app.tar"
            save("podman", podman.image, file, quiet)
            assert hashlib.sha256(file.read_bytes()).hexdigest() in record_of(file).read_text()
            subprocess.run(["podman", "rmi", "--force", podman.image], check=True, capture_output=True)
            assert load("podman", file, quiet) == podman.image
            assert subprocess.run(["podman", "image", "exists", podman.image], check=False).returncode == 0
            with file.open("r+b") as stream:
                stream.seek(2000)
                stream.write(b"x")
            with pytest.raises(DataError, match=r"app.tar: not the file that was saved \(SHA-256 .*copy it again"):
                load("podman", file, quiet)
    except NoRuntime as reason:
        pytest.skip(str(reason))


def test_a_full_disk_leaves_no_half_of_a_file(podman, tmp_path):
    with small_disk(tmp_path / "small", kib=8) as folder:
        with pytest.raises(StorageError, match=r"save of .*: no room \(.*no space left on device"):
            save("podman", podman.image, folder / "app.tar", quiet)
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("app:1", "expected HOST/NAME@sha256:..., as `mspipeline image push` prints it"),
        ("registry.example/app:1", "expected HOST/NAME@sha256"),
        ("registry.example/app@sha256:12", "expected HOST/NAME@sha256"),
        ("./app.sif", "a file, not an image in a registry"),
        ("/images/app.sif", "a file, not an image in a registry"),
    ],
)
def test_what_names_no_image_by_digest_is_never_asked_of_a_registry(reference, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        check_pinned(reference)


def test_a_file_of_the_same_name_is_never_taken_for_an_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    name = f"images/app@{ELSEWHERE}"
    check_pinned(name)
    (tmp_path / name).touch()
    with pytest.raises(UsageError, match="a file, not an image in a registry"):
        check_pinned(name)


def test_a_file_without_its_hash_is_refused(tmp_path):
    (tmp_path / "app.tar").touch()
    with pytest.raises(DataError, match=r"app.tar.json: no such file, with the hash of app.tar; copy it along"):
        check_archive(tmp_path / "app.tar")
    with pytest.raises(DataError, match=r"none.tar: no such file"):
        check_archive(tmp_path / "none.tar")
