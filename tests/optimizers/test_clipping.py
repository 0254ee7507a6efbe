import numpy as np

from mspipeline.optimizers.clipping import clipped_to_norm

GRADIENTS = {"a": np.array([[3.0]], np.float32), "b": np.array([0.0, 4.0], np.float32)}


def test_a_longer_gradient_is_shortened_to_the_norm_in_its_own_direction() -> None:
    shortened = clipped_to_norm(GRADIENTS, 2.5)
    assert np.allclose(shortened["a"], [[1.5]])
    assert np.allclose(shortened["b"], [0, 2])
    assert all(each.dtype == np.float32 for each in shortened.values())


def test_a_shorter_one_is_left_to_the_last_bit() -> None:
    assert clipped_to_norm(GRADIENTS, 5.0) is GRADIENTS


def test_a_gradient_of_zero_stays() -> None:
    assert clipped_to_norm({"a": np.zeros(3, np.float32)}, 1.0)["a"].tolist() == [0, 0, 0]
