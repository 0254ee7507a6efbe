import pytest

from mspipeline.models.catalogue import build
from mspipeline.network.cost import cost
from mspipeline.network.ops import BatchNorm, LeakyRelu, Relu, Sigmoid


@pytest.mark.parametrize(("channels", "parameters"), [(1, 31_031_685), (3, 31_032_837)])
def test_tensorflows_form_has_the_reports_count_and_no_normalisation(channels: int, parameters: int) -> None:
    graph = build("unet2d_report_tf", (256, 256, channels), {})
    costs = cost(graph)
    assert (costs.trainable, costs.non_trainable) == (parameters, 0)
    assert not any(isinstance(node.op, BatchNorm | LeakyRelu) for node in graph)


@pytest.mark.parametrize(
    ("channels", "trainable", "printed"), [(1, 31_045_387, 31_059_089), (3, 31_046_539, 31_060_241)]
)
def test_pyeddls_form_has_the_reports_count_with_running_statistics(
    channels: int, trainable: int, printed: int
) -> None:
    graph = build("unet2d_report_eddl", (256, 256, channels), {})
    costs = cost(graph)
    assert (costs.trainable, costs.non_trainable) == (trainable, 13_702)
    assert costs.total == printed
    assert {node.op for node in graph if isinstance(node.op, LeakyRelu | Relu)} == {LeakyRelu(0.01)}


def test_pyeddls_sigmoid_follows_a_normalisation() -> None:
    graph = build("unet2d_report_eddl", (32, 32, 1), {})
    last = graph[graph.outputs[0]]
    assert isinstance(last.op, Sigmoid)
    assert isinstance(graph[last.inputs[0]].op, BatchNorm)
