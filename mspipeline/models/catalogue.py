"""The networks by name: how each is built from the shape of its images and its own arguments.

Packages add networks by the entry point group `mspipeline.models`: a function as those of this room, or a `ModelEntry`.
`FILE.py:FUNCTION` names a function of a file that is not installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mspipeline.errors import ConfigError, ShapeError, nearest
from mspipeline.models.cascade3d import cascade3d, cascade3d_report_eddl, cascade3d_report_tf
from mspipeline.models.deeplabv2 import deeplabv2
from mspipeline.models.deeplabv3 import deeplabv3
from mspipeline.models.double_unet import double_unet
from mspipeline.models.double_unet_report import double_unet_report_eddl, double_unet_report_tf
from mspipeline.models.from_file import function_of, names_a_file
from mspipeline.models.nicms import nicms
from mspipeline.models.nnunet3d import nnunet3d
from mspipeline.models.unet2d import unet2d
from mspipeline.models.unet2d_report import unet2d_report_eddl, unet2d_report_tf
from mspipeline.models.vnet import vnet
from mspipeline.network.graph import Graph
from mspipeline.plugins import Registry


@dataclass(frozen=True)
class ModelEntry:
    """A network. build: (*image shape, **arguments) -> Graph. example_shape: of a typical image, channels last."""

    build: Callable[..., Graph]
    summary: str
    example_shape: tuple[int, ...]

    @property
    def image_axes(self) -> tuple[str, ...]:
        """What each axis of an image is, channels last."""
        parameters = inspect.signature(self.build).parameters.values()
        return tuple(each.name for each in parameters if each.kind is not each.KEYWORD_ONLY)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The arguments a user may set, with their defaults."""
        parameters = inspect.signature(self.build).parameters.values()
        return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


SLICE = (256, 256, 1)
PATCH = (11, 11, 11, 3)

_BUILT_IN = {
    "unet2d": ModelEntry(unet2d, "2-D U-Net with batch normalisation after each convolution", SLICE),
    "unet2d_report_tf": ModelEntry(unet2d_report_tf, "the 2021 report's U-Net in TensorFlow", SLICE),
    "unet2d_report_eddl": ModelEntry(unet2d_report_eddl, "the 2021 report's U-Net in PyEDDL", SLICE),
    "double_unet": ModelEntry(double_unet, "VGG-19 U-Net that masks the image of a second U-Net", SLICE),
    "double_unet_report_tf": ModelEntry(double_unet_report_tf, "the 2021 report's Double U-Net in TensorFlow", SLICE),
    "double_unet_report_eddl": ModelEntry(double_unet_report_eddl, "the 2021 report's Double U-Net in PyEDDL", SLICE),
    "cascade3d": ModelEntry(cascade3d, "one stage of the 2017 cascade on 11^3 patches", PATCH),
    "cascade3d_report_tf": ModelEntry(cascade3d_report_tf, "the 2021 report's cascade in TensorFlow", PATCH),
    "cascade3d_report_eddl": ModelEntry(cascade3d_report_eddl, "the 2021 report's cascade in PyEDDL", PATCH),
    "nicms": ModelEntry(nicms, "one stage of nicMSlesions on 11^3 patches", (11, 11, 11, 2)),
    "deeplabv2": ModelEntry(deeplabv2, "ResNet-101 with four summed dilated classifiers", SLICE),
    "deeplabv3": ModelEntry(deeplabv3, "ResNet-101 with atrous spatial pyramid pooling", SLICE),
    "vnet": ModelEntry(vnet, "3-D residual network of 5^3 convolutions", (64, 128, 128, 1)),
    "nnunet3d": ModelEntry(nnunet3d, "the 3-D U-Net that nnU-Net plans for a patch", (128, 128, 128, 1)),
}


def entry_of(name: str, made: Any) -> ModelEntry:
    """An entry of what a package or a file gives: one already, or a function of an image's axes and its own arguments.

    Of a function, the summary is its docstring's first line, the example a slice or a patch by the number of its axes.
    Raises ValueError where it is neither.
    """
    if isinstance(made, ModelEntry):
        return made
    if not callable(made):
        raise ValueError(f"expected a function that builds a Graph; received: {type(made).__name__}")
    summary = (inspect.getdoc(made) or name).partition("\n")[0]
    found = ModelEntry(made, summary, ())
    example = {len(shape): shape for shape in (SLICE, PATCH)}.get(len(found.image_axes))
    if example is None:
        raise ValueError(
            "expected a function of an image's axes, channels last, as in build(height, width, channels, *, first=16); "
            f"received one of {', '.join(found.image_axes) or 'none'}"
        )
    return replace(found, example_shape=example)


MODELS = Registry("model", "mspipeline.models", _BUILT_IN, entry_of)


def is_built_in(name: str) -> bool:
    """Whether the suite has this network itself; another may be gone, or be another one, when its run is read."""
    return name in MODELS.built_in


def entry(name: str) -> ModelEntry:
    """The network called `name`, or that of a function in a file, `FILE.py:FUNCTION`.

    Raises ConfigError, with the nearest name, where there is none, or it cannot be used.
    """
    if not names_a_file(name):
        return MODELS[name]
    made = function_of(name)
    try:
        return entry_of(name, made)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise ConfigError where an argument is unknown or not of its default's type."""
    known = entry(name).arguments
    for key, value in arguments.items():
        if key not in known:
            raise ConfigError(f"model {name}: unknown argument {key!r}; {nearest(key, list(known))}")
        kind = type(known[key])
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise ConfigError(f"model {name}: {key} must be of type {kind.__name__}; received: {value!r}")
        if kind is int and value < 1:
            raise ConfigError(f"model {name}: {key} must be at least 1; received: {value!r}")


def build(name: str, image_shape: tuple[int, ...], arguments: Mapping[str, Any]) -> Graph:
    """The graph of a network for images of this shape (spatial axes, channels last).

    Raises ConfigError (unknown model or argument) or ShapeError (images that the network cannot take).
    """
    check_arguments(name, arguments)
    model = entry(name)
    if len(image_shape) != len(model.image_axes):
        other = [each for each, known in MODELS.working().items() if len(known.image_axes) == len(image_shape)]
        remedy = f"; networks that would: {', '.join(other)}" if other else ""
        raise ShapeError(
            f"model {name} takes {len(model.image_axes) - 1}-D images ({', '.join(model.image_axes)}), not images of "
            f"{'x'.join(map(str, image_shape))}{remedy}"
        )
    graph = model.build(*image_shape, **arguments)
    if not isinstance(graph, Graph):
        raise ConfigError(f"model {name}: its function gave {type(graph).__name__}, expected a Graph (network.graph)")
    return graph
