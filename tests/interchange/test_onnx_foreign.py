"""ONNX files of others: what they compute, or which node cannot be read and why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mspipeline.errors import DataError
from mspipeline.interchange.onnx import Imported, read_onnx, to_onnx
from mspipeline.network import ops
from tests.interchange.onnx_files import outputs

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def written(
    file: Path,
    nodes: list[Any],
    constants: Mapping[str, np.ndarray],
    *,
    shape: tuple[object, ...] = ("n", 3, 8, 10),
    opset: int = 18,
    outputs: tuple[str, ...] = ("y",),
) -> Path:
    """A file of these nodes from `x` to `y`."""
    helper = onnx.helper
    stored = [onnx.numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()]
    body = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        stored,
    )
    used = [helper.make_opsetid("", opset), helper.make_opsetid("vendor", 1)]
    model = helper.make_model(body, opset_imports=used, ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    for each in model.graph.output:
        if not each.type.tensor_type.HasField("shape"):  # of a node that onnx does not know
            each.CopyFrom(helper.make_tensor_value_info(each.name, onnx.TensorProto.FLOAT, ["n", 3, 8, 10]))
    onnx.save(model, file)
    return file


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs.split(","), [output], name=f"{output}_node", **attributes)


def same(file: Path, shape: tuple[int, ...] = (2, 3, 8, 10)) -> Imported:
    """The file read; what it computes and what was read, exported, are equal in onnxruntime."""
    read, batch = read_onnx(file), RNG.standard_normal(shape, np.float32)
    expected = outputs(onnx.load(file), batch)
    given = outputs(to_onnx(read.graph, read.weights), batch)
    for name, other in zip(expected, given.values(), strict=True):
        assert expected[name].shape == other.shape
        assert np.allclose(other, expected[name], rtol=1e-5, atol=1e-6), name
    return read


W3 = {"w": values(4, 3, 3, 3), "b": values(4)}


@pytest.mark.parametrize(
    ("attributes", "padding"),
    [
        ({"auto_pad": "SAME_UPPER", "strides": [2, 3]}, ((0, 1), (1, 1))),
        ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, ((1, 0), (1, 0))),
        ({"auto_pad": "VALID", "dilations": [2, 1]}, ((0, 0), (0, 0))),
        ({"pads": [1, 0, 2, 1]}, ((1, 2), (0, 1))),
        ({}, ((0, 0), (0, 0))),
    ],
)
def test_a_convolutions_padding_is_stated_in_full(attributes: Any, padding: Any, tmp_path: Path) -> None:
    file = written(tmp_path / "f", [node("Conv", "x,w,b", "y", **attributes)], W3)
    assert same(file).graph["y"].op.padding == padding  # type: ignore[attr-defined]


def test_pad_becomes_the_padding_of_what_follows(tmp_path: Path) -> None:
    """An average then counts its zeros; a maximum takes minus infinity alone."""
    pads = {"p": np.array([0, 0, 1, 0, 0, 0, 1, 2]), "low": np.array(-np.inf, np.float32)}
    nodes = [
        node("Pad", "x,p", "a"),
        node("Conv", "a,w,b", "c", pads=[1, 1, 1, 1]),
        node("Pad", "c,p", "d"),
        node("AveragePool", "d", "e", kernel_shape=[2, 3], strides=[2, 2]),
        node("Pad", "e,p,low", "f"),
        node("MaxPool", "f", "y", kernel_shape=[2, 3], strides=[1, 1]),
    ]
    read = same(written(tmp_path / "f", nodes, W3 | pads))
    assert [each.name for each in read.graph] == ["x", "c", "e", "y"]
    assert read.graph["c"].op.padding == ((2, 2), (1, 3))  # type: ignore[attr-defined]


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_pooling_with_ceil_mode_is_pytorchs(kind: str, include: int, tmp_path: Path) -> None:
    more = {"count_include_pad": include} if kind == "AveragePool" else {}
    nodes = [node(kind, "x", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, **more)]
    read = same(written(tmp_path / "f", nodes, {}))
    assert read.graph["y"].shape == (4, 5, 3)


def test_a_flattened_images_matrix_is_put_in_our_order(tmp_path: Path) -> None:
    """Channels first is flattened; batch norm and PReLU on the vector follow the order too."""
    constants = {
        **{"w1": values(240, 5), "w2": values(5, 4), "b2": values(4), "alpha": values(240), "shape": np.array([0, -1])},
        **{name: abs(values(240)) for name in ("g", "o", "m", "v")},
    }
    nodes = [
        node("Reshape", "x,shape", "flat"),
        node("BatchNormalization", "flat,g,o,m,v", "norm"),
        node("PRelu", "norm,alpha", "act"),
        node("MatMul", "act,w1", "d1"),
        node("Gemm", "d1,w2,b2", "d2", alpha=0.5, beta=2.0),
        node("Softmax", "d2", "y", axis=1),
    ]
    read = same(written(tmp_path / "f", nodes, constants))
    assert isinstance(read.graph["flat"].op, ops.Flatten)


def test_two_flattened_images_side_by_side_keep_their_orders(tmp_path: Path) -> None:
    nodes = [
        node("Flatten", "x", "f1"),
        node("MaxPool", "x", "small", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "small", "f2"),
        node("Concat", "f2,f1", "both", axis=1),
        node("MatMul", "both,w", "y"),
    ]
    same(written(tmp_path / "f", nodes, {"w": values(300, 4)}))


def test_a_bias_added_after_is_taken_in_where_nothing_else_sees_the_sum_without(tmp_path: Path) -> None:
    constants = {"w": values(4, 3, 1, 1), "b": values(4, 1, 1)}
    nodes = [node("Conv", "x,w", "c"), node("Add", "c,b", "d"), node("Relu", "d", "y")]
    read = same(written(tmp_path / "f", nodes, constants))
    assert read.graph["c"].op.bias  # type: ignore[attr-defined]
    nodes = [node("Conv", "x,w", "c"), node("Add", "b,c", "d"), node("Concat", "c,d", "y", axis=1)]
    with pytest.raises(DataError, match=r"node 'd_node' \(Add\): with a stored constant is supported as the bias"):
        read_onnx(written(tmp_path / "f", nodes, constants))


@pytest.mark.parametrize(
    ("slope", "alpha"),
    [((3, 1, 1), (3,)), ((1, 3, 1, 1), (3,)), ((1,), (3,)), ((3, 8, 10), (8, 10, 3)), ((10,), (8, 10, 3))],
)
def test_a_prelus_slope_is_of_channels_or_voxels(slope: Any, alpha: Any, tmp_path: Path) -> None:
    read = same(written(tmp_path / "f", [node("PRelu", "x,s", "y")], {"s": values(*slope)}))
    assert read.weights["y", "alpha"].shape == alpha


@pytest.mark.parametrize(
    ("mode", "op"),
    [
        (
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
            ops.Upsample((2, 2)),
        ),
        ({"mode": "nearest", "coordinate_transformation_mode": "half_pixel"}, ops.Upsample((2, 2))),
        ({"mode": "linear", "coordinate_transformation_mode": "half_pixel"}, ops.Resize((16, 20), "bilinear", False)),
        ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, ops.Resize((16, 20), "bilinear", True)),
    ],
)
def test_resizing_by_scales_is_read_by_what_it_takes(mode: Any, op: ops.Op, tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Resize", ["x", "", "s"], ["y"], **mode)]
    read = same(written(tmp_path / "f", nodes, {"s": np.array([1, 1, 2, 2], np.float32)}))
    assert read.graph["y"].op == op


def test_shapes_that_a_file_computes_are_worked_out(tmp_path: Path) -> None:
    """Resize to the size of another tensor, as exporters write a skip connection."""
    nodes = [
        node("MaxPool", "x", "small", kernel_shape=[3, 3], strides=[3, 3]),
        node("Shape", "x", "shape"),
        node("Slice", "shape,two,four", "spatial"),
        node("Shape", "small", "other"),
        node("Slice", "other,zero,two", "before"),
        node("Concat", "before,spatial", "size", axis=0),
        onnx.helper.make_node("Resize", ["small", "", "", "size"], ["up"], mode="linear"),
        node("Add", "up,x", "y"),
    ]
    constants = {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4])}
    read = same(written(tmp_path / "f", nodes, constants))
    assert [each.name for each in read.graph] == ["x", "small", "up", "y"]


def test_squeeze_and_excite_keeps_axes_of_size_1_between_matrix_products(tmp_path: Path) -> None:
    nodes = [
        node("ReduceMean", "x,axes", "mean", keepdims=0),
        node("Gemm", "mean,w,b", "gate", transB=1),
        node("Sigmoid", "gate", "open"),
        node("Unsqueeze", "open,axes", "wide"),
        node("Mul", "x,wide", "y"),
    ]
    same(written(tmp_path / "f", nodes, {"axes": np.array([2, 3]), "w": values(3, 3), "b": values(3)}))


def test_an_image_that_is_moved_to_channels_first_has_its_channels_last_already(tmp_path: Path) -> None:
    """As TensorFlow's files are: our graph has no transposition, and takes images as the file does."""
    nodes = [
        node("Transpose", "x", "first", perm=[0, 3, 1, 2]),
        node("Conv", "first,w,b", "c", pads=[1, 1, 1, 1]),
        node("Transpose", "c", "last", perm=[0, 2, 3, 1]),
        node("MatMul", "last,k", "y"),
    ]
    file = written(tmp_path / "f", nodes, W3 | {"k": values(4, 2)}, shape=("n", 8, 10, 3))
    read, batch = read_onnx(file), values(2, 8, 10, 3)
    assert read.graph.inputs[0].shape == (8, 10, 3)
    assert [type(each.op) for each in read.graph] == [ops.Input, ops.Conv, ops.Dense]
    (given,) = outputs(to_onnx(read.graph, read.weights), np.ascontiguousarray(np.moveaxis(batch, -1, 1))).values()
    assert np.allclose(np.moveaxis(given, 1, -1), outputs(onnx.load(file), batch)["y"], atol=1e-5)


TWICE = {"s": np.array([1, 1, 2, 2], np.float32)}
NARROW = {"p": np.array([0, 0, 1, 0, 0, 0, 0, 0])}


def resize(**modes: Any) -> Any:
    return onnx.helper.make_node("Resize", ["x", "", "s"], ["z"], **modes)


@pytest.mark.parametrize(
    ("nodes", "constants", "words"),
    [
        (
            [node("Erf", "x", "y"), node("Tan", "y", "z")],
            {},
            r"2 nodes cannot be read: 'y_node' \(Erf\), 'z_node' \(Tan\); supported: Add, ",
        ),
        ([onnx.helper.make_node("Fancy", ["x"], ["z"], domain="vendor")], {}, r"'z' \(vendor\.Fancy\)"),
        ([node("Conv", "x,k", "z", group=3)], {"k": values(3, 1, 1, 1)}, r"\(Conv\): grouped convolution"),
        ([node("Conv", "x,x", "z")], {}, r"\(Conv\): 'x' is computed or fed, expected a stored weight"),
        ([node("Conv", "x,k", "z")], {"k": values(3, 3, 1, 1).astype("f8")}, r"\(Conv\): expected float32 .* float64"),
        ([node("Conv", "x,k", "z")], {"k": values(3, 5, 1, 1)}, "its kernel takes 5 channels, received 3"),
        ([node("Conv", "x,k", "z")], {"k": values(3, 3, 9, 1)}, r"does not fit into an input of \(8, 10, 3\)"),
        ([node("ConvTranspose", "x,k", "z", pads=[1] * 4)], {"k": values(3, 2, 3, 3)}, "cropped or extended"),
        ([node("MaxPool", "x", "z", kernel_shape=[2, 2], dilations=[2, 2])], {}, "dilated pooling"),
        ([node("AveragePool", "x", "z", kernel_shape=[3, 3], pads=[1] * 4)], {}, "leaves out its padding"),
        ([node("Pad", "x,p", "a"), node("Relu", "a", "z")], NARROW, r"\(Relu\): reads the result of Pad"),
        ([node("Softmax", "x", "z", axis=3)], {}, "softmax over other axes"),
        ([node("Concat", "x,x", "z", axis=2)], {}, "other axes than the channels"),
        ([node("Mul", "x,two", "z")], {"two": np.array(2.0, np.float32)}, r"\(Mul\): with a stored constant"),
        ([node("Reshape", "x,r", "z")], {"r": np.array([0, 6, 4, 10])}, r"from \(1, 3, 8, 10\) to \(1, 6, 4, 10\)"),
        ([node("Flatten", "x", "z")], {}, "output 'z' is a flattened image, channels first"),
        (
            [node("Transpose", "x", "a", perm=[0, 2, 1, 3]), node("GlobalAveragePool", "a", "z")],
            {},
            "flattened or transposed",
        ),
        ([resize(mode="cubic")], TWICE, "cubic"),
        ([resize(mode="nearest", nearest_mode="ceil")], TWICE, "other voxels than"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_node(nodes: Any, constants: Any, words: str, tmp_path: Path) -> None:
    file = written(tmp_path / "net.onnx", nodes, constants, outputs=("z",))
    with pytest.raises(DataError, match=rf"^{file}: .*{words}") as caught:
        read_onnx(file)
    assert "\n" not in str(caught.value)


TORCH = """
import sys, warnings
import numpy as np, torch
from torch import nn

class Block(nn.Sequential):
    def __init__(self, i, o):
        super().__init__(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(),
                         nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.PReLU(o))

class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d, self.e = Block(2, 4), Block(4, 8), Block(8, 8), Block(16, 8), Block(12, 4)
        self.pool, self.up = nn.MaxPool2d(2), nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.smooth = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.near, self.drop, self.out = nn.Upsample(scale_factor=2), nn.Dropout2d(0.3), nn.Conv2d(4, 1, 1)
        self.mean, self.f1, self.f2 = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 2), nn.Linear(2, 8)

    def forward(self, x):
        a = self.a(x); b = self.b(self.pool(a)); c = self.drop(self.c(self.pool(b)))
        c = c * torch.sigmoid(self.f2(torch.relu(self.f1(self.mean(c).flatten(1)))))[:, :, None, None]
        d = self.d(torch.cat([self.up(c), b], 1))
        return torch.sigmoid(self.out(self.e(torch.cat([self.smooth(d), a], 1)) + self.near(self.pool(a))))

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6), nn.MaxPool3d(2)
        self.instance, self.f1, self.f2 = nn.InstanceNorm3d(6, affine=True), nn.Linear(288, 10), nn.Linear(10, 2)
        self.f1n = nn.BatchNorm1d(10)

    def forward(self, x):
        x = self.pool(self.instance(nn.functional.leaky_relu(self.norm(self.conv(x)), 0.1)))
        return torch.softmax(self.f2(self.f1n(torch.relu(self.f1(x.view(x.size(0), -1))))), 1)

network, exporter, file = sys.argv[1:]
torch.manual_seed(0)
torch.set_num_threads(1)
model, shape = (UNet(), (2, 16, 24)) if network == "unet" else (Classifier(), (2, 10, 10, 9))
for parameter in model.parameters():
    nn.init.normal_(parameter, 0, 0.3)
for module in model.modules():
    if hasattr(module, "running_var") and module.running_var is not None:
        module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
model.eval()
x = torch.randn(2, *shape)
names = {"input_names": ["image"], "output_names": ["probability"]}
warnings.simplefilter("ignore")
if exporter == "dynamo":
    batch = torch.export.Dim("batch")
    torch.onnx.export(model, (x,), file, dynamo=True, external_data=False, dynamic_shapes=({0: batch},), **names)
else:
    axes = {"image": {0: "batch"}} if exporter == "open" else None
    torch.onnx.export(model, (x,), file, dynamo=False, opset_version=17, dynamic_axes=axes, **names)
np.savez(file + ".npz", x=x.numpy(), y=model(x).detach().numpy())
"""


@pytest.mark.parametrize("exporter", ["fixed", "open", pytest.param("dynamo", marks=pytest.mark.slow)])
@pytest.mark.parametrize("network", ["unet", "classifier"])
def test_pytorchs_network_computes_here_what_it_does_there(network: str, exporter: str, tmp_path: Path) -> None:
    """In a process of its own: no process has two frameworks."""
    pytest.importorskip("torch")
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
    file = tmp_path / "net.onnx"
    done = subprocess.run(
        [sys.executable, "-c", TORCH, network, exporter, str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(f"{file}.npz") as kept:
        x, y = kept["x"], kept["y"]
    read = read_onnx(file)
    assert read.graph.inputs[0].name == "image"
    assert read.graph.outputs == ("probability",)
    (given,) = outputs(to_onnx(read.graph, read.weights), x).values()
    assert np.ptp(y) > 0.02
    assert np.abs(given - y).max() < 1e-6


EDDL = """
import sys
import numpy as np
import pyeddl.eddl as eddl
from pyeddl.tensor import Tensor

def block(x, filters):
    return eddl.ReLu(eddl.BatchNormalization(eddl.Conv(x, filters, [3, 3], [1, 1], "same"), True, 0.9, 1e-5))

image = eddl.Input([1, 16, 24])
a = block(image, 4)
b = eddl.UpSampling(block(eddl.MaxPool(a, [2, 2], [2, 2]), 8), [2, 2])
out = eddl.Sigmoid(eddl.Conv(block(eddl.Concat([a, b]), 4), 1, [1, 1]))
net = eddl.Model([image], [out])
eddl.build(net, eddl.adam(1e-3), ["binary_cross_entropy"], ["mse"], eddl.CS_CPU(1, "full_mem"))
eddl.set_mode(net, 0)
x = np.random.default_rng(0).standard_normal((2, 1, 16, 24), np.float32)
y = eddl.predict(net, [Tensor.fromarray(x)])[0].getdata()
eddl.save_net_to_onnx_file(net, sys.argv[1])
np.savez(sys.argv[1] + ".npz", x=x, y=y)
"""


@pytest.mark.pyeddl
def test_eddls_network_computes_here_what_it_does_there(tmp_path: Path) -> None:
    pytest.importorskip("pyeddl")
    file = tmp_path / "net.onnx"
    done = subprocess.run([sys.executable, "-c", EDDL, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(f"{file}.npz") as kept:
        x, y = kept["x"], kept["y"]
    read = read_onnx(file)
    assert read.opset == 11
    (given,) = outputs(to_onnx(read.graph, read.weights), x).values()
    assert np.ptp(y) > 0.1
    assert np.abs(given - y).max() < 1e-6
