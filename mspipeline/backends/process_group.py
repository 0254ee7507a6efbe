"""The processes that train one network together: each computes on its share of a joint batch, all make the same update.

A batch is shared out evenly, in the order of its images. One that cannot be (the last of an epoch, say) is given to
every process whole: all compute the same, and it counts once. So the gradients are those of one process with the joint
batch, up to rounding, whatever the loss and the size of the last batch.

Loss and batch normalisation are of the joint batch, too: their sums and moments are exchanged in the step, forwards and
backwards. Dropout's masks are those of the joint batch, too: see `dropout_masks`.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from mspipeline.errors import BackendError

JOIN_S = 300
"""How long a process waits for the others to start: nodes load a framework from a slow disk at different speeds."""
SILENCE_S = 600
"""How long it waits in a step, where the network does not say at once that another has ended."""


class PeersLost(BackendError):
    """Another process of the group has ended, or cannot be reached. The exit code tells it from one's own failure."""

    exit_code = 76


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place among `size`; the default is one process alone.

    rank: from 0, which alone writes. address: `host:port` where rank 0 meets the others. gpu: the place of this
    process's GPU among those that it sees.
    """

    rank: int = 0
    size: int = 1
    address: str = ""
    gpu: int = 0

    @property
    def name(self) -> str:
        """For error lines."""
        return f"process {self.rank} of {self.size}"

    def lost(self, reason: object) -> PeersLost:
        """The error for where the others do not answer."""
        words = " ".join(str(reason).split())[:200]
        return PeersLost(
            f"{self.name}: another process has ended or cannot be reached ({words}); see its own lines, then run the "
            "same command again to continue"
        )


ALONE = ProcessGroup()


def addresses(group: ProcessGroup, *, wait_s: float = JOIN_S) -> list[str]:
    """A free `host:port` of every process, by rank, the same list everywhere: for engines that want all of them.

    Every process of the group calls it. Its host is the one that its connection to rank 0 goes out from. Raises
    PeersLost where not all have called within `wait_s`.
    """
    host, _, port = group.address.rpartition(":")
    try:
        with _free_port() as own_port:
            if group.rank == 0:
                return _collect(group, [f"{host}:{own_port}"], int(port), time.monotonic() + wait_s)
            return _report(host, int(port), group.rank, own_port, time.monotonic() + wait_s)
    except (OSError, ValueError) as error:
        raise group.lost(f"no meeting at {group.address}: {error}") from error


@contextmanager
def _free_port() -> Iterator[int]:
    """A port that nobody has, kept until the block is left."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("", 0))
        yield held.getsockname()[1]


def free_port() -> int:
    """A port of this machine that nobody has now."""
    with _free_port() as port:
        return port


def _collect(group: ProcessGroup, own: list[str], port: int, deadline: float) -> list[str]:
    """Rank 0's side: hear every rank's address, then tell all of them to each."""
    found = dict(enumerate(own))
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", port)))
        peers = []
        while len(found) < group.size:
            server.settimeout(max(0.1, deadline - time.monotonic()))
            peer, _ = server.accept()
            stack.enter_context(peer)
            peer.settimeout(10)
            rank, address = json.loads(peer.makefile().readline())
            found[int(rank)] = str(address)
            peers.append(peer)
        ordered = [found[rank] for rank in range(group.size)]
        for peer in peers:
            peer.sendall(json.dumps(ordered).encode() + b"\n")
    return ordered


def _report(host: str, port: int, rank: int, own_port: int, deadline: float) -> list[str]:
    """Another rank's side; rank 0 may not be there yet."""
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=10)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    with connection:
        own = connection.getsockname()[0]
        connection.sendall(json.dumps([rank, f"{own}:{own_port}"]).encode() + b"\n")
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        return [str(address) for address in json.loads(connection.makefile().readline())]
