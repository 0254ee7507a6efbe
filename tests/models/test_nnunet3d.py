import pytest

from mspipeline.errors import ConfigError, ShapeError
from mspipeline.models.catalogue import build
from mspipeline.models.nnunet3d import from_topology
from mspipeline.models.nnunet_plan import Fingerprint, plan
from mspipeline.network.cost import cost
from mspipeline.network.ops import Conv


@pytest.mark.parametrize(("channels", "parameters"), [(1, 31_195_594), (3, 31_197_322), (5, 31_199_050)])
def test_parameter_counts_on_1_mm_brains(channels: int, parameters: int) -> None:
    costs = cost(build("nnunet3d", (128, 128, 128, channels), {}))
    assert (costs.trainable, costs.non_trainable) == (parameters, 0)


def test_five_heads_hold_1610_parameters_and_are_the_outputs_finest_first() -> None:
    graph = build("nnunet3d", (128, 128, 128, 1), {})
    assert [graph[name].shape for name in graph.outputs] == [(size, size, size, 2) for size in (128, 64, 32, 16, 8)]
    assert sum(node.trainable for node in cost(graph).nodes if node.name in graph.outputs) == 1_610
    finest = build("nnunet3d", (128, 128, 128, 1), {"deep_supervision": False})
    assert finest.outputs == ("head1",)
    assert cost(finest).total == 31_195_594 - 2 * (320 + 256 + 128 + 64) - 4 * 2


def test_the_graph_of_a_plan_is_the_one_built_from_its_patch() -> None:
    fingerprint = Fingerprint(((182, 218, 182),) * 15, ((1.0, 1.0, 1.0),) * 15, (0.5,) * 15, classes=2)
    planned = from_topology(plan(fingerprint).fullres.topology, 1, 2)
    assert planned.hash == build("nnunet3d", (128, 128, 128, 1), {}).hash


def test_coarse_slices_are_neither_pooled_nor_convolved_across_at_first() -> None:
    graph = build("nnunet3d", (32, 256, 224, 1), {"anisotropy": 6.0})
    first = [graph[f"enc{stage}_conv1"].op for stage in (1, 2, 3, 4)]
    assert [(op.kernel, op.stride) for op in first if isinstance(op, Conv)] == [
        ((1, 3, 3), (1, 1, 1)),
        ((1, 3, 3), (1, 2, 2)),
        ((3, 3, 3), (1, 2, 2)),
        ((3, 3, 3), (2, 2, 2)),
    ]
    assert graph["dec1_up"].shape == (32, 256, 224, 32)


def test_a_patch_that_does_not_fit_is_answered_with_one_that_would() -> None:
    with pytest.raises(ShapeError, match=r"100x128x128 is not a multiple of 16x32x32, .* use 112x128x128"):
        build("nnunet3d", (100, 128, 128, 1), {})


@pytest.mark.parametrize("anisotropy", [0.0, -1.0, float("nan")])
def test_an_impossible_anisotropy_is_refused(anisotropy: float) -> None:
    with pytest.raises(ConfigError, match="anisotropy must be a positive ratio"):
        build("nnunet3d", (128, 128, 128, 1), {"anisotropy": anisotropy})


def test_a_patch_too_small_for_any_pooling_is_refused() -> None:
    with pytest.raises(ShapeError, match="never pooled"):
        build("nnunet3d", (4, 4, 4, 1), {})
