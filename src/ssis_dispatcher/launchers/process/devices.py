"""NVIDIA devices of this machine: MIG devices and whole GPUs, as NVML shows them, and who has which.

NVML's calls block, now and then for long: callers run `Nvml.devices` in a thread. Called by `inventory` and `launcher`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from ssis_dispatcher.core.slices import Pool, Slice, SliceKind

MIB = 1 << 20

_PROFILE = re.compile(r"\bMIG (?P<profile>(?:\d+c\.)?\d+g\.\d+gb\S*)")


class Device(msgspec.Struct, frozen=True):
    """One thing that a server can be given: ``uuid`` goes into ``CUDA_VISIBLE_DEVICES``."""

    uuid: str
    slice: Slice


class Nvml:
    """``library`` is the module ``pynvml``, or something that behaves like it."""

    def __init__(self, library: Any) -> None:
        self._nvml = library

    @staticmethod
    def find() -> Nvml | None:
        """None where nvidia-ml-py is not installed."""
        try:
            import pynvml
        except ImportError:
            return None
        return Nvml(pynvml)

    def devices(self) -> tuple[Device, ...]:
        """All of them; none where there is no driver. A GPU that fails is left out, the others stay."""
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return ()
        found: list[Device] = []
        with contextlib.suppress(nvml.NVMLError):
            for index in range(nvml.nvmlDeviceGetCount()):
                with contextlib.suppress(nvml.NVMLError):
                    found += self._of_gpu(nvml.nvmlDeviceGetHandleByIndex(index))
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()
        return tuple(found)

    def _of_gpu(self, gpu: Any) -> list[Device]:
        if not self._is_cut(gpu):
            memory = self._nvml.nvmlDeviceGetMemoryInfo(gpu).total // MIB
            return [Device(self._uuid(gpu), Slice(memory, 1.0, "nvidia.com/gpu", SliceKind.GPU, source="device"))]
        parts = []
        for index in range(self._nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
            try:
                part = self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)
            except self._nvml.NVMLError:  # indices have gaps
                continue
            parts.append(self._mig(gpu, part))
        return parts

    def _is_cut(self, gpu: Any) -> bool:
        try:
            current, _ = self._nvml.nvmlDeviceGetMigMode(gpu)
        except self._nvml.NVMLError:  # a card without MIG
            return False
        return bool(current == self._nvml.NVML_DEVICE_MIG_ENABLE)

    def _mig(self, gpu: Any, part: Any) -> Device:
        """Named as a node's device plugin does: ``1g.5gb+me`` becomes ``nvidia.com/mig-1g.5gb.me``. Its compute is its part
        of the card's compute slices, of which there are as many as the card has MIG devices at most."""
        attributes = self._nvml.nvmlDeviceGetAttributes(part)
        memory, slices = int(attributes.memorySizeMB), int(attributes.gpuInstanceSliceCount)
        match = _PROFILE.search(_text(self._nvml.nvmlDeviceGetName(part)))
        profile = match["profile"].replace("+", ".") if match else f"{slices}g.{-(-memory // 1024)}gb"
        compute = min(1.0, slices / self._nvml.nvmlDeviceGetMaxMigDeviceCount(gpu))
        slice = Slice(memory, compute, f"nvidia.com/mig-{profile}", SliceKind.MIG, source="device")
        return Device(self._uuid(part), slice)

    def _uuid(self, device: Any) -> str:
        return _text(self._nvml.nvmlDeviceGetUUID(device))


class Shelf:
    """Which devices there are, and which server has which. The fleet decides how many; this only says which ones."""

    def __init__(self) -> None:
        self._there: tuple[Device, ...] = ()
        self._taken: dict[str, str] = {}

    def put(self, devices: Iterable[Device]) -> None:
        """These are there now, in place of those before."""
        self._there = tuple(devices)

    def take(self, server: str, slice: Slice, count: int) -> tuple[str, ...] | None:
        """UUIDs of ``count`` free devices of this kind for ``server``; None where so many are not there. An inventory that
        the operator wrote may give them another size than NVML does: then the name decides."""
        same = [device.uuid for device in self._there if device.slice == slice]
        same = same or [device.uuid for device in self._there if device.slice.name == slice.name]
        free = [uuid for uuid in same if uuid not in self._taken]
        if len(free) < count:
            return None
        self._taken.update(dict.fromkeys(free[:count], server))
        return tuple(free[:count])

    def give_back(self, server: str) -> None:
        """All that ``server`` has."""
        self._taken = {uuid: owner for uuid, owner in self._taken.items() if owner != server}

    def pools(self, node: str) -> tuple[Pool, ...]:
        """What is there, as slices of ``node``."""
        counts: dict[Slice, int] = {}
        for device in self._there:
            counts[device.slice] = counts.get(device.slice, 0) + 1
        return tuple(Pool(node, slice, count) for slice, count in counts.items())

    @property
    def empty(self) -> bool:
        """Whether this machine has no device at all."""
        return not self._there


def _text(value: str | bytes) -> str:
    """Older versions of the library return bytes."""
    return value.decode() if isinstance(value, bytes) else value
