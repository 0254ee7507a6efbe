"""Dense tiles against patches, on networks with random weights; and what decides between the two."""

from __future__ import annotations

import itertools
import math
import re
import time

import numpy as np
import pytest

from mspipeline.backends.base import Backend, Execution
from mspipeline.backends.registry import create
from mspipeline.channels import channels_of
from mspipeline.dense import cost_model
from mspipeline.dense.compiler import tile_program
from mspipeline.dense.cost_model import CostModel
from mspipeline.dense.tiles import cut, deal, fitting_program, peak_bytes
from mspipeline.errors import BackendError, ConfigError, ShapeError
from mspipeline.models.catalogue import build
from mspipeline.network.cost import cost
from mspipeline.network.graph import Builder, Graph, Node
from mspipeline.network.ops import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Input,
    LeakyRelu,
    MaxPool,
    Op,
    Relu,
    Sigmoid,
    Softmax,
)
from mspipeline.network.weights import Weights, initial_weights
from mspipeline.recipes.patches3d.cascade import predict_cascade, predict_patches
from mspipeline.recipes.patches3d.voxelwise import Inference, VoxelNetwork
from mspipeline.volume import FloatArray

EXECUTION = Execution(device="cpu", threads=2)
NARROW = build("cascade3d", (11, 11, 11, 2), {"base_width": 3})
WIDER = build("cascade3d", (11, 11, 11, 2), {"base_width": 8})
"""A dense tile of 8^3 is as much work as 157 of its patches."""


def random_weights(graph: Graph) -> Weights:
    """Normalisations with means, variances and gammas of either sign; answers that differ from voxel to voxel."""
    random = np.random.default_rng(5)
    weights = {}
    for key, spec in graph.weights().items():
        values = random.normal(0, 0.1, spec.shape)
        if key[1] == "kernel":
            values = random.normal(0, np.sqrt(2 / np.prod(spec.shape[:-1])), spec.shape)
        elif key[1] == "variance":
            values = random.uniform(0.5, 2, spec.shape)
        elif key[1] in ("gamma", "alpha"):
            values = random.normal(0, 1 if key[1] == "gamma" else 0.2, spec.shape)
        weights[key] = values.astype(np.float32)
    return weights


def trained(graph: Graph) -> Backend:
    backend = create("tensorflow")
    backend.build(graph, EXECUTION)
    backend.set_weights(random_weights(graph))
    return backend


def both(network: VoxelNetwork, graph: Graph, image: FloatArray, places: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """What dense tiles say and what patches say."""
    size = graph.inputs[0].shape[:3]
    return network.predict(image, places, batch_size=64), predict_patches(
        network.backend, network.channels, image, places, (size[0], size[1], size[2]), batch_size=64, threads=2
    )


def volume(*shape: int) -> FloatArray:
    return np.random.default_rng(7).normal(0, 2, shape).astype(np.float32)


def uneven() -> Graph:
    """Axes that differ in all: kernels, dilations, padding before and after, pooling, the patch."""
    builder = Builder("uneven")
    x = builder.add("image", Input((9, 7, 5, 2)))
    x = builder.add("conv1", Conv(3, (3, 2, 1), (1, 1, 1), (2, 1, 1), ((2, 1), (0, 1), (0, 0)), bias=True), x)
    x = builder.add("act1", LeakyRelu(0.2), x)
    x = builder.add("bn1", BatchNorm(0.9, 1e-3), x)
    x = builder.add("pool1", MaxPool((2, 3, 1), (3, 2, 1), ((0, 0),) * 3, ceil=False), x)
    x = builder.add("conv2", Conv(4, (2, 3, 3), (1, 1, 1), (1, 1, 2), ((1, 0), (1, 1), (2, 2)), bias=False), x)
    x = builder.add("bn2", BatchNorm(0.9, 1e-3), x)
    x = builder.add("act2", Relu(), x)
    x = builder.add("drop", Dropout(0.5), builder.add("flat", Flatten(), x))
    x = builder.add("fc", Dense(2, bias=True), x)
    return builder.graph(builder.add("probability", Softmax(), x))


def ending_in(op: Op, graph: Graph) -> Graph:
    """A network that gives logits, with what makes probabilities of them."""
    (logits,) = graph.outputs
    node = Node("probability", op, (logits,), graph[logits].shape)
    return Graph(graph.name, (*graph.nodes, node), (node.name,))


GRAPHS = {
    "cascade3d": NARROW,
    "normalised_after_relu": ending_in(Softmax(), build("cascade3d_report_tf", (11, 11, 11, 1), {})),
    "one_logit": ending_in(Sigmoid(), build("cascade3d_report_eddl", (7, 8, 9, 2), {})),
    "nicms_on_small_patches": build("nicms", (7, 7, 7, 2), {"prelu": "channel"}),
    "uneven": uneven(),
}


@pytest.mark.usefixtures("backend_needed")
@pytest.mark.parametrize("name", GRAPHS)
def test_tiles_say_what_patches_say_at_every_voxel(name: str) -> None:
    """13 x 10 x 9 voxels: smaller than a patch in places, all borders, and no multiple of a tile of 8 or 6."""
    graph = GRAPHS[name]
    backend, image = trained(graph), volume(13, 10, 9, graph.inputs[0].shape[3])
    network = VoxelNetwork(backend, graph, EXECUTION, inference="dense", memory_budget_mb=160)
    dense, patches = both(network, graph, image, np.argwhere(np.ones(image.shape[:3], bool)))
    assert np.ptp(patches) > 5e-3  # 500 tolerances: a wrong class would show
    assert np.abs(dense - patches).max() < 1e-5 * max(1, np.abs(patches).max())  # a logit may be above 1


@pytest.mark.long
@pytest.mark.usefixtures("backend_needed")
def test_nicms_whole_tiles_say_what_patches_say() -> None:
    graph = build("nicms", (11, 11, 11, 2), {"prelu": "channel"})
    image = volume(14, 12, 9, 2)
    network = VoxelNetwork(trained(graph), graph, EXECUTION, inference="dense", memory_budget_mb=1024)
    dense, patches = both(network, graph, image, np.argwhere(np.ones(image.shape[:3], bool)))
    assert np.ptp(patches) > 5e-3  # 500 tolerances: a wrong class would show
    assert np.abs(dense - patches).max() < 1e-5 * max(1, np.abs(patches).max())  # a logit may be above 1


@pytest.mark.usefixtures("backend_needed")
def test_a_few_candidates_far_apart_and_none_are_answered() -> None:
    image = volume(40, 9, 31, 2)
    places = np.array([[0, 0, 0], [39, 8, 30], [17, 4, 2], [20, 0, 30]])
    network = VoxelNetwork(trained(NARROW), NARROW, EXECUTION, inference="dense", memory_budget_mb=150)
    told: list[int] = []
    dense = network.predict(image, places, batch_size=2, report=told.append)
    by_patches = predict_patches(network.backend, network.channels, image, places, (11, 11, 11), batch_size=4)
    assert np.abs(dense - by_patches).max() < 1e-5
    assert told == sorted(told)
    assert told[-1] == len(places)
    assert network.predict(image, np.empty((0, 3), np.int64), batch_size=2).shape == (0,)


@pytest.mark.usefixtures("backend_needed")
def test_a_cascade_of_dense_stages_gives_the_map_of_patches() -> None:
    backend, image = trained(NARROW), volume(12, 11, 10, 2)
    places = np.argwhere(image[..., 0] > -1)
    scores = np.sort(predict_patches(backend, channels_of(NARROW, ()), image, places, (11, 11, 11), batch_size=256))
    widest = len(scores) // 4 + int(np.argmax(np.diff(scores[len(scores) // 4 : -len(scores) // 4])))
    limit = float(scores[widest : widest + 2].mean())  # rounding moves no voxel across it
    ways: tuple[Inference, ...] = ("dense", "patches")
    dense, patches = (
        predict_cascade(
            [VoxelNetwork(backend, NARROW, EXECUTION, inference=how)] * 2,
            image,
            places,
            pass_above=limit,
            batch_size=256,
        )
        for how in ways
    )
    assert 0 < np.count_nonzero(patches) < len(places)
    assert np.abs(dense - patches).max() < 1e-5 * max(1, np.abs(patches).max())  # a logit may be above 1


@pytest.mark.usefixtures("backend_needed")
def test_auto_takes_the_same_way_however_slow_the_machine_and_whatever_came_before(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles of 8^3: full ones are dense, those at the end of the volume, a layer thick, go by patches."""
    caplog.set_level("INFO", logger="mspipeline.recipes.patches3d.voxelwise")
    image = volume(25, 24, 24, 2)
    places = np.argwhere(np.ones(image.shape[:3], bool))
    backend, corner = trained(WIDER), np.argwhere(np.ones((8, 8, 8), bool))
    of_patches = 5000 * cost(WIDER).macs  # so much work the program is counted as; one tile saves that of 355
    monkeypatch.setattr(cost_model, "SETUP_MACS_PER_NODE", of_patches // 310)
    first = VoxelNetwork(backend, WIDER, EXECUTION, memory_budget_mb=160)
    once = first.predict(image, places, batch_size=512)
    few = first.predict(image, corner, batch_size=512)  # though the program is made now
    ticks = itertools.count(step=1000)
    for clock in ("perf_counter", "monotonic", "time", "process_time"):
        monkeypatch.setattr(time, clock, lambda: float(next(ticks)))
    slow = VoxelNetwork(backend, WIDER, EXECUTION, memory_budget_mb=160)
    assert np.array_equal(slow.predict(image, corner, batch_size=512), few)
    assert np.array_equal(slow.predict(image, places, batch_size=512), once)
    way_of_all, way_of_few = (
        "voxels done all=14400 by_patches=576 dense_tiles=27",
        "voxels done all=512 by_patches=512 dense_tiles=0",
    )
    ways = [record.message for record in caplog.records if record.message.startswith("voxels done")]
    assert ways == [way_of_all, way_of_few, way_of_few, way_of_all]
    patches = predict_patches(backend, first.channels, image, places[::37], (11, 11, 11), batch_size=64)
    assert np.abs(once[::37] - patches).max() < 1e-5


def test_a_tile_is_dense_where_its_patches_would_be_more_arithmetic() -> None:
    costs = CostModel(patch_macs=1_000_000, tile_macs=2_000_000, nodes=100)
    # A dense multiply-accumulate counts 1 / 0.4, so the tile as 5 patches; the program, of 100 nodes, as 30,000.
    assert [costs.prefers_dense(count) for count in (5, 6)] == [False, True]
    assert [costs.repays_setup([each]) for each in (5 + 30_000, 5 + 30_001)] == [False, True]
    assert costs.repays_setup([5 + 20_000, 5 + 10_001])
    assert not costs.repays_setup([5 + 20_000, 3, 5 + 10_000])


def test_a_case_of_thousands_of_candidates_close_together_is_dense_and_one_of_a_few_is_not() -> None:
    """The network and the numbers of docs/performance.md: 342,972 candidates took 64 s instead of 240 s."""
    graph = build("cascade3d", (11, 11, 11, 3), {})
    program = tile_program(graph, initial_weights(graph, 0), (24, 24, 24))
    costs = CostModel(cost(graph).macs, program.macs, len(program.graph.nodes))
    assert costs.repays_setup([4000] * 85)
    assert costs.prefers_dense(4000)
    assert not costs.prefers_dense(1000)
    assert not costs.repays_setup([4000] * 2)


@pytest.mark.usefixtures("backend_needed")
def test_a_budget_below_the_smallest_tile_is_told_with_what_would_do() -> None:
    backend = trained(NARROW)
    with pytest.raises(ConfigError, match=r"tiles of 8\^3 voxels, the smallest, need \d+ MB, the budget is 20 MB") as e:
        VoxelNetwork(backend, NARROW, EXECUTION, inference="dense", memory_budget_mb=20)
    enough = int(re.findall(r"--memory-budget-mb (\d+) or more, or use --inference patches", str(e.value))[0])
    assert fitting_program(NARROW, backend.weights(), enough).tile == (8, 8, 8)
    with pytest.raises(ConfigError):
        fitting_program(NARROW, backend.weights(), enough - 1)
    image, places = volume(6, 6, 6, 2), np.array([[1, 2, 3], [5, 5, 5]])
    found, patches = both(VoxelNetwork(backend, NARROW, EXECUTION, memory_budget_mb=20), NARROW, image, places)
    assert np.array_equal(found, patches)  # "auto" does without


def test_the_largest_tile_within_the_budget_is_taken() -> None:
    weights = initial_weights(NARROW, 0)
    needs = {side: peak_bytes(tile_program(NARROW, weights, (side,) * 3)) / 2**20 for side in (8, 16)}
    assert needs[8] < needs[16]
    assert fitting_program(NARROW, weights, math.ceil(needs[16]) - 1).tile == (8, 8, 8)
    assert fitting_program(NARROW, weights, math.ceil(needs[16])).tile == (16, 16, 16)


@pytest.mark.usefixtures("backend_needed")
def test_alphas_of_each_voxel_are_refused_and_left_to_patches_by_auto() -> None:
    graph = build("nicms", (7, 7, 7, 2), {})
    backend, image, places = trained(graph), volume(5, 6, 7, 2), np.array([[0, 0, 0], [4, 5, 6]])
    with pytest.raises(BackendError, match=r"nicms has no dense form: .* an alpha for each voxel .*--inference auto"):
        VoxelNetwork(backend, graph, EXECUTION, inference="dense")
    found, patches = both(VoxelNetwork(backend, graph, EXECUTION), graph, image, places)
    assert np.array_equal(found, patches)


def test_a_tile_that_phases_do_not_divide_is_refused() -> None:
    with pytest.raises(
        ShapeError, match=r"tile of \(8, 7, 8\) voxels for cascade3d; expected multiples of \(2, 2, 2\)"
    ):
        tile_program(NARROW, initial_weights(NARROW, 0), (8, 7, 8))


def test_candidates_are_dealt_each_to_the_tile_that_holds_it_the_fullest_tile_first() -> None:
    random = np.random.default_rng(3)
    places = np.unique(random.integers(2, [40, 20, 33], (500, 3)), axis=0)
    tiles = deal(places, 8)
    assert sorted(np.concatenate([tile.members for tile in tiles])) == list(range(len(places)))
    for tile in tiles:
        assert ((places[tile.members] - tile.first) // 8 == 0).all()
        assert ((tile.first - places.min(axis=0)) % 8 == 0).all()
    counts = [len(tile.members) for tile in tiles]
    assert counts == sorted(counts, reverse=True)
    assert deal(np.empty((0, 3), np.int64), 8) == []


def test_what_a_tile_reads_beyond_the_volume_is_zero() -> None:
    image = volume(5, 4, 3, 2)
    padded = np.pad(image, [(4, 6), (4, 6), (4, 6), (0, 0)])
    for low, high in (
        ([-4, -1, 0], [3, 5, 9]),
        ([1, 1, 1], [3, 3, 3]),
        ([5, 0, 0], [8, 2, 2]),
        ([-3, 0, 0], [0, 1, 1]),
    ):
        box = tuple(slice(a + 4, b + 4) for a, b in zip(low, high, strict=True))
        assert np.array_equal(cut(image, np.array(low), np.array(high)), padded[box])
