import numpy as np
import pytest

from mspipeline.config import TrainingSettings
from mspipeline.errors import ConfigError, ShapeError
from mspipeline.models.catalogue import build
from mspipeline.training.targets import classes_of, in_classes, loss_of


def test_masks_of_two_classes_have_the_background_first() -> None:
    masks = np.array([[0.0], [1.0]], np.float32)
    assert in_classes(masks, 2).tolist() == [[1, 0], [0, 1]]
    assert in_classes(masks, 1) is masks
    assert in_classes(np.ones((2, 4, 4, 1), np.float32), 2).shape == (2, 4, 4, 2)


@pytest.mark.parametrize(
    ("name", "shape", "spatial", "classes"),
    [("unet2d", (32, 32, 1), (32, 32), 1), ("cascade3d", (11, 11, 11, 3), (), 2), ("nicms", (11, 11, 11, 2), (), 2)],
)
def test_the_output_says_how_many_classes_a_mask_has(
    name: str, shape: tuple[int, ...], spatial: tuple[int, ...], classes: int
) -> None:
    assert classes_of(build(name, shape, {}), spatial) == classes


def test_logits_and_maps_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeError, match="training needs probabilities of a patch"):
        classes_of(build("cascade3d_report_eddl", (11, 11, 11, 3), {}), ())
    with pytest.raises(ShapeError, match="training needs probabilities of a voxel"):
        classes_of(build("deeplabv3", (64, 64, 1), {}), (64, 64))


def test_auto_is_the_loss_that_fits_and_another_is_refused() -> None:
    assert loss_of(TrainingSettings(), 1).name == "bce"
    assert loss_of(TrainingSettings(), 2).name == "categorical_ce"
    assert loss_of(TrainingSettings(loss="dice"), 1).name == "dice"
    with pytest.raises(ConfigError, match="loss bce does not fit a network of 2 outputs a voxel or patch"):
        loss_of(TrainingSettings(loss="bce"), 2)
