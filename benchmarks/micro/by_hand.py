"""The U-Net of `models.unet2d` written by hand in each engine, as its users write it: the peers of `adapter_step`.

Each maker takes the base width and a number of threads, and gives step(images, masks) -> (loss, probabilities), which
trains by Adam on binary cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mspipeline.backends.keras.backend import load_keras

Step = Callable[[Any, Any], tuple[float, np.ndarray]]
DEPTH = 4
FLOOR = 1e-7


def tensorflow_step(width: int, threads: int) -> Step:
    """Keras layers and Keras' Adam in one `tf.function`. Threads are those that the process has set before."""
    keras = load_keras("tensorflow")
    import tensorflow as tf

    if not tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(min(2, threads))
    layers = keras.layers

    def block(x: Any, filters: int, kernel: int) -> Any:
        x = layers.Conv2D(filters, kernel, padding="same")(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    image = x = keras.Input((None, None, 1))
    skips = []
    for level in range(DEPTH):
        x = block(block(x, width << level, 3), width << level, 3)
        x = layers.Dropout(0.5)(x) if level == DEPTH - 1 else x
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dropout(0.5)(block(block(x, width << DEPTH, 3), width << DEPTH, 3))
    for level in reversed(range(DEPTH)):
        x = block(layers.UpSampling2D()(x), width << level, 2)
        x = layers.Concatenate()([skips[level], x])
        x = block(block(x, width << level, 3), width << level, 3)
    x = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(1, 1)(block(x, 2, 3)))
    model = keras.Model(image, layers.Activation("sigmoid")(x))
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)

    def train(images: Any, masks: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            probability = model(images, training=True)
            p = tf.clip_by_value(probability, FLOOR, 1 - FLOOR)
            loss = -tf.reduce_mean(masks * tf.math.log(p) + (1 - masks) * tf.math.log(1 - p))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss, probability

    compiled = tf.function(train, reduce_retracing=True)

    def step(images: Any, masks: Any) -> tuple[float, np.ndarray]:
        loss, probability = compiled(images, masks)
        return float(loss), probability.numpy()

    return step


def torch_step(width: int, threads: int) -> Step:
    """`torch.nn` modules in the `channels_last` memory format, which is the faster one here, and fused Adam."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(threads)

    def block(channels: int, filters: int, kernel: int) -> Any:
        before = [nn.ZeroPad2d((0, 1, 0, 1))] if kernel == 2 else []
        conv = nn.Conv2d(channels, filters, kernel, padding=1 if kernel == 3 else 0)
        return nn.Sequential(*before, conv, nn.BatchNorm2d(filters, eps=1e-3), nn.ReLU(inplace=True))

    widths = [width << level for level in range(DEPTH + 1)]

    class UNet(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            sources = [1, *widths[:-1]]
            pairs = zip(sources, widths, strict=True)
            self.encoder = nn.ModuleList(nn.Sequential(block(i, o, 3), block(o, o, 3)) for i, o in pairs)
            self.up = nn.ModuleList(block(2 * o, o, 2) for o in widths[:-1])
            self.decoder = nn.ModuleList(nn.Sequential(block(2 * o, o, 3), block(o, o, 3)) for o in widths[:-1])
            self.head = nn.Sequential(block(width, 2, 3), nn.Conv2d(2, 1, 1), nn.BatchNorm2d(1, eps=1e-3))

        def forward(self, x: Any) -> Any:
            skips = []
            for level in range(DEPTH):
                x = self.encoder[level](x)
                x = functional.dropout(x, 0.5) if level == DEPTH - 1 else x
                skips.append(x)
                x = functional.max_pool2d(x, 2)
            x = functional.dropout(self.encoder[DEPTH](x), 0.5)
            for level in reversed(range(DEPTH)):
                x = self.up[level](functional.interpolate(x, scale_factor=2))
                x = self.decoder[level](torch.cat([skips[level], x], 1))
            return torch.sigmoid(self.head(x))

    model: Any = UNet()
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def step(images: Any, masks: Any) -> tuple[float, np.ndarray]:
        probability = model(torch.from_numpy(images).permute(0, 3, 1, 2))
        truth, p = torch.from_numpy(masks).permute(0, 3, 1, 2), probability.clamp(FLOOR, 1 - FLOOR)
        loss = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item(), probability.detach().permute(0, 2, 3, 1).numpy()

    return step


def jax_step(width: int, threads: int) -> Step:
    """`lax` convolutions in one `jit` with donated arrays. Threads are those that the environment gives."""
    import os

    os.environ.setdefault("NPROC", str(threads))
    import jax
    import jax.numpy as jnp
    from jax import lax

    rng = np.random.default_rng(0)
    weights: dict[str, Any] = {}
    running: dict[str, Any] = {}

    def declare(name: str, kernel: int, channels: int, filters: int, *, norm: bool = True) -> None:
        limit = np.sqrt(6 / (kernel * kernel * (channels + filters)))
        drawn = rng.uniform(-limit, limit, (kernel, kernel, channels, filters)).astype(np.float32)
        weights[name] = {"kernel": jnp.array(drawn), "bias": jnp.zeros(filters)}
        if norm:
            weights[name] |= {"gamma": jnp.ones(filters), "beta": jnp.zeros(filters)}
            running[name] = {"mean": jnp.zeros(filters), "variance": jnp.ones(filters)}

    for level in range(DEPTH + 1):
        filters = width << level
        declare(f"enc{level}a", 3, filters // 2 if level else 1, filters)
        declare(f"enc{level}b", 3, filters, filters)
        if level < DEPTH:
            declare(f"up{level}", 2, 2 * filters, filters)
            declare(f"dec{level}a", 3, 2 * filters, filters)
            declare(f"dec{level}b", 3, filters, filters)
    declare("head", 3, width, 2)
    declare("output", 1, 2, 1)

    def forward(weights: Any, running: Any, key: Any, x: Any) -> tuple[Any, Any]:
        after = {}

        def block(name: str, x: Any, *, act: bool = True) -> Any:
            own = weights[name]
            axes = ("NHWC", "HWIO", "NHWC")
            x = lax.conv_general_dilated(x, own["kernel"], (1, 1), "SAME", dimension_numbers=axes) + own["bias"]
            mean = x.mean((0, 1, 2))
            variance = jnp.square(x).mean((0, 1, 2)) - jnp.square(mean)
            after[name] = {
                "mean": 0.9 * running[name]["mean"] + 0.1 * mean,
                "variance": 0.9 * running[name]["variance"] + 0.1 * variance,
            }
            x = (x - mean) * (lax.rsqrt(variance + 1e-3) * own["gamma"]) + own["beta"]
            return jax.nn.relu(x) if act else x

        def dropped(x: Any, key: Any) -> Any:
            return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x / 0.5, 0.0)

        keys, skips = jax.random.split(key), []
        for level in range(DEPTH):
            x = block(f"enc{level}b", block(f"enc{level}a", x))
            x = dropped(x, keys[0]) if level == DEPTH - 1 else x
            skips.append(x)
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = dropped(block(f"enc{DEPTH}b", block(f"enc{DEPTH}a", x)), keys[1])
        for level in reversed(range(DEPTH)):
            x = block(f"up{level}", jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))
            x = jnp.concatenate([skips[level], x], -1)
            x = block(f"dec{level}b", block(f"dec{level}a", x))
        return jax.nn.sigmoid(block("output", block("head", x), act=False)), after

    def loss_of(weights: Any, running: Any, key: Any, images: Any, masks: Any) -> Any:
        probability, after = forward(weights, running, key, images)
        p = jnp.clip(probability, FLOOR, 1 - FLOOR)
        return -jnp.mean(masks * jnp.log(p) + (1 - masks) * jnp.log(1 - p)), (probability, after)

    def train(weights: Any, running: Any, moments: Any, count: Any, images: Any, masks: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(0), count)
        (loss, (probability, running)), slopes = jax.value_and_grad(loss_of, has_aux=True)(
            weights, running, key, images, masks
        )
        count, tree = count + 1, jax.tree_util.tree_map
        mean = tree(lambda m, g: m + 0.1 * (g - m), moments[0], slopes)
        square = tree(lambda v, g: v + 0.001 * (g * g - v), moments[1], slopes)
        first, second = 1 - 0.9**count, jnp.sqrt(1 - 0.999**count)
        rate = 1e-3 * second / first
        weights = tree(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-7 * second), weights, mean, square)
        return (weights, running, (mean, square), count), loss, probability

    compiled = jax.jit(train, donate_argnums=(0, 1, 2))
    zeros = [jax.tree_util.tree_map(jnp.zeros_like, weights) for _ in range(2)]
    held: list[Any] = [weights, running, (zeros[0], zeros[1]), jnp.zeros((), jnp.int32)]

    def step(images: Any, masks: Any) -> tuple[float, np.ndarray]:
        held[:], loss, probability = compiled(*held, images, masks)
        return float(loss), np.asarray(probability)

    return step


STEPS: dict[str, Callable[[int, int], Step]] = {
    "tensorflow": tensorflow_step,
    "torch": torch_step,
    "jax": jax_step,
}
