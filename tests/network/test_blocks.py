import pytest

from mspipeline.errors import ShapeError
from mspipeline.network.blocks import max_pool, same_padding
from mspipeline.network.graph import Builder
from mspipeline.network.ops import Input


def test_same_padding_of_an_even_kernel_comes_after() -> None:
    assert same_padding((1, 2, 3, 4, 5)) == ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2))


def test_same_padding_grows_with_the_dilation() -> None:
    assert same_padding((3, 2, 1), (4, 3, 2)) == ((4, 4), (1, 2), (0, 0))


def test_plain_pooling_drops_a_rest_unless_it_must_be_exact() -> None:
    builder = Builder("pooled")
    image = builder.add("image", Input((11, 8, 3)))
    assert builder.shape(max_pool(builder, "pool", image, (2, 2))) == (5, 4, 3)
    with pytest.raises(ShapeError, match=r"'exact': MaxPool of \(2, 2\) does not divide its input of \(11, 8, 3\)"):
        max_pool(builder, "exact", image, (2, 2), exact=True)
