import pytest

from mspipeline.errors import ConfigError, ShapeError
from mspipeline.models.catalogue import MODELS, build

FLAT = ["unet2d", "double_unet", "deeplabv2", "deeplabv3"]
SOLID = ["cascade3d", "nicms", "vnet", "nnunet3d"]


@pytest.mark.parametrize("name", SOLID)
def test_slices_are_refused_by_networks_of_volumes(name: str) -> None:
    words = rf"model {name} takes 3-D images \(depth, height, width, channels\), not images of 128x128x1; .* unet2d"
    with pytest.raises(ShapeError, match=words):
        build(name, (128, 128, 1), {})


@pytest.mark.parametrize("name", FLAT)
def test_volumes_are_refused_by_networks_of_slices(name: str) -> None:
    with pytest.raises(ShapeError, match=r"takes 2-D images .* not images of 64x64x64x1; networks that would: .*vnet"):
        build(name, (64, 64, 64, 1), {})


def test_every_network_has_a_name_of_its_own_in_its_graph() -> None:
    assert {build(name, entry.example_shape, {}).name for name, entry in MODELS.items()} == set(MODELS)


def test_no_two_names_stand_for_the_same_network() -> None:
    hashes = {name: build(name, entry.example_shape, {}).hash for name, entry in MODELS.items()}
    assert len(set(hashes.values())) == len(MODELS)


def test_an_argument_of_words_must_be_words() -> None:
    with pytest.raises(ConfigError, match="prelu must be of type str; received: 3"):
        build("nicms", (11, 11, 11, 2), {"prelu": 3})
