"""NVIDIA GPUs as NVML shows them: whole ones, and the MIG devices of those that are cut."""

from __future__ import annotations

import sys
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
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    driver = f"driver {nvml.nvmlSystemGetDriverVersion()}"
    if not handles:
        return Check("gpus", None, f"{driver}, but no GPU is visible here", "nvidia-smi -L")
    cuts = [_mig_devices(nvml, handle) for handle in handles]
    words = ", ".join(
        f"{nvml.nvmlDeviceGetName(handle)} ({'whole' if cut is None else f'{cut} MIG devices'})"
        for handle, cut in zip(handles, cuts, strict=True)
    )
    if 0 in cuts:
        return Check("gpus", None, f"{driver}: {words}. One has MIG on, and no MIG device to use", _CUT)
    return Check("gpus", True, f"{driver}: {words}")


def _mig_devices(nvml: Any, handle: Any) -> int | None:
    """How many MIG devices a GPU is cut into; None where MIG is off or unknown to it."""
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError_NotSupported:
        return None
    if current != nvml.NVML_DEVICE_MIG_ENABLE:
        return None
    found = 0
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError_NotFound:
            continue
        found += 1
    return found
