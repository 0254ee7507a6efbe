"""The certificate: a signed-off file that says how well two backends agree on one network, and for what it holds.

CERTIFICATES/<model>-<reference>-<other>-<8 digits>.json, one for each network, pair, versions and hardware. Its SHA-256
over all else in it shows an edit; it is no signature against forgery.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mspipeline.backends.certification.certify import Agreement
from mspipeline.backends.registry import BACKENDS
from mspipeline.config import ModelSettings, Strict, parse
from mspipeline.errors import ConfigError, DataError, SuiteError
from mspipeline.files import read_json, sha256_data, write_json
from mspipeline.models.catalogue import entry
from mspipeline.network.graph import Graph
from mspipeline.provenance import cpu_model, installed

HASH_DIGITS = 8
_ADAM_ALONE = ("adam",)
State = Literal["reference", "certified", "differs", "cannot", "absent", "failed"]


class NotCertified(SuiteError):
    """Backends do not compute the same network."""

    exit_code = 1


class Side(Strict):
    """One of the two backends. versions: of the framework, what lies below, Python and our adapters.

    hardware: the processor's or the GPU's name; empty where it is not known.
    """

    backend: str
    versions: dict[str, str]
    device: str
    hardware: str


class Network(Strict):
    """What was certified. arguments: all of them, defaults too. nodes, weights: how many arrays were compared."""

    model: str
    arguments: dict[str, Any]
    image_shape: tuple[int, ...]
    graph_hash: str


def network_of(model: ModelSettings, graph: Graph) -> Network:
    """A network as certificates name it: arguments in full, so that a default given is the same as one left out."""
    arguments = {**entry(model.name).arguments, **model.arguments}
    return Network(model=model.name, arguments=arguments, image_shape=graph.inputs[0].shape, graph_hash=graph.hash)


class Measured(Strict):
    """One quantity; see `certify.Agreement`. An error that is no number is null."""

    quantity: str
    agrees: bool
    error: float | None
    tolerance: float
    worst: str
    begins: str | None
    nodes: int
    left_out: int
    of: int


class Certificate(Strict):
    """The file. batch_size, seed, loss: of the trial; learning_rate: of its first optimizer. sha256: over all else.

    optimizers: of which a step was compared; before there were several, files did not say so, and it was Adam's.
    """

    schema_version: Literal[1] = 1
    verdict: Literal["certified", "differs"]
    said: str
    network: Network
    reference: Side
    other: Side
    measured: tuple[Measured, ...]
    batch_size: int
    seed: int
    loss: str
    learning_rate: float
    optimizers: tuple[str, ...] = _ADAM_ALONE
    commit: str | None
    created_utc: str
    sha256: str = ""

    def digest(self) -> str:
        """SHA-256 of all but `sha256`, and of `optimizers` only where a file without them would be another's."""
        unsaid = {"optimizers"} if self.optimizers == _ADAM_ALONE else set()
        return sha256_data(self.model_dump(mode="json", exclude={"sha256", *unsaid}))

    def side(self, backend: str) -> Side | None:
        """The side of a backend; None where it is neither."""
        return next((side for side in (self.reference, self.other) if side.backend == backend), None)

    @property
    def worst(self) -> str:
        """The worst of each quantity in words."""
        return ", ".join(f"{each.quantity} {say_error(each.error)} at {each.worst}" for each in self.measured)


@dataclass(frozen=True)
class Outcome:
    """What became of one backend. detail: in words, where it is not certified. exit_code: of its process."""

    backend: str
    state: State
    detail: str = ""
    exit_code: int = 0
    certificate: Certificate | None = None
    file: Path | None = None


def say_error(error: float | None) -> str:
    """An error for people; one that is infinite is no number."""
    return "not finite" if error is None or not math.isfinite(error) else f"{error:.1e}"


def measured(agreement: Agreement) -> Measured:
    """An agreement as it stands in a file."""
    error = agreement.error if math.isfinite(agreement.error) else None
    return Measured(agrees=agreement.agrees, **{**vars(agreement), "error": error})


def write_certificate(folder: Path, certificate: Certificate) -> tuple[Path, Certificate]:
    """Sign off a certificate and write it; an earlier one of the same network, optimizers and sides is replaced."""
    signed = certificate.model_copy(update={"sha256": certificate.digest()})
    sides = (signed.reference, signed.other)
    optimizers = [] if signed.optimizers == _ADAM_ALONE else [signed.optimizers]
    key = sha256_data([signed.network.graph_hash, *(side.model_dump(mode="json") for side in sides), *optimizers])
    name = "-".join([signed.network.model, *(side.backend for side in sides), key[:HASH_DIGITS]])
    path = folder / f"{name}.json"
    write_json(path, signed.model_dump(mode="json"))
    return path, signed


def read_certificate(path: Path) -> Certificate:
    """A certificate. Raises DataError where it is not one, or was changed after it was signed off."""
    remedy = "certify again with `mspipeline certify`"
    document = read_json(path, what="certificate", remedy=remedy)
    try:
        certificate = parse(document, Certificate, where=str(path))
    except ConfigError as error:
        raise DataError(f"{error}; {remedy}") from error
    if certificate.sha256 != certificate.digest():
        raise DataError(f"{path}: was changed after it was signed off; {remedy}")
    return certificate


def versions_of(backend: str) -> dict[str, str]:
    """Versions of all that decides what a backend computes, no framework loaded. adapters: a hash of our own code."""
    packages = [name for _, distributions in BACKENDS[backend].distributions for name in distributions]
    return {**installed([*packages, "numpy"]), "python": platform.python_version(), "adapters": _adapters_hash()}


def side_of(backend: str, versions: Mapping[str, str], device: str | None) -> Side:
    """One side as it is on this machine. device: as the framework names it, None where that is not known yet."""
    if device is None or device == "CPU":
        hardware = "" if device is None else cpu_model(Path("/proc/cpuinfo")) or platform.machine()
    else:
        hardware = device.partition(": ")[2] or device
    return Side(backend=backend, versions=dict(versions), device=device or "", hardware=hardware)


@dataclass(frozen=True)
class Covering:
    """certificates: those that count, of this very graph or, `same_graph` False, of the network at another size.

    problem: why none counts, else empty.
    """

    certificates: tuple[Certificate, ...]
    same_graph: bool
    problem: str


def covering(folder: Path, network: Network, *sides: Side, optimizers: Sequence[str] = _ADAM_ALONE) -> Covering:
    """The certificates in `folder` that hold for a network on each of these backends as they are here.

    A certificate counts where it was signed off, says certified, has a step of each of the optimizers, and was made
    with the same versions and hardware; what is empty in `sides` is not compared. Files that are no certificates are
    passed over, and named where none counts.
    """
    exact: list[Certificate] = []
    resized: list[Certificate] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*.json")):
        try:
            found = read_certificate(path)
        except DataError as error:
            problems.append(str(error))
            continue
        there = [found.side(side.backend) for side in sides]
        if not _same_network(found.network, network) or None in there:
            continue
        if found.verdict != "certified":
            problems.append(f"{path.name}: {found.said}")
            continue
        differing = [each for old, new in zip(there, sides, strict=True) if old for each in _differences(old, new)]
        if differing:
            problems.append(f"{path.name}: made with {', '.join(differing)}")
            continue
        if missing := [name for name in optimizers if name not in found.optimizers]:
            problems.append(
                f"{path.name}: has no step of {' and '.join(missing)}; certify with --optimizers {','.join(missing)}"
            )
            continue
        (exact if found.network.graph_hash == network.graph_hash else resized).append(found)
    names = " and ".join(side.backend for side in sides)
    none_here = f"{folder}: no certificate of {network.model} with these arguments on {names}"
    problem = "" if exact or resized else "; ".join(problems) or none_here
    return Covering(tuple(exact or resized), bool(exact), problem)


def _same_network(there: Network, wanted: Network) -> bool:
    """Whether two are one graph, or one network at two sizes; channels count."""
    return there.graph_hash == wanted.graph_hash or (
        (there.model, there.arguments, there.image_shape[-1], len(there.image_shape))
        == (wanted.model, wanted.arguments, wanted.image_shape[-1], len(wanted.image_shape))
    )


def _differences(there: Side, here: Side) -> list[str]:
    """What a certificate was made with and is not what is here."""
    names = dict.fromkeys([*there.versions, *here.versions])
    pairs = {name: (there.versions.get(name, "none"), here.versions.get(name, "none")) for name in names}
    pairs["hardware"] = (there.hardware, here.hardware or there.hardware)
    return [f"{name} {old} (here: {new})" for name, (old, new) in pairs.items() if old != new]


@cache
def _adapters_hash() -> str:
    """The first digits of a SHA-256 over the source of graphs, losses, optimizers and adapters."""
    package = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for room in ("arrays.py", "backends", "losses", "network", "optimizers"):
        for path in sorted([package / room] if room.endswith(".py") else (package / room).rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:HASH_DIGITS]
