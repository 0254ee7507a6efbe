import pytest

from mspipeline.errors import ConfigError
from mspipeline.models.catalogue import build
from mspipeline.network.cost import cost
from mspipeline.network.ops import PRelu


def counts(channels: int, **arguments: object) -> tuple[int, int]:
    costs = cost(build("nicms", (11, 11, 11, channels), arguments))
    return costs.trainable, costs.non_trainable


@pytest.mark.parametrize(("channels", "trainable"), [(2, 470_082), (3, 470_946), (4, 471_810)])
def test_the_keras_form_has_its_published_counts(channels: int, trainable: int) -> None:
    assert counts(channels) == (trainable, 384)


@pytest.mark.parametrize(("channels", "trainable"), [(2, 368_898), (3, 369_762), (4, 370_626)])
def test_the_lasagne_form_shares_alphas_and_has_no_convolution_bias(channels: int, trainable: int) -> None:
    assert counts(channels, prelu="channel", conv_bias=False) == (trainable, 384)


def test_the_keras_form_with_shared_alphas_has_369474_numbers_in_all() -> None:
    trainable, non_trainable = counts(2, prelu="channel")
    assert trainable + non_trainable == 369_474
    assert trainable - 368_898 == 2 * 32 + 2 * 64  # the biases


def test_alphas_per_voxel_have_the_shape_of_what_they_act_on() -> None:
    graph = build("nicms", (11, 11, 11, 2), {})
    alphas = [spec.shape for (_, name), spec in graph.weights().items() if name == "alpha"]
    assert alphas == [(11, 11, 11, 32)] * 2 + [(5, 5, 5, 64)] * 2 + [(256,), (128,), (64,)]
    assert {node.op.shared for node in graph if isinstance(node.op, PRelu)} == {"voxel"}


def test_an_unknown_form_of_prelu_is_refused() -> None:
    with pytest.raises(ConfigError, match="prelu must be 'voxel' or 'channel'; received: 'pixel'"):
        counts(2, prelu="pixel")
