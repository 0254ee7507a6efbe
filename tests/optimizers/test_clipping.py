import numpy as np

from mspipeline.arrays import NUMPY
from mspipeline.optimizers.clipping import clipped_to_norm

GRADIENTS = [np.array([[3.0]], np.float32), np.array([0.0, 4.0], np.float32)]


def test_a_longer_gradient_is_shortened_to_the_norm_in_its_own_direction() -> None:
    first, second = clipped_to_norm(NUMPY, GRADIENTS, 2.5)
    assert np.allclose(first, [[1.5]])
    assert np.allclose(second, [0, 2])
    assert first.dtype == second.dtype == np.float32


def test_a_shorter_one_is_left_to_the_last_bit() -> None:
    for norm in (5.0, 7.3, None):
        assert all(map(np.array_equal, clipped_to_norm(NUMPY, GRADIENTS, norm), GRADIENTS))


def test_a_gradient_of_zero_stays() -> None:
    assert clipped_to_norm(NUMPY, [np.zeros(3, np.float32)], 1.0)[0].tolist() == [0, 0, 0]
