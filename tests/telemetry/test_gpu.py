"""Against a stand-in for NVML: the program that answers is faked, everything of ours is real."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml
import pytest

from mspipeline.telemetry.gpu import GpuReading, open_gpus


class NvmlError(Exception):
    """As pynvml.NVMLError."""


class FakeNvml(ModuleType):
    """A driver with GPUs that answer as T4s do. Handles are indices; `broken` names functions that fail."""

    NVMLError = NvmlError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    UUIDS = ("GPU-aaaa1111", "GPU-bbbb2222", "GPU-bbbb3333", "GPU-cccc4444")

    def __init__(self, count: int = 4, broken: tuple[str, ...] = ()) -> None:
        super().__init__("fake_nvml")
        self.count, self.broken = count, set(broken)
        self.energy_mj = [1_000_000 * (1 + index) for index in range(count)]
        self.opened = 0
        answers: dict[str, Callable[..., Any]] = {
            "nvmlInit": lambda: self._count_open(1),
            "nvmlShutdown": lambda: self._count_open(-1),
            "nvmlDeviceGetCount": lambda: self.count,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetHandleByUUID": self._by_uuid,
            "nvmlDeviceGetUUID": lambda handle: self.UUIDS[handle] if isinstance(handle, int) else handle,
            "nvmlDeviceGetName": lambda handle: "Tesla T4",
            "nvmlSystemGetDriverVersion": lambda: "550.54.15",
            "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=25 * handle, memory=7),
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=1_000 + handle, total=16_000, free=15_000),
            "nvmlDeviceGetPowerUsage": lambda handle: 35_250,
            "nvmlDeviceGetTotalEnergyConsumption": lambda handle: self.energy_mj[handle],
            "nvmlDeviceGetTemperature": lambda handle, sensor: 41,
        }
        for name, answer in answers.items():
            setattr(self, name, self._unless_broken(name, answer))

    def _unless_broken(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def function(*arguments: Any) -> Any:
            if name in self.broken:
                raise NvmlError(f"{name}: Not Supported")
            return answer(*arguments)

        return function

    def _count_open(self, step: int) -> None:
        self.opened += step

    def _by_uuid(self, uuid: str) -> str:
        if uuid != "MIG-dddd5555":
            raise NvmlError("Not Found")
        return uuid


def uuids(visible: str | None, nvml: FakeNvml) -> list[str | None]:
    gpus = open_gpus(visible, nvml)
    return [] if gpus is None else [reading.device_uuid for reading in gpus.read()]


def test_a_reading_is_in_base_units() -> None:
    gpus = open_gpus("2", FakeNvml())
    assert gpus is not None
    assert gpus.read() == [
        GpuReading(
            device_uuid="GPU-bbbb3333",
            gpu_utilization_ratio=0.5,
            gpu_memory_used_bytes=1_002,
            gpu_memory_total_bytes=16_000,
            gpu_memory_bandwidth_busy_ratio=0.07,
            gpu_power_watts=35.25,
            gpu_energy_joules_total=0.0,
            gpu_temperature_celsius=41.0,
        )
    ]


def test_energy_counts_from_the_opening() -> None:
    nvml: Any = FakeNvml(count=1)
    gpus = open_gpus(None, nvml)
    assert gpus is not None
    nvml.energy_mj[0] += 12_500
    assert gpus.read()[0].gpu_energy_joules_total == 12.5


def test_energy_is_unknown_where_the_counter_ran_backwards() -> None:
    nvml: Any = FakeNvml(count=1)
    gpus = open_gpus(None, nvml)
    assert gpus is not None
    nvml.energy_mj[0] = 3
    assert gpus.read()[0].gpu_energy_joules_total is None


def test_energy_that_could_not_be_read_at_the_opening_stays_unknown() -> None:
    nvml = FakeNvml(count=1, broken=("nvmlDeviceGetTotalEnergyConsumption",))
    gpus = open_gpus(None, nvml)
    assert gpus is not None
    nvml.broken.clear()
    assert gpus.read()[0].gpu_energy_joules_total is None


@pytest.mark.parametrize(
    ("function", "fields"),
    [
        ("nvmlDeviceGetUUID", {"device_uuid"}),
        ("nvmlDeviceGetUtilizationRates", {"gpu_utilization_ratio", "gpu_memory_bandwidth_busy_ratio"}),
        ("nvmlDeviceGetMemoryInfo", {"gpu_memory_used_bytes", "gpu_memory_total_bytes"}),
        ("nvmlDeviceGetPowerUsage", {"gpu_power_watts"}),
        ("nvmlDeviceGetTotalEnergyConsumption", {"gpu_energy_joules_total"}),
        ("nvmlDeviceGetTemperature", {"gpu_temperature_celsius"}),
    ],
)
def test_what_a_device_does_not_tell_is_unknown_and_the_rest_is_read(function: str, fields: set[str]) -> None:
    gpus = open_gpus(None, FakeNvml(count=1, broken=(function,)))
    assert gpus is not None
    (reading,) = gpus.read()
    assert {name for name, value in vars(reading).items() if value is None} == fields


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("0,1,2,3", [0, 1, 2, 3]),
        ("2,0", [2, 0]),
        (" 1 , 3 ", [1, 3]),
        ("1,9,2", [1]),  # as in CUDA the list ends where an entry names no device
        ("1,-1,2", [1]),
        ("GPU-cccc4444", [3]),
        ("GPU-aaaa", [0]),
        ("GPU-bbbb", []),  # names two
        ("GPU-none", []),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_only_the_devices_visible_to_the_job_are_read(visible: str | None, expected: list[int]) -> None:
    assert uuids(visible, FakeNvml()) == [FakeNvml.UUIDS[index] for index in expected]


def test_a_mig_slice_is_opened_by_its_uuid_and_tells_what_it_can() -> None:
    broken = ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMemoryInfo")
    gpus = open_gpus("MIG-dddd5555", FakeNvml(broken=broken))
    assert gpus is not None
    (reading,) = gpus.read()
    assert reading.device_uuid == "MIG-dddd5555"
    assert reading.gpu_utilization_ratio is None
    assert reading.gpu_power_watts == 35.25


@pytest.mark.parametrize(
    "error", [NvmlError("Unknown Error"), b"\xf8\x95", AttributeError("no such function"), OSError(5)]
)
def test_a_driver_that_answers_with_anything_at_all_has_unknown_values(error: Exception | bytes) -> None:
    nvml: Any = FakeNvml(count=1)

    def fail(*_: Any) -> Any:
        if isinstance(error, bytes):
            return error.decode()  # as pynvml does with strings that are not UTF-8: driver 555 under WSL
        raise error

    for name in vars(nvml):
        if name.startswith(("nvmlDeviceGet", "nvmlSystem")) and not name.endswith(("Count", "HandleByIndex")):
            setattr(nvml, name, fail)
    gpus = open_gpus(None, nvml)
    assert gpus is not None
    assert set(vars(gpus.read()[0]).values()) == {None}
    assert (gpus.names, gpus.driver) == ([], None)
    assert open_gpus("GPU-aaaa", nvml) is None
    nvml.nvmlShutdown = fail
    gpus.close()


def test_bytes_of_an_early_pynvml_are_text() -> None:
    nvml: Any = FakeNvml(count=1)
    nvml.nvmlDeviceGetName = nvml.nvmlSystemGetDriverVersion = lambda *_: b"Tesla T4"
    nvml.nvmlDeviceGetUUID = lambda handle: b"GPU-aaaa1111"
    gpus = open_gpus("GPU-aaaa", nvml)
    assert gpus is not None
    assert (gpus.names, gpus.driver) == (["Tesla T4"], "Tesla T4")
    assert gpus.read()[0].device_uuid == "GPU-aaaa1111"


def test_values_that_nvml_fills_in_where_it_has_none_are_unknown() -> None:
    nvml: Any = FakeNvml(count=1)
    not_available = 2**64 - 1
    gpus = open_gpus(None, nvml)
    assert gpus is not None
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(used=not_available, total=not_available)
    nvml.nvmlDeviceGetUtilizationRates = lambda handle: SimpleNamespace(gpu=2**32 - 1, memory=101)
    nvml.nvmlDeviceGetPowerUsage = nvml.nvmlDeviceGetTemperature = lambda *_: 2**32 - 1
    nvml.energy_mj[0] = not_available
    reading = vars(gpus.read()[0])
    assert {name for name, value in reading.items() if value is not None} == {"device_uuid"}
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(used=5, total=0)
    assert (gpus.read()[0].gpu_memory_used_bytes, gpus.read()[0].gpu_memory_total_bytes) == (5, None)


def test_energy_stays_unknown_after_a_reset_although_the_counter_passes_its_start_again() -> None:
    nvml: Any = FakeNvml(count=1)
    gpus = open_gpus(None, nvml)
    assert gpus is not None
    nvml.energy_mj[0] = 3
    assert gpus.read()[0].gpu_energy_joules_total is None
    nvml.energy_mj[0] = 2_000_000
    assert gpus.read()[0].gpu_energy_joules_total is None


def test_a_device_that_cannot_be_opened_is_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    nvml: Any = FakeNvml(count=3)

    def by_index(index: int) -> int:
        if index == 1:
            raise NvmlError("GPU is lost")
        return index

    nvml.nvmlDeviceGetHandleByIndex = by_index
    assert uuids(None, nvml) == ["GPU-aaaa1111", "GPU-bbbb3333"]
    assert "1 of 3 GPUs are not sampled" in caplog.text


def test_a_mig_slice_that_is_not_there_ends_the_list_and_keeps_what_was_before_it() -> None:
    assert uuids("0,MIG-eeee,1", FakeNvml()) == ["GPU-aaaa1111"]


def test_a_mig_slice_that_is_not_there_gives_no_gpus() -> None:
    nvml: Any = FakeNvml()
    assert open_gpus("MIG-eeee", nvml) is None
    assert nvml.opened == 0


def test_without_a_driver_there_are_no_gpus_and_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert open_gpus(None, FakeNvml(broken=("nvmlInit",))) is None
    assert caplog.records == []


def test_a_driver_without_a_gpu_gives_none_and_is_let_go() -> None:
    nvml = FakeNvml(count=0)
    assert open_gpus(None, nvml) is None
    assert nvml.opened == 0


def test_a_driver_that_fails_after_the_start_is_let_go() -> None:
    nvml = FakeNvml(broken=("nvmlDeviceGetCount",))
    assert open_gpus(None, nvml) is None
    assert nvml.opened == 0


def test_closing_twice_lets_go_once() -> None:
    nvml: Any = FakeNvml()
    gpus = open_gpus(None, nvml)
    assert gpus is not None
    assert nvml.opened == 1
    gpus.close()
    gpus.close()
    assert nvml.opened == 0


def test_names_and_driver_are_told() -> None:
    gpus = open_gpus("0,1", FakeNvml())
    assert gpus is not None
    assert gpus.names == ["Tesla T4", "Tesla T4"]
    assert gpus.driver == "550.54.15"


def test_the_fake_has_no_function_that_nvml_lacks() -> None:
    real = importlib.import_module("pynvml")
    for name in vars(FakeNvml()):
        if name.startswith("nvml"):
            assert callable(getattr(real, name)), name
    assert issubclass(real.NVMLError, Exception)


@pytest.mark.gpu
def test_a_real_gpu_tells_its_memory_and_power() -> None:
    gpus = open_gpus()
    if gpus is None:
        pytest.skip("no NVIDIA GPU or no driver here")
    for reading in gpus.read():
        assert reading.device_uuid is not None
        assert reading.device_uuid.startswith("GPU-")
        assert (reading.gpu_memory_total_bytes or 0) > 0
        assert 0 < (reading.gpu_power_watts or 0) < 2000
    gpus.close()
