"""NVIDIA GPUs: the devices that can be used, or why none can."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssis_dispatcher.assembly.doctor.check import Check

if TYPE_CHECKING:
    from ssis_dispatcher.settings import Settings

DRIVER = Path("/proc/driver/nvidia/version")
"""There when the kernel's part of the driver is loaded."""

_NONE = "no NVIDIA driver is loaded: slices are shares of this machine's memory and cores"
_CUT = "nvidia-smi mig -cgi 19,19,19,19,19,19,19 -C   (seven of the smallest; `nvidia-smi mig -lgip` lists the kinds)"


def gpus(settings: Settings) -> Check:
    """What could be used, or why nothing can."""
    try:
        import pynvml
    except ImportError:
        if not DRIVER.exists():
            return Check("gpus", None, _NONE)
        install = f"{sys.executable} -m pip install 'ssis-dispatcher[gpu]'"
        return Check("gpus", None, "an NVIDIA driver is loaded, but nvidia-ml-py is not installed", install)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if not DRIVER.exists():
            return Check("gpus", None, _NONE)
        return Check("gpus", False, f"an NVIDIA driver is loaded, but NVML fails: {error}", "nvidia-smi, then reboot")
    try:
        return _seen(pynvml)
    finally:
        pynvml.nvmlShutdown()


def _seen(nvml: Any) -> Check:
    """The devices that the process platform would offer, with the same eyes."""
    from ssis_dispatcher.launchers.process.devices import Nvml

    driver = f"driver {nvml.nvmlSystemGetDriverVersion()}"
    cards = nvml.nvmlDeviceGetCount()
    if not cards:
        return Check("gpus", None, f"{driver}, but no GPU is visible here", "nvidia-smi -L")
    kinds = Counter(device.slice.name for device in Nvml(nvml).devices())
    if not kinds:
        detail = f"{driver}, {cards} GPU(s), and no device to use: MIG is on, and nothing is cut"
        return Check("gpus", None, detail, _CUT)
    return Check("gpus", True, f"{driver}: " + ", ".join(f"{count} x {name}" for name, count in kinds.items()))
