"""A probe of MPI: two ranks of a preparation, started as a sweep starts them, in every image of the site.

    doctor --probe -> sbatch -> this module: srun or mpirun -> image -> python -m mspipeline.parallel.launchers

sbatch and not srun: a preparation's ranks are started from inside its job, by a launcher that finds the job around it.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mspipeline.campaigns.finding import Finding
from mspipeline.campaigns.site import Site
from mspipeline.config import parse
from mspipeline.errors import ConfigError
from mspipeline.slurm.checks.probe_job import LINE, Probe
from mspipeline.slurm.modules import refusal_in
from mspipeline.slurm.on_node.node import NodeEnvironment, command_lines
from mspipeline.slurm.sbatch_options import WHERE, words_of
from mspipeline.slurm.site_rules import mpi_command, sbatch_of, setup_lines
from mspipeline.slurm.srun import outside_of_jobs

RANKS = 2
RANKS_S = 90.0
POLL_S = 0.2
_REMEDY = "correct mpi and mpi_plugin in the site file (`srun --mpi=list`), or leave prepare.ranks of sweeps at 1"


def mpi_findings(site: Site, shared: Path, patience_s: float) -> list[Finding]:
    """Whether ranks of a preparation find each other. shared: a folder that the node sees, for what it says."""
    name, partition = site.partition_for(site.device_of_steps)
    what, job_name = f"probe of {name!r}: MPI", f"mspipeline-probe-{secrets.token_hex(4)}"
    python = shlex.join([sys.executable, "-P", "-m", "mspipeline.slurm.checks.probe_mpi"])
    if site.container == "docker":
        detail = "Docker's daemon starts containers outside of the job: a preparation is one process"
        return [Finding(what, "missing", detail, "use Podman or Apptainer where it is to be several")]
    document = Probe(site=site, partition=name, folder=str(shared)).model_dump_json()
    script, output = shared / "mpi.sh", shared / "mpi.out"
    lines = ["#!/bin/bash", *setup_lines(site), f"exec {python} {shlex.quote(document)}"]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    asked = {
        "partition": name,
        "job-name": job_name,
        "account": partition.account or site.account,
        "qos": partition.qos or site.qos,
        "ntasks": str(RANKS),
        "cpus-per-task": "1",
        "time": "3",
        "output": str(output),
    }
    where = {option: value for option, value in sbatch_of(site, partition).items() if option in WHERE}
    words = [*(f"--{key}={value}" for key, value in asked.items() if value), *words_of(where), str(script)]
    late, errors = _waited(["sbatch", "--wait", *words], job_name, patience_s)
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines() if output.exists() else []
    found = [Finding(**json.loads(line.removeprefix(LINE))) for line in lines if line.startswith(LINE)]
    refused, _, remedy = refusal_in(output).rpartition("; ")
    if refused:
        found.append(Finding("MPI", "broken", refused, remedy))
    elif late:
        found.append(Finding("MPI", "missing", f"no answer after {patience_s:.0f} s; cancelled", "try again later"))
    elif not found:
        problem = " ".join([*lines[-1:], *errors.split()])[-300:] or "nothing is heard of its job"
        found.append(Finding("MPI", "broken", problem, _REMEDY))
    return [Finding(what + each.what.removeprefix("MPI"), each.state, each.detail, each.remedy) for each in found]


def _waited(command: list[str], job_name: str, patience_s: float) -> tuple[bool, str]:
    """Whether the job took too long and was cancelled; what sbatch said where it did not take it."""
    environment = outside_of_jobs(os.environ)
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        ends = time.monotonic() + patience_s
        while process.poll() is None and time.monotonic() < ends:
            time.sleep(POLL_S)
        late = process.poll() is None
        if late:
            subprocess.run(["scancel", "--quiet", f"--name={job_name}"], capture_output=True, check=False)
            process.terminate()
        return late, process.stderr.read() if process.stderr else ""


def findings(probe: Probe) -> Iterator[Finding]:
    """Inside the job: start the ranks, in each image of the site."""
    site = probe.site
    for backend in sorted(site.images) if site.container != "none" else [""]:
        what = f"MPI in image {backend!r}" if backend else "MPI"
        try:
            yield _ranks(what, site, backend, probe.folder)
        except ConfigError as error:
            detail, _, remedy = str(error).rpartition("; ")
            yield Finding(what, "broken", detail, remedy)


def _ranks(what: str, site: Site, backend: str, folder: str) -> Finding:
    """Raises ConfigError as `Site.image_for` does."""
    given = NodeEnvironment(
        container=site.container,
        image=site.image_for(backend) if backend else "",
        folders=(folder,),
        binds=site.binds,
        pass_environment=site.pass_environment,
        launchers=(tuple(mpi_command(site, RANKS)),),
    )
    python = "python" if backend else sys.executable
    (command,) = command_lines([[python, "-P", "-m", "mspipeline.parallel.launchers"]], folder, given)
    started = next((word for word in command if word.startswith("--mpi=")), "")
    by = " ".join([site.mpi, *([started] if started else [])])
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=RANKS_S
        )
    except subprocess.TimeoutExpired:
        return Finding(what, "broken", f"{RANKS} ranks do not find each other within {RANKS_S:.0f} s by {by}", _REMEDY)
    answer = next((line for line in done.stdout.splitlines() if line.startswith("{")), None)
    if done.returncode == 0 and answer is not None:
        report = json.loads(answer)
        where = f"on {', '.join(dict.fromkeys(report['hosts']))}"
        return Finding(what, "ok", f"{report['ranks']} ranks of {report['library']} work together by {by}, {where}")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")] or done.stderr.splitlines()
    problem = " ".join(" ".join(errors[:3]).split())[:300] or f"code {done.returncode}"
    if "mpi4py cannot be used" in problem:
        remedy = "`pip install mspipeline[mpi]` there; without it a preparation is one process"
        return Finding(what, "missing", problem.removeprefix("error: ").partition("; ")[0], remedy)
    return Finding(what, "broken", f"{by}: {problem.removeprefix('error: ')}", _REMEDY)


def main() -> int:
    """Print what was found, each as soon as it is known."""
    for finding in findings(parse(json.loads(sys.argv[1]), Probe, where="probe")):
        print(LINE + json.dumps(asdict(finding)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
