"""What each image holds, as data: the Dockerfile and the Apptainer definition of an image both follow from its recipe.

An image has Python 3.12, the packages of its lock file (`requirements/images/NAME.txt`, every file with its hash) and
the suite, in /opt/mspipeline. It has no compiler, writes nowhere but in temporary folders, and runs as whoever starts
it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mspipeline.errors import UsageError, nearest

PREFIX = "/opt/mspipeline"
CACHES = "/var/cache/mspipeline"
"""The only folder that is made for writing: everybody may, and where nobody can, as in a SIF, it stays empty."""
PYTHON = "3.12"
PLATFORM = "x86_64-manylinux_2_28"
"""Whose wheels the locks hold: any Linux with glibc 2.28, which the bases are."""

ENVIRONMENT = {
    "PATH": f"{PREFIX}/bin:/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "HOME": CACHES,
    "TMPDIR": "/tmp",
    "XDG_CACHE_HOME": f"{CACHES}/cache",
    "XDG_CONFIG_HOME": f"{CACHES}/config",
    "KERAS_HOME": f"{CACHES}/keras",
    "MPLCONFIGDIR": f"{CACHES}/matplotlib",
    "NUMBA_CACHE_DIR": f"{CACHES}/numba",
    "PYTHONNOUSERSITE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "UCX_POSIX_USE_PROC_LINK": "n",
}
"""Of every image: nothing that a package looks for in a user's home or locale is the host's.

UCX_POSIX_USE_PROC_LINK: ranks in containers of their own cannot open each other's /proc; without it UCX says so in
each.
"""


@dataclass(frozen=True)
class Recipe:
    """One image.

    name: of the image, of its lock and of its definitions. title: a line for people.
    backend: of `mspipeline doctor`, that cells in this image compute with; None for the image without an engine.
    extras: of setup.cfg, what is installed beside the suite's own requirements.
    oldest_driver: of NVIDIA, that its CUDA runs on; None for an image that computes on CPUs.
    index: where its lock finds packages that the Python Package Index does not have.
    """

    name: str
    title: str
    extras: tuple[str, ...]
    backend: str | None = None
    oldest_driver: str | None = None
    index: str | None = None
    base: str = "python"

    @property
    def lock(self) -> str:
        """The lock file, from the repository's root."""
        return f"requirements/images/{self.name}.txt"

    @property
    def label(self) -> str:
        """What the image's label `org.mspipeline.backend` says."""
        return self.backend or self.name


CUDA_12_DRIVER = "525.60.13"
"""The oldest driver of CUDA 12 on Linux x86-64, by NVIDIA's table of minor-version compatibility."""

_ALL = (
    Recipe("host", "mspipeline without an engine: submit, collect, report, ONNX", ("onnx", "mpi")),
    Recipe("tensorflow", "mspipeline with TensorFlow on CPUs", ("tensorflow", "mpi"), "tensorflow"),
    Recipe(
        "tensorflow-gpu",
        "mspipeline with TensorFlow on NVIDIA GPUs",
        ("tensorflow-gpu", "mpi"),
        "tensorflow",
        CUDA_12_DRIVER,
    ),
    Recipe(
        "torch",
        "mspipeline with PyTorch on CPUs",
        ("torch", "mpi"),
        "torch",
        index="https://download.pytorch.org/whl/cpu",
    ),
    Recipe("torch-gpu", "mspipeline with PyTorch on NVIDIA GPUs", ("torch-gpu", "mpi"), "torch", CUDA_12_DRIVER),
    Recipe("jax", "mspipeline with JAX on CPUs", ("jax", "mpi"), "jax"),
    Recipe("jax-gpu", "mspipeline with JAX on NVIDIA GPUs", ("jax-gpu", "mpi"), "jax", CUDA_12_DRIVER),
)
RECIPES = {each.name: each for each in _ALL}


def recipe_named(name: str) -> Recipe:
    """The recipe of an image. Raises UsageError, with the nearest name, where there is none.

    >>> recipe_named("jax-gpu").lock
    'requirements/images/jax-gpu.txt'
    """
    if name not in RECIPES:
        raise UsageError(f"unknown image {name!r}; {nearest(name, RECIPES)}")
    return RECIPES[name]
