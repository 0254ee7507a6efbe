"""One process of a group: the first training step on an even and on an uneven joint batch, for several losses.

argv: backend, rank, size, address, file to write. By loss and number of images the file has the joint loss, this
process's outputs, the running statistics and Adam's first moments, which are a tenth of the gradients; by other
optimizer, the weights after a step on each.
"""

import re
import sys
from typing import Any

import numpy as np

from mspipeline.backends.base import Execution
from mspipeline.backends.process_group import ProcessGroup
from mspipeline.backends.registry import create
from mspipeline.losses import make_loss
from mspipeline.network.graph import Builder
from mspipeline.network.ops import BatchNorm, Conv, Dropout, Input, Relu, Sigmoid, Softmax
from mspipeline.network.weights import initial_weights
from mspipeline.optimizers import Adadelta, Adam, Optimizer, Sgd
from mspipeline.training.data_parallel import DataParallel

LOSSES = {
    "bce": make_loss("bce"),
    "dice": make_loss("dice"),
    "bce_dice": make_loss("bce_dice"),
    "weighted_ce": make_loss("weighted_ce", class_weights=(0.2, 0.8)),
    "categorical_ce": make_loss("categorical_ce"),
    "ce_dice": make_loss("ce_dice"),
    "batch_ce_dice": make_loss("ce_dice", batch_dice=True),
}
SEVERAL = ("categorical_ce", "ce_dice", "batch_ce_dice")
COUNTS = (4, 3)
RULES: dict[str, Optimizer] = {
    "sgd": Sgd(0.5, momentum=0.9, weight_decay=0.1, clip_norm=0.05),
    "adadelta": Adadelta(epsilon=1e-2),
}


def small_graph(loss):
    """Two convolutions, batch normalisation and dropout between them; two classes where the loss is of several."""
    build, classes = Builder("small"), 2 if loss in SEVERAL else 1
    x = build.add("image", Input((8, 8, 1)))
    x = build.add("conv", Conv(3, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), bias=False), x)
    x = build.add("act", Relu(), build.add("norm", BatchNorm(0.9, 1e-5), x))
    x = build.add("drop", Dropout(0.25), x)
    x = build.add("logits", Conv(classes, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), bias=True), x)
    if loss in ("ce_dice", "batch_ce_dice"):
        return build.graph(x)
    return build.graph(build.add("out", Softmax() if classes == 2 else Sigmoid(), x))


def joint_batch(loss, count):
    """Images that differ much from one another, so that no share's statistics are the batch's."""
    random = np.random.default_rng(count)
    images = (random.normal(size=(count, 8, 8, 1)) * (1 + np.arange(count)).reshape(-1, 1, 1, 1)).astype(np.float32)
    lesion = (random.random((count, 8, 8, 1)) < 0.1 * (1 + np.arange(count)).reshape(-1, 1, 1, 1)).astype(np.float32)
    return images, np.concatenate([1 - lesion, lesion], axis=-1) if loss in SEVERAL else lesion


def main(name, rank, size, address, file):
    group = ProcessGroup(int(rank), int(size), address)
    found: dict[str, Any] = {}
    for loss, settings in LOSSES.items():
        graph = small_graph(loss)
        backend = create(name)
        backend.build(graph, Execution(device="cpu", threads=1, group=group))
        backend.compile(settings, Adam(1e-3, clip_norm=0.05))
        fresh = backend.state()
        for count in COUNTS:
            backend.set_weights(initial_weights(graph, 0))
            backend.set_state(fresh)
            images, masks = joint_batch(loss, count)
            share = DataParallel(backend, group).share(images, masks, np.arange(count, dtype=np.int32))
            step = backend.train_step(share.images, share.masks, replicated=share.replicated)
            key = f"{loss} {count} "
            found |= {key + "loss": step.loss, key + "output": step.probability, key + "cases": share.cases}
            found |= {f"{key}weight {'/'.join(name)}": values for name, values in backend.weights().items()}
            moments = {n: v for n, v in backend.state().items() if re.search("momentum$|exp_avg$", n)}
            found |= {f"{key}moment {name}": values for name, values in moments.items()}
            found[key + "evaluated"] = backend.evaluate_step(
                share.images, share.masks, replicated=share.replicated
            ).loss
    for optimizer, rule in RULES.items():
        graph = small_graph("bce")
        backend = create(name)
        backend.build(graph, Execution(device="cpu", threads=1, group=group))
        backend.compile(LOSSES["bce"], rule)
        backend.set_weights(initial_weights(graph, 0))
        for count in COUNTS:
            images, masks = joint_batch("bce", count)
            share = DataParallel(backend, group).share(images, masks, np.arange(count, dtype=np.int32))
            backend.train_step(share.images, share.masks, replicated=share.replicated)
        found |= {f"{optimizer} rule {'/'.join(name)}": values for name, values in backend.weights().items()}
    found["gathered"] = backend.gather(np.array([group.rank + 0.5, 1e300]))
    np.savez(file, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
