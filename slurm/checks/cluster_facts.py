"""What a SLURM cluster says of itself: scontrol of partitions and nodes, sacctmgr of accounts and QOS, srun of MPI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mspipeline.errors import ConfigError
from mspipeline.slurm.programs import NOT_HERE, ask

ANSWER_S = 30.0
"""Timeout for one answer: a SLURM program whose controller is away waits far longer by itself."""
_FIELD = re.compile(r"(?:^|\s)([A-Za-z][\w/:]*)=(\S*)")
_GRES = re.compile(r"(\w+)(?::([A-Za-z][\w.\-]*))?(?::(\d+)[KMG]?)?(?:\(.*)?")
_DOWN = frozenset({"DOWN", "DRAIN", "FAIL", "FUTURE", "INVAL", "MAINT", "NOT_RESPONDING", "UNKNOWN"})

Gres = Mapping[tuple[str, str], int]
"""Count by name and type; the type is empty where a node or a request names none."""


@dataclass(frozen=True)
class Node:
    """What one node offers. mem_mib: what SLURM hands out of it. up: whether jobs can start on it as it is.

    state: in SLURM's words, `IDLE+DRAIN`.
    """

    name: str
    up: bool
    cpus: int
    mem_mib: int
    gres: Gres
    state: str = "IDLE"

    def has_gres(self, wanted: Gres) -> bool:
        """Whether one job could be given that much: a name without a type is any type's."""
        return all(
            sum(count for (its, kind), count in self.gres.items() if its == name and type_ in ("", kind)) >= number
            for (name, type_), number in wanted.items()
        )


@dataclass(frozen=True)
class PartitionFacts:
    """A partition. max_*: its limits for a job on one node, None where it has none.

    accounts, qos: those that may use it, None for all. preempt_mode: what becomes of a job that makes
    room for a more urgent one.
    """

    name: str
    state: str
    max_time_min: int | None
    max_cpus: int | None
    max_mem_mib: int | None
    accounts: frozenset[str] | None
    denied_accounts: frozenset[str]
    qos: frozenset[str] | None
    preempt_mode: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class ClusterFacts:
    """A cluster as it is now. accounts, qos: all that accounting knows, None where there is no accounting.

    own_accounts, own_qos: what this user's associations allow, None where SLURM does not insist on them.
    qos: longest run in minutes by name, None where it sets none. kill_wait_s: between TERM and KILL.
    """

    name: str
    version: str
    kill_wait_s: int
    partitions: Mapping[str, PartitionFacts]
    accounts: frozenset[str] | None
    qos: Mapping[str, int | None] | None
    own_accounts: frozenset[str] | None
    own_qos: frozenset[str] | None
    mpi_plugins: tuple[str, ...]


def ask_cluster(user: str) -> ClusterFacts:
    """Ask the cluster of this shell. user: whose associations count. Takes some tenths of a second, changes nothing.

    Raises ConfigError where SLURM's programs are not there or its controller does not answer.
    """
    lines = [line.partition("=") for line in _output("scontrol", "show", "config").splitlines()]
    config = {key.strip(): value.strip() for key, _, value in lines}
    nodes = [_fields(line) for line in _output("scontrol", "show", "node", "--oneliner").splitlines()]
    partitions = {}
    for line in _output("scontrol", "show", "partition", "--oneliner").splitlines():
        fields = _fields(line)
        if "PartitionName" in fields:
            partitions[fields["PartitionName"]] = _partition(fields, nodes)
    enforced = config.get("AccountingStorageEnforce", "none").lower().split(",")
    accounting = "none" not in config.get("AccountingStorageType", "none")
    accounts, qos, own_accounts, own_qos = _accounting(user, enforced) if accounting else (None, None, None, None)
    return ClusterFacts(
        name=config.get("ClusterName", "unnamed"),
        version=config.get("SLURM_VERSION", "of an unknown version"),
        kill_wait_s=int(config.get("KillWait", "30").split()[0]),
        partitions=partitions,
        accounts=accounts,
        qos=qos,
        own_accounts=own_accounts,
        own_qos=own_qos,
        mpi_plugins=_mpi_plugins(),
    )


def minutes(text: str) -> int | None:
    """A time limit as SLURM writes it, in whole minutes; None where it has no end.

    >>> [minutes(each) for each in ("1-06:00:00", "12:30:00", "30:00", "UNLIMITED")]
    [1800, 750, 30, None]
    """
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":") if part.isdecimal()]
    if not parts:
        return None
    while len(parts) < 3:
        parts = [*parts, 0] if days else [0, *parts]  # D-HH, D-HH:MM; MM:SS
    return int(days or 0) * 1440 + parts[0] * 60 + parts[1]


def gres(text: str) -> dict[tuple[str, str], int]:
    """Generic resources as a node lists them or a job asks for them.

    >>> gres("gpu:t4:2(S:0-1),gpu:a100:1,nvme")
    {('gpu', 't4'): 2, ('gpu', 'a100'): 1, ('nvme', ''): 1}
    """
    found: dict[tuple[str, str], int] = {}
    for word in re.split(r",(?![^(]*\))", text):
        match = _GRES.fullmatch(word)
        if match and match[1] != "null":
            key = (match[1], match[2] or "")
            found[key] = found.get(key, 0) + int(match[3] or 1)
    return found


def gres_words(counts: Gres) -> str:
    """The same in words: `gpu:t4:2`."""
    return ", ".join(":".join([*(word for word in key if word), str(count)]) for key, count in counts.items()) or "none"


def _partition(fields: Mapping[str, str], nodes: list[dict[str, str]]) -> PartitionFacts:
    name = fields["PartitionName"]
    return PartitionFacts(
        name=name,
        state=fields.get("State", "UP"),
        max_time_min=minutes(fields.get("MaxTime", "UNLIMITED")),
        max_cpus=_number(fields.get("MaxCPUsPerNode", "")),
        max_mem_mib=_number(fields.get("MaxMemPerNode", "")),
        accounts=_names(fields.get("AllowAccounts", "ALL")),
        denied_accounts=_names(fields.get("DenyAccounts", "")) or frozenset(),
        qos=_names(fields.get("AllowQos", "ALL")),
        preempt_mode=fields.get("PreemptMode", "OFF"),
        nodes=tuple(_node(each) for each in nodes if name in each.get("Partitions", "").split(",")),
    )


def _node(fields: Mapping[str, str]) -> Node:
    state = fields.get("State", "UNKNOWN")
    return Node(
        name=fields["NodeName"],
        up=not _DOWN.intersection(state.split("+")) and not state.endswith("*"),
        cpus=int(fields.get("CPUEfctv") or fields.get("CPUTot") or 1),
        mem_mib=int(fields.get("RealMemory", 1)) - (_number(fields.get("MemSpecLimit", "")) or 0),
        gres=gres(fields.get("Gres", "")),
        state=state,
    )


def _fields(line: str) -> dict[str, str]:
    """KEY=VALUE words of a line; the first of a name counts, for the comments at its end may hold anything."""
    return dict(reversed(_FIELD.findall(line)))


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _names(text: str) -> frozenset[str] | None:
    return None if text in ("", "ALL", "(null)", "N/A") else frozenset(text.split(","))


def _accounting(
    user: str, enforced: list[str]
) -> tuple[frozenset[str] | None, dict[str, int | None] | None, frozenset[str] | None, frozenset[str] | None]:
    """Accounts, QOS with their longest runs, and those of them that are open to this user where SLURM insists."""
    try:
        accounts = frozenset(_output("sacctmgr", "-nP", "show", "account", "format=account").split())
        lines = [
            line.split("|") for line in _output("sacctmgr", "-nP", "show", "qos", "format=name,maxwall").splitlines()
        ]
        rows = _output("sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=account,qos").splitlines()
    except ConfigError:  # no answer from its database: then nobody can tell, and SLURM will
        return None, None, None, None
    qos = {words[0]: minutes(words[1]) for words in lines if words[0]}
    own = [row.split("|") for row in rows]
    insists = {"associations", "limits", "qos", "safe", "all"}.intersection(enforced)
    own_accounts = frozenset(row[0] for row in own) if insists else None
    own_qos = frozenset(name for row in own for name in row[1].split(",")) if {"qos", "all"} & insists else None
    return accounts, qos, own_accounts, own_qos


def _mpi_plugins() -> tuple[str, ...]:
    """What `srun --mpi=` takes here; SLURM before 24 lists them on its standard error."""
    try:
        lines = _output("srun", "--mpi=list", both=True).splitlines()
    except ConfigError:
        return ()
    named = [line.strip() for line in lines if line.strip() and "..." not in line and ":" not in line]
    specific = [word for line in lines if "versions available:" in line for word in line.partition(":")[2].split(",")]
    return tuple(dict.fromkeys([*named, *(word.strip() for word in specific)]))


def _output(*command: str, both: bool = False) -> str:
    """Standard output of a SLURM program, with its standard error where `both`. Raises ConfigError in one line."""
    answer = ask(command, timeout_s=ANSWER_S)
    if answer.problem:
        what = ": not found here" if answer.problem == NOT_HERE else f" failed ({answer.problem[:300]})"
        raise ConfigError(
            f"{command[0]}{what}; work on a login node of the cluster, or wait until its controller is back"
        )
    return answer.output + (answer.errors if both else "")
