import pytest

from mspipeline.containers.image_facts import ImageFacts, check_image, digest_of, look_into
from mspipeline.errors import ConfigError

DIGEST = f"sha256:{'1' * 64}"
FACTS = ImageFacts("app:1", DIGEST, backend="torch", version="0.2.0", revision="c0ffee")


def test_an_image_that_fits_is_taken_and_one_that_says_nothing_too():
    check_image(FACTS, "torch", version="0.2.0", pinned=DIGEST)
    check_image(ImageFacts("app:1", None), "torch", version="0.2.0")


@pytest.mark.parametrize(
    ("backend", "version", "pinned", "said"),
    [
        ("jax", "0.2.0", None, "an image of backend 'torch', named for 'jax'; correct [images] of the site file"),
        ("torch", "0.3.0", None, "holds version 0.2.0 of the suite, and 0.3.0 submits; build it again, or submit with"),
        (
            "torch",
            "0.2.0",
            f"sha256:{'2' * 64}",
            f"not the image that the site pins for backend 'torch', sha256:{'2' * 64}",
        ),
    ],
)
def test_an_image_that_is_another_is_named_with_its_digest_in_one_line(backend, version, pinned, said):
    with pytest.raises(ConfigError) as refusal:
        check_image(FACTS, backend, version=version, pinned=pinned)
    assert str(refusal.value).startswith(f"app:1 ({DIGEST}): ")
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_digest_of_a_file_is_that_of_its_bytes_and_follows_them(tmp_path):
    image = tmp_path / "x.sif"
    image.write_bytes(b"abc")
    abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert digest_of("apptainer", str(image)) == abc
    image.write_bytes(b"")
    assert digest_of("singularity", str(image)) == (
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


def test_an_unpacked_folder_has_no_digest_and_a_reference_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert digest_of("apptainer", str(tmp_path)) is None
    assert digest_of("podman", f"example.org/app@{DIGEST}") == DIGEST
    assert digest_of("podman", "example.org/app:1") is None
    assert look_into("podman", "example.org/app:1") is None


def test_what_a_runtime_cannot_read_is_one_line(tmp_path, monkeypatch):
    program = tmp_path / "apptainer"
    program.write_text("#!/bin/sh\necho 'FATAL: image format not recognized' >&2\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "x.sif").touch()
    with pytest.raises(ConfigError, match=r"x\.sif: apptainer cannot read it \(FATAL: image format not recognized\)"):
        look_into("apptainer", str(tmp_path / "x.sif"))
