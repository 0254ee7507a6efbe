"""The `sbatch` options of a site file held against its cluster: `sbatch --test-only` tells whether it takes them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

from mspipeline.campaigns.finding import Finding
from mspipeline.campaigns.site import Site
from mspipeline.slurm.sbatch_options import words_of
from mspipeline.slurm.site_rules import sbatch_of
from mspipeline.slurm.srun import outside_of_jobs

ANSWER_S = 30.0
_NOT_OF_TESTS = ("begin", "hold")


def option_findings(site: Site) -> Iterator[Finding]:
    """One for each partition that has options. Submits nothing.

    A partition, an account or a QOS that is not there is a finding of another check, and sbatch's answer here as well.
    """
    for name, partition in site.partitions.items():
        options = {each: value for each, value in sbatch_of(site, partition).items() if each not in _NOT_OF_TESTS}
        if not options:
            continue
        what, shown = f"sbatch options of {name!r}", " ".join(words_of(options))
        asked = {"partition": name, "account": partition.account or site.account, "qos": partition.qos or site.qos}
        words = [f"--{key}={value}" for key, value in asked.items() if value]
        command = ["sbatch", "--test-only", *words, *words_of(options), "--output=/dev/null", "--wrap=true"]
        try:
            done = subprocess.run(
                command,
                env=outside_of_jobs(os.environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=ANSWER_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            yield Finding(what, "missing", f"sbatch does not answer ({error})", "try again later")
            continue
        if done.returncode:
            problem = " ".join(done.stderr.split()).removeprefix("allocation failure: ").removeprefix("sbatch: error: ")
            yield Finding(
                what, "broken", f"{shown}: sbatch says {problem[:300]!r}", "correct `sbatch` in the site file"
            )
        else:
            yield Finding(what, "ok", f"{shown}: sbatch takes them")
