"""What the PyTorch engine's processes exchange, through torch.distributed: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from mspipeline.backends.process_group import JOIN_S, SILENCE_S, ProcessGroup


def join(group: ProcessGroup, device: str) -> None:
    """Meet the other processes, once in a process. Raises torch's own error where they do not come."""
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    host, _, port = group.address.rpartition(":")
    store = distributed.TCPStore(host, int(port), group.size, group.rank == 0, timeout=timedelta(seconds=JOIN_S))
    if device != "cpu":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "gloo" if device == "cpu" else "nccl",
        store=store,
        rank=group.rank,
        world_size=group.size,
        timeout=timedelta(seconds=SILENCE_S),
    )


@cache
def _total() -> Any:
    import torch
    from torch import distributed

    class Total(torch.autograd.Function):  # type: ignore[misc]
        """Sum over the processes; backwards, too, for each lowers its share of one loss."""

        @staticmethod
        def forward(ctx: Any, values: Any) -> Any:
            summed = values.clone(memory_format=torch.contiguous_format)
            distributed.all_reduce(summed)
            return summed

        @staticmethod
        def backward(ctx: Any, slope: Any) -> Any:
            return Total.forward(ctx, slope)

    return Total


def total(values: Any) -> Any:
    """Sum over the processes, with its gradient."""
    return _total().apply(values)


def total_in_place(tensors: Sequence[Any]) -> None:
    """Sum each over the processes, all by one exchange."""
    import torch
    from torch import distributed

    joined = torch.cat([each.reshape(-1) for each in tensors])
    distributed.all_reduce(joined)
    for own, summed in zip(tensors, joined.split([each.numel() for each in tensors]), strict=True):
        own.copy_(summed.view(own.shape))


def gather(words: npt.NDArray[np.int32], device: str, size: int) -> npt.NDArray[np.int32]:
    """(size, n) of every process's (n,)."""
    import torch
    from torch import distributed

    own = torch.from_numpy(words.copy()).to(device)
    found = [torch.empty_like(own) for _ in range(size)]
    distributed.all_gather(found, own)
    gathered: npt.NDArray[np.int32] = torch.stack(found).cpu().numpy()
    return gathered
