"""What a user has set for Keras, TensorFlow, JAX and PyTorch changes nothing that a job computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mspipeline.backends.registry import availability
from mspipeline.backends.user_settings import put_aside

STEP = """
import hashlib, sys
import numpy as np
from mspipeline.backends.base import Execution
from mspipeline.optimizers import Adam
from mspipeline.backends.registry import create
from mspipeline.network import ops
from mspipeline.network.graph import Builder
from mspipeline.network.weights import initial_weights
from mspipeline.training.targets import loss_of
from mspipeline.config import TrainingSettings
backend = create(sys.argv[1])
builder = Builder("small")
node = builder.add("image", ops.Input((16, 16, 1)))
node = builder.add("conv", ops.Conv(1, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), bias=True), node)
graph = builder.graph(builder.add("out", ops.Sigmoid(), node))
backend.build(graph, Execution(threads=1, seed=0))
backend.set_weights(initial_weights(graph, 0))
random = np.random.default_rng(0)
images = random.normal(size=(2, 16, 16, 1)).astype(np.float32)
masks = (random.random((2, 16, 16, 1)) > 0.8).astype(np.float32)
backend.compile(loss_of(TrainingSettings(loss="bce"), 1), Adam(0.01, 0.9, 0.999, 1e-7))
backend.train_step(images, masks)
probability = backend.predict(images)
print(probability.dtype, probability.shape, hashlib.sha256(probability.tobytes()).hexdigest())
"""
HOSTILE = {
    "KERAS_BACKEND": "numpy",
    "KERAS_TORCH_DEVICE": "meta",
    "KERAS_NNX_ENABLED": "true",
    "JAX_ENABLE_X64": "1",
    "JAX_PLATFORMS": "cuda",
    "JAX_DISABLE_JIT": "1",
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "XLA_FLAGS": "--xla_cpu_enable_fast_math=true --xla_no_such_flag=1 --xla_force_host_platform_device_count=3",
    "TF_USE_LEGACY_KERAS": "1",
    "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit",
    "TF_CONFIG": "{",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "TF_NUM_INTRAOP_THREADS": "7",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
    "NVIDIA_TF32_OVERRIDE": "1",
}


def computed(engine: str, **environment: str) -> str:
    """What a training step and a prediction give, in a process with these settings."""
    done = subprocess.run(
        [sys.executable, "-c", STEP, engine],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("engine", ["tensorflow", "torch", "jax"])
def test_a_step_is_the_same_whatever_the_user_has_set(engine: str, tmp_path: Path) -> None:
    if problem := availability(engine).problem:
        pytest.skip(problem)
    configuration = {"floatx": "float16", "epsilon": 0.1, "backend": "numpy", "image_data_format": "channels_first"}
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(json.dumps(configuration))
    (tmp_path / "site").mkdir()
    torch_too = "import torch\ntorch.set_default_dtype(torch.float64)\n" if engine == "torch" else ""
    (tmp_path / "site/sitecustomize.py").write_text(torch_too + "print(end='')\n")
    plain = computed(engine)
    assert plain.startswith("float32 (2, 16, 16, 1) ")
    assert computed(engine, HOME=str(tmp_path), PYTHONPATH=str(tmp_path / "site"), **HOSTILE) == plain
    assert json.loads((tmp_path / ".keras/keras.json").read_text()) == configuration


def loads_keras(home: Path) -> None:
    """See that Keras starts in a process of its own with its own precision, whatever is in this home."""
    (engine, *_) = [name for name in ("jax", "torch", "tensorflow") if not availability(name).problem] or [""]
    if not engine:
        pytest.skip("no engine of Keras is installed")
    script = f"from mspipeline.backends.keras.backend import load_keras; print(load_keras({engine!r}).config.floatx())"
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, "float32\n"), done.stderr[-2000:]


@pytest.mark.parametrize("content", ["not JSON", '{"floatx": "float8"}', "[]"])
def test_a_broken_file_of_keras_settings_ends_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras/keras.json").write_text(content)
    loads_keras(tmp_path)
    assert (tmp_path / ".keras/keras.json").read_text() == content


def test_no_file_of_keras_settings_is_written(tmp_path: Path) -> None:
    loads_keras(tmp_path)
    assert not (tmp_path / ".keras").exists()


def test_what_is_put_aside_is_named_and_the_rest_stays(caplog: pytest.LogCaptureFixture) -> None:
    stays = {
        "CUDA_VISIBLE_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": "/scratch",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "1",
        "TF_CLI_CONFIG_FILE": "/terraforms",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": ".5",
    }
    environ = {**stays, "JAX_ENABLE_X64": "1", "KERAS_BACKEND": "jax"}
    environ["XLA_FLAGS"] = "--xla_gpu_cuda_data_dir=/cuda --xla_cpu_enable_fast_math=true"
    assert put_aside(environ) == ["JAX_ENABLE_X64", "KERAS_BACKEND", "XLA_FLAGS (--xla_cpu_enable_fast_math=true)"]
    assert environ == {**stays, "XLA_FLAGS": "--xla_gpu_cuda_data_dir=/cuda"}
    (record,) = caplog.records
    assert record.getMessage() == (
        "put aside, for results must not depend on it: JAX_ENABLE_X64, XLA_FLAGS (--xla_cpu_enable_fast_math=true)"
    )
    assert put_aside(environ) == []
