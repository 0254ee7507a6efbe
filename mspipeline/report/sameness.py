"""Which groups were proven to train the same network: what the certificates that cover their runs say together."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mspipeline.report.comparison import Cell, Group, Row, absent

NOT_CERTIFIED = "not certified: networks were not proven equal"
DEFINITION = (
    "Whether certificates prove that the groups' backends compute the same network: activations of every node, loss, "
    "gradients and one optimizer step, with the versions and hardware of every complete run."
)

Members = Sequence[Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class Sameness:
    """One network on several backends. classes: indices of groups proven equal, others alone. worst: of each class."""

    network: str
    classes: tuple[tuple[int, ...], ...]
    worst: tuple[str, ...]


def sameness(groups: Sequence[Group], members: Members) -> list[Sameness]:
    """Of each network that has complete runs on several backends. members: each group's runs, as rows of the table.

    Two groups are equal where one certificate, for their two backends, covers all complete runs of both; and so on from
    group to group.
    """
    networks: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        if group.runs:
            networks[group.model, group.arguments].append(index)
    found = []
    for (model, arguments), indices in networks.items():
        if len({groups[index].backend for index in indices}) < 2:
            continue
        notes = {index: _notes(members[index]) for index in indices}
        classes: list[list[int]] = []
        worst: list[list[str]] = []
        for index in indices:
            joined = [
                place for place, others in enumerate(classes) if any(_meet(groups, notes, index, o) for o in others)
            ]
            merged_worst = [w for place in joined for w in worst[place]]
            for other in (o for place in joined for o in classes[place]):
                merged_worst += _meet(groups, notes, index, other)
            merged = [*(o for place in joined for o in classes[place]), index]
            classes = [each for place, each in enumerate(classes) if place not in joined] + [merged]
            worst = [each for place, each in enumerate(worst) if place not in joined] + [merged_worst]
        found.append(
            Sameness(
                f"{model} ({arguments})" if arguments else model,
                tuple(tuple(sorted(each)) for each in classes),
                tuple("; ".join(dict.fromkeys(each)) for each in worst),
            )
        )
    return found


def sameness_notes(groups: Sequence[Group], members: Members) -> list[str]:
    """What a reader must know before comparing columns of different backends."""
    notes = []
    for found in sameness(groups, members):
        alone = [each[0] for each in found.classes if len(each) == 1]
        for equal, worst in zip(found.classes, found.worst, strict=True):
            if len(equal) > 1:
                letters = ", ".join(groups[index].letter for index in equal)
                notes.append(f"Certified equal: {letters} ({found.network}; worst {worst}).")
        if len(alone) == sum(map(len, found.classes)):
            why = _reasons(members, alone)
            notes.append(f"The columns of different backends are {NOT_CERTIFIED}.{f' {why}' if why else ''}")
        elif len(found.classes) > 1:
            letters = " and ".join("/".join(groups[i].letter for i in each) for each in found.classes)
            notes.append(
                f"Not certified: {letters} of {found.network} were not proven equal. {_reasons(members, alone)}"
            )
    several = len({group.backend for group in groups}) > 1
    if several and not sameness(groups, members):
        notes.append(f"The columns of different backends are {NOT_CERTIFIED}.")
    return [note.strip() for note in notes]


def sameness_row(groups: Sequence[Group], members: Members) -> list[Row]:
    """The row of the table; none where no network ran on several backends."""
    every = sameness(groups, members)
    if not every:
        return []
    cells: dict[int, Cell] = {}
    for found in every:
        for equal in found.classes:
            for index in equal:
                others = ", ".join(groups[other].letter for other in equal if other != index)
                cells[index] = Cell(None, f"certified equal: {others}" if others else "not certified")
    shown = [
        cells.get(index, absent("one backend" if group.runs else "no complete run"))
        for index, group in enumerate(groups)
    ]
    return [Row("certified", "Network", "Same network", "", DEFINITION, tuple(shown))]


Notes = dict[str, dict[str, Any]]


def _notes(runs: Sequence[dict[str, Any]]) -> Notes:
    """The certificates, by SHA-256, that cover every complete run of a group."""
    found = [
        {note["sha256"]: note for note in json.loads(run["certificates"] or "[]")}
        for run in runs
        if run["status"] == "complete"
    ]
    return {sha: note for sha, note in found[0].items() if all(sha in each for each in found)} if found else {}


def _meet(groups: Sequence[Group], notes: dict[int, Notes], one: int, other: int) -> list[str]:
    """The worst of the certificates that prove two groups equal, in words; empty where there are none."""
    backends = {groups[one].backend, groups[other].backend}
    descriptions = []
    for sha in notes[one].keys() & notes[other].keys():
        note = notes[one][sha]
        if {note["reference"], note["other"]} == backends:
            size = "" if note["same_graph"] else f", at {'x'.join(map(str, note['image_shape']))} instead of this size"
            descriptions.append(f"of {note['other']} against {note['reference']}{size}: {note['worst']}")
    return sorted(descriptions)


def _reasons(members: Members, indices: Sequence[int]) -> str:
    """Why runs are not covered, each reason once."""
    reasons = [run["uncertified"] for index in indices for run in members[index] if run["status"] == "complete"]
    distinct = list(dict.fromkeys(reason for reason in reasons if reason))
    return f"{'; '.join(distinct)}." if distinct else ""
