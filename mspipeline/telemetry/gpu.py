"""Readings of NVIDIA GPUs through NVML. Each field fails on its own: what a device does not know is None."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pynvml

log = logging.getLogger(__name__)

_UNKNOWN = {2**32 - 1, 2**64 - 1}  # NVML_VALUE_NOT_AVAILABLE is -1, which an unsigned field shows as its largest number


@dataclass(frozen=True)
class GpuReading:
    """One reading of one GPU, named as the columns of the samples.

    gpu_utilization_ratio: share of NVML's last window (1/6 to 1 s) in which a kernel ran, however small the kernel.
    gpu_memory_bandwidth_busy_ratio: share of that window in which device memory was read or written; not the
    share of its bandwidth that was used.
    gpu_memory_used_bytes: by all processes, the driver's own reserve included.
    gpu_energy_joules_total: since the GPUs were opened.
    """

    device_uuid: str | None
    gpu_utilization_ratio: float | None
    gpu_memory_used_bytes: int | None
    gpu_memory_total_bytes: int | None
    gpu_memory_bandwidth_busy_ratio: float | None
    gpu_power_watts: float | None
    gpu_energy_joules_total: float | None
    gpu_temperature_celsius: float | None


class Gpus:
    """The GPUs that a job may use, held open; `open_gpus` makes it, `close` lets NVML go."""

    def __init__(self, handles: list[Any], nvml: ModuleType) -> None:
        self._nvml = nvml
        self._handles = handles
        self._uuids = [_text(self._ask("nvmlDeviceGetUUID", handle)) for handle in handles]
        self._energy_at_open_mj = [_count(self._ask("nvmlDeviceGetTotalEnergyConsumption", each)) for each in handles]

    def __len__(self) -> int:
        return len(self._handles)

    @property
    def names(self) -> list[str]:
        """The devices' product names; those that do not tell are left out."""
        names = (_text(self._ask("nvmlDeviceGetName", handle)) for handle in self._handles)
        return [name for name in names if name]

    @property
    def driver(self) -> str | None:
        """The driver's version."""
        return _text(self._ask("nvmlSystemGetDriverVersion"))

    def read(self) -> list[GpuReading]:
        """One reading of each device."""
        return [self._read(index) for index in range(len(self._handles))]

    def close(self) -> None:
        """Let NVML go. Closing twice does nothing."""
        if self._handles:
            self._ask("nvmlShutdown")
            self._handles = []

    def _read(self, index: int) -> GpuReading:
        handle = self._handles[index]
        busy = self._ask("nvmlDeviceGetUtilizationRates", handle)
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        power_mw = _count(self._ask("nvmlDeviceGetPowerUsage", handle))
        celsius = _count(self._ask("nvmlDeviceGetTemperature", handle, getattr(self._nvml, "NVML_TEMPERATURE_GPU", 0)))
        return GpuReading(
            device_uuid=self._uuids[index],
            gpu_utilization_ratio=_share(getattr(busy, "gpu", None)),
            gpu_memory_used_bytes=_count(getattr(memory, "used", None)),
            gpu_memory_total_bytes=_count(getattr(memory, "total", None)) or None,
            gpu_memory_bandwidth_busy_ratio=_share(getattr(busy, "memory", None)),
            gpu_power_watts=None if power_mw is None else power_mw / 1000,
            gpu_energy_joules_total=self._energy_j(index),
            gpu_temperature_celsius=None if celsius is None else float(celsius),
        )

    def _energy_j(self, index: int) -> float | None:
        """Joules since the opening; None where there is no counter, and for good once it ran backwards (a reset)."""
        start_mj = self._energy_at_open_mj[index]
        now_mj = _count(self._ask("nvmlDeviceGetTotalEnergyConsumption", self._handles[index]))
        if start_mj is None or now_mj is None:
            return None
        if now_mj < start_mj:
            self._energy_at_open_mj[index] = None
            return None
        return float(now_mj - start_mj) / 1000

    def _ask(self, function: str, *arguments: Any) -> Any:
        return _answer(self._nvml, function, *arguments)


def open_gpus(visible: str | None = None, nvml: ModuleType = pynvml) -> Gpus | None:
    """The GPUs that a job may use; None where it may use none, or where there is no GPU or no driver.

    visible: the job's CUDA_VISIBLE_DEVICES, None where it is not set. As in CUDA, the list holds indices, UUIDs or
    their beginnings, and ends at the first entry that names no device. Indices count in PCI order, which is CUDA's own
    order on nodes whose GPUs are alike, or with CUDA_DEVICE_ORDER=PCI_BUS_ID. A device that NVML cannot open is left
    out, as CUDA does not count a lost device either.
    """
    try:
        nvml.nvmlInit()
    except Exception as error:
        log.debug("no GPU is sampled: %s", error)
        return None
    count = _answer(nvml, "nvmlDeviceGetCount")
    if count is None:
        log.warning("GPUs are not sampled: NVML does not tell how many there are")
    handles = [_answer(nvml, "nvmlDeviceGetHandleByIndex", index) for index in range(count or 0)]
    opened = [handle for handle in handles if handle is not None]
    if len(opened) < len(handles):
        log.warning("%d of %d GPUs are not sampled: NVML cannot open them", len(handles) - len(opened), len(handles))
    chosen = opened if visible is None else _choose(visible, opened, nvml)
    if not chosen:
        _answer(nvml, "nvmlShutdown")
        return None
    return Gpus(chosen, nvml)


def _choose(visible: str, handles: list[Any], nvml: ModuleType) -> list[Any]:
    chosen: list[Any] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdecimal():
            found = handles[int(entry) : int(entry) + 1]
        elif entry.startswith("MIG-"):
            found = [handle for handle in [_answer(nvml, "nvmlDeviceGetHandleByUUID", entry)] if handle is not None]
        elif entry.startswith("GPU-"):
            uuids = [_text(_answer(nvml, "nvmlDeviceGetUUID", handle)) or "" for handle in handles]
            found = [handle for handle, uuid in zip(handles, uuids, strict=True) if uuid.startswith(entry)]
        else:
            found = []
        if len(found) != 1:
            break
        chosen.extend(found)
    return chosen


def _answer(nvml: ModuleType, function: str, *arguments: Any) -> Any:
    """What NVML answers, None where the device or the driver has no answer.

    Anything may come back, and none of it ends a job: NVMLError, a string that is not UTF-8 (driver 555 under WSL), a
    function that this version of pynvml or of the driver does not have.
    """
    try:
        return getattr(nvml, function)(*arguments)
    except Exception as error:
        log.debug("no answer from %s: %s", function, error)
        return None


def _count(value: Any) -> int | None:
    """A whole number from 0 on that an int64 holds; None for what NVML fills in where it has none."""
    return value if isinstance(value, int) and value not in _UNKNOWN and 0 <= value < 2**63 else None


def _share(percent: Any) -> float | None:
    """0 to 100 as a ratio; None for what is no share."""
    return percent / 100 if isinstance(percent, int) and 0 <= percent <= 100 else None


def _text(value: Any) -> str | None:
    """A string; pynvml's early versions gave bytes."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value if isinstance(value, str) else None
