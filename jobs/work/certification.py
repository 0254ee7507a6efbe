"""Certification: the same trial on several backends, each in a process of its own, compared and signed off."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mspipeline.backends.certification.certificate import (
    Certificate,
    NotCertified,
    Outcome,
    measured,
    network_of,
    side_of,
    write_certificate,
)
from mspipeline.backends.certification.certify import compare, describe
from mspipeline.backends.certification.evidence import Evidence, read_evidence
from mspipeline.backends.certification.trial import Trial, smallest_shape
from mspipeline.backends.registry import adapter, availability
from mspipeline.config import CertifyJob, ModelSettings
from mspipeline.errors import BackendError, ConfigError, StorageError, SuiteError, UsageError, nearest
from mspipeline.files import write_json
from mspipeline.jobs.work.certify import trial_of
from mspipeline.models.catalogue import build, entry
from mspipeline.network.graph import Graph
from mspipeline.optimizers import OPTIMIZERS
from mspipeline.provenance import provenance
from mspipeline.runs import utc_now

Command = Callable[[str, Path], list[str]]
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What to certify. image_shape: empty chooses a small one. batch_size: 0 chooses one.

    optimizers: of each of which a step is compared.
    """

    model: ModelSettings
    backends: tuple[str, ...]
    image_shape: tuple[int, ...] = ()
    device: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int = 1
    seed: int = 0
    batch_size: int = 0
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS.built_in)


def job_command(backend: str, config: Path) -> list[str]:
    """How a backend's own process is started. -P: a folder called `jobs` where the user stands hides nothing."""
    return [sys.executable, "-P", "-m", "mspipeline.jobs", "certify", str(config)]


def certify(
    request: Request, output: Path, *, report: Report | None = None, command: Command = job_command
) -> list[Outcome]:
    """Certify every backend against the first that has evidence, and write a certificate for each into `output`.

    A backend that is absent or cannot realise the network is found before any other computes; where fewer than two are
    left to be compared none does, and the outcomes are those of the refused alone.
    report: called with (backend, done, total). Raises UsageError for fewer than two backends or one named twice,
    ConfigError or ShapeError for a network that cannot be built, ConfigError for an
    unknown optimizer, StorageError where `output` cannot be written.
    """
    if len(set(request.backends)) != len(request.backends) or len(request.backends) < 2:
        named = ", ".join(request.backends) or "none"
        raise UsageError(f"--backends needs two or more different ones, as tensorflow,jax; received: {named}")
    for name in request.optimizers:
        if name not in OPTIMIZERS:
            raise ConfigError(f"--optimizers: unknown optimizer {name!r}; {nearest(name, list(OPTIMIZERS))}")
    absent = {name: availability(name).problem for name in request.backends}
    shape = request.image_shape or default_shape(request.model.name, request.model.arguments)
    graph = build(request.model.name, shape, request.model.arguments)
    refusals = {name: _refused(name, absent[name], graph) for name in request.backends}
    refused = {name: outcome for name, outcome in refusals.items() if outcome is not None}
    if len(request.backends) - len(refused) < 2:
        return list(refused.values())
    outcomes: dict[str, Outcome] = {}
    reference: Evidence | None = None
    with _scratch(output) as scratch:
        for done, name in enumerate(request.backends):
            if report is not None:
                report(name, done, len(request.backends))
            job = _job(request, shape, name, Path(scratch))
            outcomes[name] = refused.get(name) or _run(job, command)
            if outcomes[name].state != "reference":
                continue
            evidence = read_evidence(job.evidence)
            job.evidence.unlink()
            if reference is None:
                reference = evidence
            else:
                outcomes[name] = _judge(request, graph, trial_of(job), reference, evidence, output)
        if report is not None:
            report("", len(request.backends), len(request.backends))
    return list(outcomes.values())


def default_shape(model: str, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """The smallest image that shows what a network does."""
    return smallest_shape(lambda shape: build(model, shape, arguments), entry(model).example_shape)


def judge(outcomes: Sequence[Outcome]) -> None:
    """Raise NotCertified where backends differ, else BackendError where one is absent, cannot or gave no evidence."""
    differing = [each for each in outcomes if each.state == "differs"]
    if differing:
        details = "; ".join(f"{each.backend}: {each.detail}" for each in differing)
        raise NotCertified(f"not certified: {details}")
    failed = [each for each in outcomes if each.state == "failed"]
    missing = [each for each in outcomes if each.state in ("absent", "cannot")]
    if failed or missing:
        raise _Uncertified(
            "; ".join(f"{each.backend} {each.state}: {each.detail}" for each in [*failed, *missing]),
            failed[0].exit_code if failed else BackendError.exit_code,
        )
    if not any(each.state == "certified" for each in outcomes):
        raise BackendError("nothing was compared; name two backends of `mspipeline doctor`")


class _Uncertified(BackendError):
    """Backends without evidence. exit_code: that of the process that failed."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code or SuiteError.exit_code


def _scratch(output: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for evidence beside the certificates: of large networks it is hundreds of MB, more than some /tmp."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".evidence-", dir=output)
    except OSError as error:
        raise StorageError(f"{output}: cannot be written ({error.strerror}); choose another folder") from error


def _job(request: Request, shape: tuple[int, ...], backend: str, scratch: Path) -> CertifyJob:
    return CertifyJob(
        model=request.model,
        image_shape=shape,
        backend=backend,
        device=request.device,
        threads=request.threads,
        seed=request.seed,
        batch_size=request.batch_size,
        optimizers=request.optimizers,
        evidence=scratch / f"{backend}.npz",
    )


def _refused(backend: str, absent: str, graph: Graph) -> Outcome | None:
    """The outcome of a backend that need not be started; what it can never do comes before what is not installed."""
    if nodes := adapter(backend).unsupported(graph):
        return Outcome(backend, "cannot", ", ".join(nodes))
    return Outcome(backend, "absent", absent) if absent else None


def _run(job: CertifyJob, command: Command) -> Outcome:
    """Let a backend write its evidence; `reference` where it did."""
    config = job.evidence.with_suffix(".json")
    write_json(config, job.model_dump(mode="json"))
    ended = subprocess.run(command(job.backend, config), capture_output=True, text=True, errors="replace", check=False)
    if ended.returncode == 0:
        return Outcome(job.backend, "reference")
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    reason = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")
    reason = reason or (lines[-1] if lines else f"its process ended with code {ended.returncode} without a word")
    if ended.returncode == BackendError.exit_code:
        return Outcome(job.backend, "cannot", reason, ended.returncode)
    return Outcome(job.backend, "failed", reason, ended.returncode if ended.returncode > 0 else 128 - ended.returncode)


def _judge(request: Request, graph: Graph, trial: Trial, reference: Evidence, other: Evidence, output: Path) -> Outcome:
    """Compare, write the certificate, say what came of it."""
    findings = compare(trial, reference, other)
    differs = describe(findings, trial.graph)
    ours, theirs = (side_of(each.backend, each.versions, each.device) for each in (reference, other))
    file, certificate = write_certificate(
        output,
        Certificate(
            verdict="differs" if differs else "certified",
            said=differs,
            network=network_of(request.model, graph),
            reference=ours,
            other=theirs,
            measured=tuple(measured(each) for each in findings),
            batch_size=len(trial.batches[0].images),
            seed=request.seed,
            loss=trial.loss.name,
            learning_rate=trial.optimizers[0].learning_rate,
            optimizers=tuple(each.name for each in trial.optimizers),
            commit=provenance()["commit"],
            created_utc=utc_now(),
        ),
    )
    return Outcome(other.backend, "differs" if differs else "certified", differs, certificate=certificate, file=file)
