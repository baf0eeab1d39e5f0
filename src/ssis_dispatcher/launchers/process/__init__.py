"""Servers as child processes of this machine: on shares of its memory, or on its NVIDIA devices.

Called by the assembly, which makes a `ProcessLauncher`, and by nobody else but through `launchers.base.Launcher`.
"""

from __future__ import annotations

from ssis_dispatcher.launchers.process.devices import Nvml
from ssis_dispatcher.launchers.process.inventory import cpu_pools
from ssis_dispatcher.launchers.process.launcher import ProcessLauncher
from ssis_dispatcher.launchers.process.menu import Share
from ssis_dispatcher.launchers.process.options import ModelSource, ProcessOptions, ResolveModel

__all__ = [
    "ModelSource",
    "Nvml",
    "ProcessLauncher",
    "ProcessOptions",
    "ResolveModel",
    "Share",
    "cpu_pools",
]
