"""Does an image work? Run inside it: `python -P -m mspipeline.containers.smoke [--json]`.

The image's engine takes one training step of a small network and is certified against what TensorFlow made of the same
network, `reference.npz`. Ranks of MPI find each other; where a driver is, NVML names the GPUs.

`python -P -m mspipeline.containers.smoke --evidence BACKEND FILE` writes what one engine makes of that network; so
`reference.npz` was made by TensorFlow: two engines do not share a process.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mspipeline import __version__, startup
from mspipeline.backends.base import Execution
from mspipeline.backends.certification.certificate import versions_of
from mspipeline.backends.certification.certify import compare, describe
from mspipeline.backends.certification.evidence import Evidence, gather, read_evidence, write_evidence
from mspipeline.backends.certification.trial import Trial, make_trial
from mspipeline.backends.registry import availability, create
from mspipeline.campaigns.finding import Finding
from mspipeline.errors import SuiteError
from mspipeline.network.blocks import BATCH_NORM, conv, max_pool
from mspipeline.network.graph import Builder, Graph
from mspipeline.network.ops import Concat, Input, Relu, Sigmoid, Upsample
from mspipeline.provenance import PACKAGES, installed
from mspipeline.telemetry.gpu import open_gpus

REFERENCE = Path(__file__).parent / "reference.npz"
ENGINES = ("tensorflow", "torch", "jax", "pyeddl")
RANKS_S = 60.0
_AGAIN = "build the image again from its lock"


def small_network() -> Graph:
    """A U-Net of one level on 8 x 8 pixels: every operation that the suite's 2-D networks have, in a few kB."""
    builder = Builder("smoke")
    x = builder.add("image", Input((8, 8, 1)))
    x = conv(builder, "conv1", x, 2, (3, 3))
    x = builder.add("norm1", BATCH_NORM, x)
    skip = builder.add("relu1", Relu(), x)
    x = max_pool(builder, "pool", skip, (2, 2), exact=True)
    x = conv(builder, "conv2", x, 2, (3, 3))
    x = builder.add("relu2", Relu(), x)
    x = builder.add("up", Upsample((2, 2)), x)
    x = builder.add("join", Concat(), skip, x)
    x = conv(builder, "head", x, 1, (1, 1))
    return builder.graph(builder.add("probability", Sigmoid(), x))


def smoke_trial() -> Trial:
    """The weights and images that every image is tried with."""
    return make_trial(small_network(), seed=0)


def examine_image() -> list[Finding]:
    """Each thing that is tried, and how it went."""
    engines = [name for name in ENGINES if availability(name).version is not None]
    checks: list[tuple[str, Callable[[], Finding]]] = [("versions", _versions)]
    checks += [(f"backend {name}", lambda name=name: _engine(name)) for name in engines]  # type: ignore[misc]
    checks += [("MPI", _ranks), ("GPU", _gpu)]
    return [_tried(what, check) for what, check in checks]


def compute(backend: str) -> Evidence:
    """What a backend makes of the trial. Raises BackendError where it is absent."""
    return gather(create(backend), smoke_trial(), Execution(), versions_of(backend))


def judge_engine(evidence: Evidence, reference: Evidence) -> Finding:
    """Whether an engine trained and computed what the reference did."""
    what = f"backend {evidence.backend}"
    trial = smoke_trial()
    moved = any(
        not np.array_equal(values, trial.weights[key])
        for stepped in evidence.stepped.values()
        for key, values in stepped.items()
    )
    if not moved or not all(map(math.isfinite, evidence.losses)):
        detail = f"a training step gave loss {evidence.losses[0]}, weights {'changed' if moved else 'unchanged'}"
        return Finding(what, "broken", detail, _AGAIN)
    agreements = compare(trial, reference, evidence)
    if differs := describe(agreements, trial.graph):
        detail = f"not the network that {reference.backend} {_version(reference)} computes: {differs}"
        return Finding(what, "broken", detail, _AGAIN)
    worst = max(each.error / each.tolerance for each in agreements)
    detail = (
        f"{_version(evidence)} on {evidence.device}: a training step, loss {evidence.losses[0]:.6f}; computes what "
        f"{reference.backend} {_version(reference)} does, at most {100 * worst:.0f} % of a tolerance away"
    )
    return Finding(what, "ok", detail)


def _version(evidence: Evidence) -> str:
    """Of the framework, the first that is named."""
    return next(iter(evidence.versions.values()), "of no version")


def _tried(what: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except SuiteError as error:
        return Finding(what, "broken", str(error), _AGAIN)
    except Exception as error:
        detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Finding(what, "broken", detail, _AGAIN)


def _versions() -> Finding:
    packages = ", ".join(f"{name} {version}" for name, version in installed(PACKAGES).items())
    user = f"user {os.getuid()}:{os.getgid()}"
    return Finding(
        "versions", "ok", f"mspipeline {__version__}, Python {platform.python_version()}, {packages}; {user}"
    )


def _engine(name: str) -> Finding:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "evidence.npz"
        command = [sys.executable, "-P", "-m", "mspipeline.containers.smoke", "--evidence", name, str(file)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = next(iter(done.stderr.strip().splitlines()[-1:]), "without a word")
            return Finding(f"backend {name}", "broken", f"ended with code {done.returncode}: {reason}", _AGAIN)
        return judge_engine(read_evidence(file), read_evidence(REFERENCE))


def _ranks() -> Finding:
    """Two ranks by the image's own mpirun, on this machine alone whatever job it stands in."""
    program = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}")
    if program is None:
        return Finding("MPI", "missing", "no mpirun in this image", "add the extra `mpi` to its recipe")
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PMI_", "PMIX_"))}
    command = [program, "-launcher", "fork", "-rmk", "user", "-n", "2", sys.executable, "-P", "-m"]
    try:
        done = subprocess.run(
            [*command, "mspipeline.parallel.launchers"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=alone,
            timeout=RANKS_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding("MPI", "broken", f"two ranks did not find each other in {RANKS_S:.0f} s", "run it by hand")
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not answers:
        printed = " ".join((done.stderr or done.stdout).split())[-300:]
        return Finding("MPI", "broken", f"mpirun ended with code {done.returncode}: {printed}", "run it by hand")
    answer = json.loads(answers[0])
    return Finding("MPI", "ok", f"{answer['ranks']} ranks of {answer['library']} found each other")


def _gpu() -> Finding:
    gpus = open_gpus()
    if gpus is None:
        return Finding("GPU", "missing", "no NVIDIA driver answers", "computes on the CPU; give it a GPU by --nv")
    names, driver = ", ".join(gpus.names), gpus.driver
    gpus.close()
    return Finding("GPU", "ok", f"{names}, driver {driver}")


def main(words: Sequence[str]) -> int:
    """See the module's docstring. Exit code 1 where anything is broken."""
    if words[:1] == ["--evidence"]:
        write_evidence(Path(words[2]), compute(words[1]))
        return 0
    findings = examine_image()
    if "--json" in words:
        print(json.dumps([asdict(each) for each in findings]))
    else:
        for each in findings:
            print(f"{each.state:7} {each.what}: {each.detail}")
    return int(any(each.state == "broken" for each in findings))


if __name__ == "__main__":
    startup.begin()
    sys.exit(main(sys.argv[1:]))
