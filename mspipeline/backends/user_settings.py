"""A user's own settings of the frameworks, where they could change a result or end a job: put aside before one loads.

Keras reads `~/.keras/keras.json` and KERAS_*; JAX reads its whole configuration from JAX_*; XLA, TensorFlow, oneDNN and
CUDA read variables that choose other arithmetic. What a job computes follows from its configuration alone, so these are
taken out of the process's environment. What says where things are, how much memory to take, or what to log stays.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

log = logging.getLogger(__name__)

ASIDE = (
    "KERAS_*",
    "JAX_*",
    *(f"TF_{name}" for name in ("CONFIG", "USE_LEGACY_KERAS", "XLA_FLAGS", "DETERMINISTIC_OPS", "DISABLE_MKL")),
    *(f"TF_{name}" for name in ("CUDNN_*", "ENABLE_*", "FP16_*", "AUTO_MIXED_PRECISION_*", "SET_ONEDNN_FPMATH_MODE")),
    *(f"TF_NUM_{name}OP_THREADS" for name in ("INTRA", "INTER")),
    *(f"{name}_DEFAULT_FPMATH_MODE" for name in ("ONEDNN", "DNNL")),
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Names of variables, as patterns. Not `TF_*`: Terraform's begin so, too."""
STAY = (
    *(
        f"JAX_{name}"
        for name in ("CUDA_VISIBLE_DEVICES", "ROCM_VISIBLE_DEVICES", "TRACEBACK_FILTERING", "LOGGING_LEVEL")
    ),
    *(f"JAX_{name}" for name in ("COMPILATION_CACHE_*", "PERSISTENT_CACHE_*", "DUMP_*")),
)
XLA_STAYS = ("--xla_gpu_cuda_data_dir", "--xla_dump_")
"""Flags of XLA_FLAGS: where CUDA is, what to write down."""
EXPECTED = ("KERAS_BACKEND", "KERAS_HOME", "TF_CONFIG")
"""Set for a user's other programs, as a rule: not worth a line."""
NO_HOME = os.path.join(os.devnull, "keras")
"""A folder that can neither be read nor made."""


def put_aside(environ: MutableMapping[str, str]) -> list[str]:
    """Take the variables out of `environ`, name in a warning those that could have changed a result, and return it."""
    found = [name for name in sorted(environ) if _matches(name, ASIDE) and not _matches(name, STAY)]
    for name in found:
        del environ[name]
    flags = environ.get("XLA_FLAGS", "").split()
    kept = [flag for flag in flags if flag.startswith(XLA_STAYS)]
    if kept != flags:
        found.append("XLA_FLAGS (" + " ".join(flag for flag in flags if flag not in kept) + ")")
        environ["XLA_FLAGS"] = " ".join(kept)
    if notable := [name for name in found if name not in EXPECTED]:
        log.warning("put aside, for results must not depend on it: %s", ", ".join(notable))
    return found


@contextmanager
def keras_on(engine: str, environ: MutableMapping[str, str]) -> Iterator[None]:
    """While Keras loads: on this engine, from no file of the user's, and writing none."""
    environ["KERAS_BACKEND"] = engine
    environ["KERAS_HOME"] = NO_HOME
    try:
        yield
    finally:
        del environ["KERAS_HOME"]  # KERAS_BACKEND stays, for what loads Keras later


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
