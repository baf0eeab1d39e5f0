"""GPUs are shown as NVML shows them, and what keeps them from being used is said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssis_dispatcher.assembly.doctor import gpus
from ssis_dispatcher.settings import Settings

NewSettings = Callable[..., Settings]


class Nvml:
    """NVML of a machine with these GPUs: the number of MIG devices of each, None for a whole one."""

    NVML_DEVICE_MIG_ENABLE = 1

    class NVMLError(Exception):
        pass

    def __init__(self, *cards: int | None, broken: str = "") -> None:
        self.cards = cards
        self.broken = broken
        self.open = 0

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError(self.broken)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.1"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: object) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: object) -> str:
        return "NVIDIA H200 MIG 1g.18gb"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=141 * 2**30)

    def nvmlDeviceGetAttributes(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(memorySizeMB=16384, gpuInstanceSliceCount=1)

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:
        return (0, 0) if self.cards[handle] is None else (1, 1)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, index: int) -> str:
        if index >= (self.cards[handle] or 0):
            raise self.NVMLError("Not Found")
        return f"{handle}-{index}"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Any, bool], None]:
    """Puts this NVML (None: not installed) and this driver's trace in the kernel in place."""

    def be(nvml: Any, driver: bool) -> None:
        trace = tmp_path / "version"
        trace.touch()
        monkeypatch.setattr(gpus, "DRIVER", trace if driver else tmp_path / "none")
        monkeypatch.setitem(sys.modules, "pynvml", nvml)

    return be


@pytest.mark.parametrize("nvml", [None, Nvml(broken="NVML Shared Library Not Found")], ids=["no module", "no library"])
def test_without_a_driver_there_is_nothing_to_mend(
    settings: NewSettings, machine: Callable[[Any, bool], None], nvml: Any
) -> None:
    machine(nvml, False)
    check = gpus.gpus(settings())

    assert (check.ok, check.fix) == (None, "")
    assert "shares of this machine's memory" in check.detail


def test_a_driver_without_its_python_package_names_the_extra(
    settings: NewSettings, machine: Callable[[Any, bool], None]
) -> None:
    machine(None, True)
    check = gpus.gpus(settings())

    assert check.ok is None
    assert check.fix.endswith("pip install 'ssis-dispatcher[gpu]'")


def test_a_driver_that_does_not_work_is_broken(settings: NewSettings, machine: Callable[[Any, bool], None]) -> None:
    machine(Nvml(broken="Driver/library version mismatch"), True)
    check = gpus.gpus(settings())

    assert check.ok is False
    assert check.detail.endswith("NVML fails: Driver/library version mismatch")


def test_whole_gpus_and_mig_devices_are_counted(settings: NewSettings, machine: Callable[[Any, bool], None]) -> None:
    nvml = Nvml(7, None, None)
    machine(nvml, True)
    check = gpus.gpus(settings())

    assert check.ok is True
    assert check.detail == "driver 570.1: 7 x nvidia.com/mig-1g.18gb, 2 x nvidia.com/gpu"
    assert nvml.open == 0


def test_a_gpu_with_mig_on_and_no_device_is_of_no_use_yet(
    settings: NewSettings, machine: Callable[[Any, bool], None]
) -> None:
    machine(Nvml(0), True)
    check = gpus.gpus(settings())

    assert check.ok is None
    assert check.fix.startswith("nvidia-smi mig -cgi")


def test_a_driver_that_sees_no_gpu_says_so(settings: NewSettings, machine: Callable[[Any, bool], None]) -> None:
    machine(Nvml(), True)

    assert "no GPU is visible" in gpus.gpus(settings()).detail
