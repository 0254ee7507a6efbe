import pytest

from mspipeline.errors import ShapeError
from mspipeline.models.catalogue import build
from mspipeline.network.cost import cost
from mspipeline.network.ops import BatchNorm, Conv, Relu


@pytest.mark.parametrize(
    ("name", "non_trainable", "trainable"),
    [  # at 2, 3 and 4 modalities
        ("cascade3d", 192, (189_058, 189_922, 190_786)),
        ("cascade3d_report_tf", 192, (189_154, 190_018, 190_882)),
        ("cascade3d_report_eddl", 0, (188_705, 189_569, 190_433)),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, non_trainable: int, trainable: tuple[int, ...]) -> None:
    costs = [cost(build(name, (11, 11, 11, channels), {})) for channels in (2, 3, 4)]
    assert tuple(each.trainable for each in costs) == trainable
    assert {each.non_trainable for each in costs} == {non_trainable}


@pytest.mark.parametrize("name", ["cascade3d", "cascade3d_report_tf", "cascade3d_report_eddl"])
def test_patches_shrink_from_11_to_5_to_2(name: str) -> None:
    graph = build(name, (11, 11, 11, 3), {})
    assert [graph[node].shape for node in ("conv1", "pool1", "conv2", "pool2", "flat")] == [
        (11, 11, 11, 32),
        (5, 5, 5, 32),
        (5, 5, 5, 64),
        (2, 2, 2, 64),
        (512,),
    ]


def test_work_of_a_patch_by_hand() -> None:
    macs = 11**3 * 27 * 3 * 32 + 5**3 * 27 * 32 * 64 + 512 * 256 + 256 * 2
    assert macs == 10_493_536  # "10.494 M" a voxel, patch by patch
    assert cost(build("cascade3d", (11, 11, 11, 3), {})).macs == macs


def test_the_original_normalises_before_relu_and_the_tensorflow_port_after() -> None:
    original, port = (build(name, (11, 11, 11, 3), {}) for name in ("cascade3d", "cascade3d_report_tf"))
    before = [type(original[node.inputs[0]].op) for node in original if isinstance(node.op, BatchNorm)]
    after = [type(port[node.inputs[0]].op) for node in port if isinstance(node.op, BatchNorm)]
    assert (before, after) == ([Conv, Conv], [Relu, Relu])


def test_the_original_ends_in_two_probabilities_and_the_ports_in_logits() -> None:
    ends = {
        name: (build(name, (11, 11, 11, 3), {}).outputs, build(name, (11, 11, 11, 3), {}).nodes[-1].shape)
        for name in ("cascade3d", "cascade3d_report_tf", "cascade3d_report_eddl")
    }
    assert ends == {
        "cascade3d": (("probability",), (2,)),
        "cascade3d_report_tf": (("logits",), (2,)),
        "cascade3d_report_eddl": (("logits",), (1,)),
    }


def test_a_patch_that_pooling_would_empty_is_refused() -> None:
    with pytest.raises(ShapeError, match="pool2"):
        build("cascade3d", (3, 11, 11, 3), {})
