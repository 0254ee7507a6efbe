import numpy as np
import pytest

from mspipeline.backends.base import Execution
from mspipeline.backends.registry import create
from mspipeline.channels import ONE_PROBABILITY
from mspipeline.models.catalogue import build
from mspipeline.network.weights import initial_weights
from mspipeline.recipes.slices2d.predict import predict_on_scan, predict_slices
from mspipeline.recipes.slices2d.shard import SliceShard
from mspipeline.volume import ScanGrid

pytestmark = pytest.mark.usefixtures("backend_needed")
GRAPH = build("unet2d", (16, 32, 1), {"base_width": 2})


@pytest.fixture
def backend():
    made = create("tensorflow")
    made.build(GRAPH, Execution(device="cpu", threads=2))
    made.set_weights(initial_weights(GRAPH, 0))
    return made


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 16, 32, 1)).astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 8])
def test_slices_do_not_depend_on_the_batch_they_came_in(backend, batch_size: int) -> None:
    expected = np.concatenate([backend.predict(image[None]) for image in images(7)])[..., 0]
    found = predict_slices(backend, ONE_PROBABILITY, images(7), batch_size=batch_size)
    assert list(found) == ["lesion"]
    assert np.allclose(found["lesion"], expected, atol=1e-6)


def test_no_slices_give_no_probabilities(backend) -> None:
    assert predict_slices(backend, ONE_PROBABILITY, images(0), batch_size=4)["lesion"].shape == (0, 16, 32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_stand_at_their_places_on_the_scan(backend, axis: int) -> None:
    shape = {0: (5, 16, 32), 1: (16, 5, 32), 2: (16, 32, 5)}[axis]
    grid = ScanGrid(shape, np.diag([1.0, 1, 1, 1]), 1, 1)  # the resampled grid is the scan's: nothing is interpolated
    places = np.array([1, 2, 4], np.int32)
    case = SliceShard("sub-01", images(3), places, shape, np.zeros(shape, np.uint8), grid)
    volume = predict_on_scan(backend, ONE_PROBABILITY, case, axis=axis, batch_size=2)["lesion"]
    slices = np.moveaxis(volume, axis, 0)
    expected = predict_slices(backend, ONE_PROBABILITY, images(3), batch_size=2)["lesion"]
    assert np.allclose(slices[places], expected)
    assert not slices[[0, 3]].any()
