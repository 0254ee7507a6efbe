"""Readings of NVIDIA GPUs through NVML. Each field fails on its own: what a device does not tell is None."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pynvml

log = logging.getLogger(__name__)


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
        self._uuids = [self._ask(nvml.nvmlDeviceGetUUID, handle) for handle in handles]
        self._energy_at_open_mj = [self._ask(nvml.nvmlDeviceGetTotalEnergyConsumption, handle) for handle in handles]

    def __len__(self) -> int:
        return len(self._handles)

    @property
    def names(self) -> list[str]:
        """The devices' product names; those that do not tell are left out."""
        return [name for name in (self._ask(self._nvml.nvmlDeviceGetName, handle) for handle in self._handles) if name]

    @property
    def driver(self) -> str | None:
        """The driver's version."""
        version: str | None = self._ask(self._nvml.nvmlSystemGetDriverVersion)
        return version

    def read(self) -> list[GpuReading]:
        """One reading of each device."""
        return [self._read(index) for index in range(len(self._handles))]

    def close(self) -> None:
        """Let NVML go. Closing twice does nothing."""
        if self._handles:
            self._ask(self._nvml.nvmlShutdown)
            self._handles = []

    def _read(self, index: int) -> GpuReading:
        nvml, handle = self._nvml, self._handles[index]
        busy = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        power_mw = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        celsius = self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        return GpuReading(
            device_uuid=self._uuids[index],
            gpu_utilization_ratio=None if busy is None else busy.gpu / 100,
            gpu_memory_used_bytes=None if memory is None else memory.used,
            gpu_memory_total_bytes=None if memory is None else memory.total,
            gpu_memory_bandwidth_busy_ratio=None if busy is None else busy.memory / 100,
            gpu_power_watts=None if power_mw is None else power_mw / 1000,
            gpu_energy_joules_total=self._energy_j(index),
            gpu_temperature_celsius=None if celsius is None else float(celsius),
        )

    def _energy_j(self, index: int) -> float | None:
        """Joules since the opening; None where there is no counter, or where it ran backwards (driver loaded anew)."""
        start_mj = self._energy_at_open_mj[index]
        now_mj = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._handles[index])
        if start_mj is None or now_mj is None or now_mj < start_mj:
            return None
        return float(now_mj - start_mj) / 1000

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """NVML's answer, None where the device or the driver has none."""
        try:
            return question(*arguments)
        except self._nvml.NVMLError as error:
            log.debug("no reading from NVML: %s", error)
            return None


def open_gpus(visible: str | None = None, nvml: ModuleType = pynvml) -> Gpus | None:
    """The GPUs that a job may use; None where it may use none, or where there is no GPU or no driver.

    visible: the job's CUDA_VISIBLE_DEVICES, None where it is not set. As in CUDA, the list holds indices, UUIDs or
    their beginnings, and ends at the first entry that names no device. Indices count in PCI order, which is CUDA's own
    order on nodes whose GPUs are alike, or with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        log.debug("no GPU is sampled: %s", error)
        return None
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        chosen = handles if visible is None else _choose(visible, handles, nvml)
    except nvml.NVMLError as error:
        log.warning("GPUs are not sampled: NVML answers %s", error)
        chosen = []
    if not chosen:
        nvml.nvmlShutdown()
        return None
    return Gpus(chosen, nvml)


def _choose(visible: str, handles: list[Any], nvml: ModuleType) -> list[Any]:
    chosen: list[Any] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdecimal():
            found = handles[int(entry) : int(entry) + 1]
        elif entry.startswith("MIG-"):
            found = [nvml.nvmlDeviceGetHandleByUUID(entry)]
        elif entry.startswith("GPU-"):
            found = [handle for handle in handles if nvml.nvmlDeviceGetUUID(handle).startswith(entry)]
        else:
            found = []
        if len(found) != 1:
            break
        chosen.extend(found)
    return chosen
