"""A site file held against the live cluster: what it names that is not there, and what is there instead.

Only questions are asked: no job is started (see slurm.checks.probe for that) and nothing is written.
"""

from __future__ import annotations

import getpass
import shutil
from collections.abc import Iterable, Iterator, Sequence

from mspipeline.campaigns.finding import Finding
from mspipeline.campaigns.site import Partition, Site
from mspipeline.errors import ConfigError, nearest
from mspipeline.slurm.checks.cluster_facts import ClusterFacts, Node, PartitionFacts, ask_cluster, gres, gres_words
from mspipeline.slurm.checks.host_check import ON_NODES, host_findings, image_findings
from mspipeline.slurm.checks.options_check import option_findings

SHOWN_NODES = 4
PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")


def check_site(site: Site, backends: Sequence[str] = ()) -> None:
    """Raise ConfigError, in one line, where the live cluster could not run this site's cells.

    backends: those whose images are needed; an image that only the nodes have is not judged.
    """
    asked = scheduler_findings(site, ask_cluster(getpass.getuser()))
    found = [*asked, *option_findings(site), *image_findings(site, backends)]
    wrong = [each for each in found if each.state == "broken"]
    if wrong:
        more = f" (and {len(wrong) - 1} more: see `mspipeline doctor --site`)" if len(wrong) > 1 else ""
        raise ConfigError(f"site {site.name}: {wrong[0].what}: {wrong[0].detail}; {wrong[0].remedy}{more}")


def site_findings(site: Site) -> list[Finding]:
    """What can be found out about a site on SLURM from this machine, without a job."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        remedy = "work on a login node of the cluster, or load the module that has SLURM"
        return [Finding("SLURM", "broken", f"no {', '.join(absent)} on the PATH", remedy)]
    try:
        facts = ask_cluster(getpass.getuser())
    except ConfigError as error:
        detail, _, remedy = str(error).rpartition("; ")
        return [Finding("SLURM", "broken", detail, remedy)]
    return [
        Finding("SLURM", "ok", f"{facts.version}, cluster {facts.name}: {', '.join(facts.partitions)}"),
        *scheduler_findings(site, facts),
        *option_findings(site),
        _signals(site, facts),
        *_mpi(site, facts),
        *host_findings(site),
    ]


def scheduler_findings(site: Site, facts: ClusterFacts) -> list[Finding]:
    """Partitions with their limits, accounts and QOS. Pure: the same for the same facts.

    One finding a partition where it is well, else one for each thing that is wrong with it.
    """
    found: list[Finding] = []
    for name, wanted in site.partitions.items():
        there = facts.partitions.get(name)
        where = f"[partitions.{name}]"
        if there is None:
            detail = f"not on this cluster; it has {_listed(facts.partitions)}"
            found.append(Finding(f"partition {name!r}", "broken", detail, f"correct {where} of the site file"))
            continue
        qos, account = wanted.qos or site.qos, wanted.account or site.account
        wrong = [*_limits(there, wanted), *_admission(there, account, qos)]
        waits = [] if wrong else _hindered(there, wanted)
        longest = (facts.qos or {}).get(qos or "")
        if longest is not None and wanted.time_min is not None and wanted.time_min > longest:
            wrong.append(
                (f"time_min = {wanted.time_min} is above the limit of QOS {qos!r}, {longest}", "lower time_min")
            )
        found += [
            Finding(f"partition {name!r}", "broken", detail, f"{remedy} in {where} of the site file")
            for detail, remedy in wrong
        ]
        found += [Finding(f"partition {name!r}", "warning", detail, remedy) for detail, remedy in waits]
        if not wrong and not waits:
            found.append(Finding(f"partition {name!r}", "ok", _described(there)))
        if wanted.device == "gpu" and wanted.gres is None:
            found.append(
                Finding(
                    f"partition {name!r}",
                    "missing",
                    "device = 'gpu' but no gres is asked for: cells may see no GPU",
                    f"add gres to {where}; its nodes have {_gres_of(there)}",
                )
            )
    return [*found, *_accounts(site, facts), *_qos(site, facts)]


def _limits(there: PartitionFacts, wanted: Partition) -> list[tuple[str, str]]:
    """What a cell asks of a partition above what that has, with what to do.

    A node that is down or drained counts: it comes back, and what it has can be asked for.
    """
    wrong = []
    if there.state in ("DRAIN", "INACTIVE"):  # where it is DOWN, it takes jobs and keeps them
        wrong.append((f"its state is {there.state}: it takes no jobs", "wait for it, or name another partition"))
    if not there.nodes:
        wrong.append(("it has no nodes", "name another partition"))
        return wrong
    nodes = there.nodes
    most_cpus = _least(max((node.cpus for node in nodes), default=0), there.max_cpus)
    most_mib = _least(max((node.mem_mib for node in nodes), default=0), there.max_mem_mib)
    asked = gres(wanted.gres or "")
    cpus, mem_mib = (wanted.cpus or 1) * wanted.pack, (wanted.mem_gb or 0) * 1024 * wanted.pack
    packed, less = (f" for each of pack = {wanted.pack} cells", " or pack") if wanted.pack > 1 else ("", "")
    if there.max_time_min is not None and wanted.time_min is not None and wanted.time_min > there.max_time_min:
        wrong.append((f"time_min = {wanted.time_min} is above its limit, {there.max_time_min}", "lower time_min"))
    single = len(wrong)
    if cpus > most_cpus:
        asked_cpus = f"cpus = {wanted.cpus or 1}{packed}"
        wrong.append((f"{asked_cpus}, but a node offers {most_cpus} at most", f"lower cpus{less}"))
    if mem_mib > most_mib:
        offers = f"{most_mib / 1024:.4g}"
        asked_gb = f"mem_gb = {wanted.mem_gb:g}{packed}"
        wrong.append((f"{asked_gb}, but a node offers {offers} at most", f"lower mem_gb{less}"))
    if not any(node.has_gres(asked) for node in nodes):
        wrong.append((f"gres {wanted.gres!r}: no node has that; its nodes have {_gres_of(there)}", "correct gres"))
    if len(wrong) == single and not any(_can_run(node, wanted) for node in nodes):
        wrong.append(("no single node has that many cpus, that memory and that gres", "ask for less"))
    return wrong


def _can_run(node: Node, wanted: Partition) -> bool:
    """Whether a node, empty and in service, could run one job: a cell, or the cells that are packed into one."""
    cpus, mem_mib = (wanted.cpus or 1) * wanted.pack, (wanted.mem_gb or 0) * 1024 * wanted.pack
    return node.cpus >= cpus and node.mem_mib >= mem_mib and node.has_gres(gres(wanted.gres or ""))


def _hindered(there: PartitionFacts, wanted: Partition) -> list[tuple[str, str]]:
    """Why cells would wait in a partition that takes them: it is closed for now, or the nodes for them are."""
    remedy = "wait for the site's staff, or name another partition"
    if there.state != "UP":
        return [(f"its state is {there.state}: cells wait until it is up", remedy)]
    able = [node for node in there.nodes if _can_run(node, wanted)]
    if any(node.up for node in able):
        return []
    states = ", ".join(f"{node.name} {node.state.lower()}" for node in able[:SHOWN_NODES])
    more = f" and {len(able) - SHOWN_NODES} more" if len(able) > SHOWN_NODES else ""
    which = (
        f"none of its {len(there.nodes)} nodes" if len(able) == len(there.nodes) else "no node that could run a cell"
    )
    return [(f"{which} is in service ({states}{more}): cells wait until one is", f"{remedy}; `sinfo -R` says why")]


def _admission(there: PartitionFacts, account: str | None, qos: str | None) -> list[tuple[str, str]]:
    """Whether a partition takes jobs of this account and QOS."""
    wrong = []
    if there.accounts is not None and account not in there.accounts:
        wrong.append((f"takes no job of account {account!r}, only of {_listed(there.accounts)}", "set account"))
    if account in there.denied_accounts:
        wrong.append((f"takes no job of account {account!r}", "set another account"))
    if there.qos is not None and qos not in there.qos:
        wrong.append((f"takes no job of QOS {qos!r}, only of {_listed(there.qos)}", "set qos"))
    return wrong


def _accounts(site: Site, facts: ClusterFacts) -> Iterator[Finding]:
    named = [*([site.account] if site.account else []), *(p.account for p in site.partitions.values() if p.account)]
    open_to_user = facts.accounts if facts.own_accounts is None else facts.own_accounts
    for account in dict.fromkeys(named):
        yield _named("account", account, facts.accounts, open_to_user)


def _qos(site: Site, facts: ClusterFacts) -> Iterator[Finding]:
    named = [*([site.qos] if site.qos else []), *(p.qos for p in site.partitions.values() if p.qos)]
    every = None if facts.qos is None else frozenset(facts.qos)
    for qos in dict.fromkeys(named):
        yield _named("qos", qos, every, every if facts.own_qos is None else facts.own_qos)


def _named(kind: str, name: str, every: frozenset[str] | None, yours: frozenset[str] | None) -> Finding:
    """Whether accounting knows an account or a QOS, and this user may use it."""
    what = f"{kind} {name!r}"
    if every is None or yours is None:
        remedy = f"ask the site's staff whether {kind} counts here; SLURM refuses a wrong one at submission, if at all"
        return Finding(
            what, "missing", "cannot be checked: this cluster has no accounting, or it does not answer", remedy
        )
    if name in yours:
        return Finding(what, "ok", "known to accounting" if yours == every else "open to you")
    has = f"you have {_listed(yours)}" if name in every else f"it has {_listed(yours)}"
    detail = f"not open to you; {has}" if name in every else f"not on this cluster; {has}"
    guess = nearest(name, sorted(yours)) if yours else "ask the site's staff for one"
    return Finding(what, "broken", detail, f"correct {kind} in the site file ({guess})")


def _signals(site: Site, facts: ClusterFacts) -> Finding:
    """How a cell is warned here before its time limit, and how long it has when it is preempted or cancelled."""
    unsafe = [
        name
        for name in site.partitions
        if name in facts.partitions and facts.partitions[name].preempt_mode in ("CANCEL", "GANG", "SUSPEND")
    ]
    detail = f"warned {site.warn_s} s before the time limit; {facts.kill_wait_s} s to save its state when preempted"
    if unsafe:
        mode = facts.partitions[unsafe[0]].preempt_mode
        remedy = "run `mspipeline resume` after a preemption, or ask the site's staff for PreemptMode=REQUEUE"
        return Finding("end of a cell", "missing", f"{detail}; {_listed(unsafe)} preempts by {mode}", remedy)
    return Finding("end of a cell", "ok", detail)


def _mpi(site: Site, facts: ClusterFacts) -> Iterator[Finding]:
    what = f"mpi {site.mpi}"
    if site.mpi != "srun" and shutil.which(site.mpi) is None:
        detail = f"no {site.mpi} on this machine's PATH"
        yield Finding(what, "missing", detail, f"name the module that has it in `modules`; {ON_NODES}")
    elif site.mpi_plugin and site.mpi_plugin not in facts.mpi_plugins:
        remedy = "correct mpi_plugin in the site file"
        yield Finding(what, "broken", f"no plugin {site.mpi_plugin!r}; it has {_listed(facts.mpi_plugins)}", remedy)
    else:
        plugin = f"plugin {site.mpi_plugin}" if site.mpi_plugin else "that of the environment's MPI"
        yield Finding(what, "ok", plugin if site.mpi == "srun" else str(shutil.which(site.mpi)))


def _described(there: PartitionFacts) -> str:
    """A partition in one line."""
    up = [node for node in there.nodes if node.up]
    limit = "no time limit" if there.max_time_min is None else f"time limit {there.max_time_min} min"
    cpus, memory = max(node.cpus for node in up), max(node.mem_mib for node in up) / 1024
    each = f"up to {cpus} cpus, {memory:.4g} GB and gres {_gres_of(there)} a node"
    return f"{len(up)} of {len(there.nodes)} nodes up, {limit}, {each}; preemption: {there.preempt_mode.lower()}"


def _gres_of(there: PartitionFacts) -> str:
    kinds = dict.fromkeys(gres_words(node.gres) for node in there.nodes if node.gres)
    return " or ".join(kinds) or "none"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _least(value: int, limit: int | None) -> int:
    return value if limit is None else min(value, limit)
