"""A ten-second job on each partition of a site, which looks at what a cell would find there (slurm.checks.probe_job).

    mspipeline doctor --probe -> srun -> bash: clock, modules -> python -m mspipeline.slurm.checks.probe_job
                              -> sbatch -> two ranks of MPI (probe_mpi.py)

srun and not sbatch: what the node says comes back over SLURM's own line, even where the node does not see the folder.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from mspipeline.campaigns.finding import Finding
from mspipeline.campaigns.site import Site
from mspipeline.slurm.checks.probe_job import LINE, MARK, Probe
from mspipeline.slurm.checks.probe_mpi import mpi_findings
from mspipeline.slurm.modules import NOT_BEGUN, plain_lines
from mspipeline.slurm.sbatch_options import WHERE, words_of
from mspipeline.slurm.site_rules import sbatch_of, setup_lines
from mspipeline.slurm.srun import outside_of_jobs, srun_words

WAIT_S = 60
"""How long a probe waits for a free place on its partition."""
RUN_S = 120
MOST_CORES = 2
"""Enough to tell a task that is bound to one core from one that has what it asked for."""
CLOCK_TOLERANCE_S = 2.0
"""Farther apart, rows and log lines of several nodes are put in a wrong order."""


@dataclass
class ProbeOutput:
    """What a probe has printed. clock_s: the node's clock minus this machine's, at the least."""

    host: str = ""
    clock_s: float | None = None
    modules: str = ""
    findings: list[Finding] = field(default_factory=list)

    def take(self, line: str, now_s: float) -> None:
        """One line. A node's time that travelled for a while looks late, so of several the latest is the truest."""
        key, _, value = line.strip().partition(" ")
        if key == "clock":
            ahead = float(value) - now_s
            self.clock_s = ahead if self.clock_s is None else max(self.clock_s, ahead)
        elif key == "host":
            self.host = value
        elif key == "modules":
            self.modules = value
        elif key == LINE.strip():
            self.findings.append(Finding(**json.loads(value)))


def probe_site(site: Site, folder: Path, *, wait_s: int = WAIT_S, run_s: int = RUN_S) -> list[Finding]:
    """Probe all partitions of a site at once. folder: where campaigns would be; the nodes have to see it.

    wait_s: for a free place, run_s: for the job itself; a probe that takes longer is cancelled, and a finding.
    """
    with tempfile.TemporaryDirectory(prefix=".mspipeline-probe-", dir=folder) as shared:
        (Path(shared) / MARK).touch()
        with ThreadPoolExecutor(len(site.partitions) + 1) as pool:
            ranks = pool.submit(mpi_findings, site, Path(shared).resolve(), wait_s + run_s)
            every = pool.map(lambda name: _probe(site, name, Path(shared).resolve(), wait_s, run_s), site.partitions)
            found = [finding for findings in every for finding in findings]
            silent = _where(site.partition_for(site.device_of_steps)[0])  # a probe that heard nothing says why, once
            return found if any(each.what == silent for each in found) else [*found, *ranks.result()]


def srun_command(site: Site, partition_name: str, job_name: str, wait_s: int, script: str) -> list[str]:
    """The command line of one probe: all that a cell asks for, but two cores at most and three minutes."""
    partition = site.partitions[partition_name]
    asked = {
        "partition": partition_name,
        "job-name": job_name,
        "account": partition.account or site.account,
        "qos": partition.qos or site.qos,
        "gres": partition.gres,
        "ntasks": "1",
        "time": "3",
        "immediate": str(wait_s),
    }
    words = [f"--{key}={value}" for key, value in asked.items() if value]
    start = srun_words(mpi="none", cpus=min(partition.cpus or MOST_CORES, MOST_CORES))
    where = {name: value for name, value in sbatch_of(site, partition).items() if name in WHERE}
    return [*start, *words, *words_of(where), "bash", "-c", script]


def _where(name: str) -> str:
    return f"probe of {name!r}"


def _probe(site: Site, name: str, shared: Path, wait_s: int, run_s: int) -> Iterable[Finding]:
    """One partition's findings, each under its name."""
    job_name = f"mspipeline-probe-{secrets.token_hex(4)}"
    where = _where(name)
    command = srun_command(site, name, job_name, wait_s, _script(site, name, shared))
    try:
        output, errors, late = _listen(command, outside_of_jobs(os.environ), wait_s + run_s)
    except OSError as error:
        return [Finding(where, "broken", f"srun: {error.strerror}", "work on a login node of the cluster")]
    if late:
        subprocess.run(["scancel", "--quiet", f"--name={job_name}"], capture_output=True, check=False, timeout=run_s)
    if not output.host:
        problem = " ".join(errors.split())
        if late or "busy" in problem or "immediate" in problem.lower():
            detail = f"no free place within {wait_s} s (the queue is full)"
            return [Finding(where, "missing", detail, "try again later; the partition itself is there")]
        return [Finding(where, "broken", problem[-300:] or "srun says nothing", "correct the site file")]
    findings = [_clock(output), *_modules(site, output), *output.findings]
    if late:
        findings.append(Finding("end", "broken", f"not over after {run_s} s; cancelled", "look at the node"))
    elif not output.findings:
        problem = " ".join(errors.split())[-300:]
        remedy = "put this environment and the package on a file system that the nodes share"
        findings.append(Finding("python", "broken", f"{sys.executable} does not run there: {problem}", remedy))
    return [replace(each, what=f"{where} on {output.host}: {each.what}") for each in findings]


def _listen(command: list[str], environment: Mapping[str, str], patience_s: float) -> tuple[ProbeOutput, str, bool]:
    """What a probe prints, and its errors, until it ends or patience does; then it is ended. True where it was late."""
    lines: queue.SimpleQueue[tuple[float, str] | None] = queue.SimpleQueue()
    output, ends, late = ProbeOutput(), time.monotonic() + patience_s, False
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):

        def read() -> None:
            for line in process.stdout or ():
                lines.put((time.time(), line))
            lines.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        while True:
            try:
                item = lines.get(timeout=max(ends - time.monotonic(), 0.01))
            except queue.Empty:
                late = True
                process.terminate()  # srun takes its job with it
                break
            if item is None:
                break
            output.take(item[1], item[0])
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        reader.join()
        errors.seek(0)
        return output, errors.read(), late


def _script(site: Site, name: str, shared: Path) -> str:
    """What the node's shell does: says its name and its time, loads the modules, then starts Python."""
    probe = Probe(site=site, partition=name, folder=str(shared)).model_dump_json()
    python = shlex.join([sys.executable, "-P", "-m", "mspipeline.slurm.checks.probe_job", probe])
    lines = [
        'echo "host ${SLURMD_NODENAME:-$(hostname)}"',
        'for i in 1 2 3; do echo "clock $(date +%s.%N)"; sleep 0.1; done',
    ]
    if site.modules:
        strict = "\n".join(setup_lines(site))
        lines += [f"output=$(exec 2>&1\n{strict}\n) && output=loaded"]
        lines += ["echo \"modules ${output//$'\\n'/ }\"", *plain_lines(site.modules)]
    return "\n".join([*lines, python])


def _clock(output: ProbeOutput) -> Finding:
    ahead_s = output.clock_s or 0.0
    side = "ahead of" if ahead_s > 0 else "behind"
    detail = f"{abs(ahead_s):.1f} s {side} this machine's"
    if abs(ahead_s) <= CLOCK_TOLERANCE_S:
        return Finding("clock", "ok", detail)
    remedy = "have the site's staff set it (NTP): times in rows and logs of that node are wrong by as much"
    return Finding("clock", "broken", detail, remedy)


def _modules(site: Site, output: ProbeOutput) -> list[Finding]:
    if not site.modules:
        return []
    what = f"modules {', '.join(site.modules)}"
    if output.modules == "loaded":
        return [Finding(what, "ok", "load there")]
    detail, _, remedy = output.modules.removeprefix(NOT_BEGUN).rpartition("; ")
    return [Finding(what, "broken", f"not loaded: {detail}", remedy)]
