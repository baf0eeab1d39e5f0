"""NVIDIA devices as NVML shows them, and who has which."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from ssis_dispatcher.core.slices import Pool, Slice, SliceKind
from ssis_dispatcher.launchers.process.devices import Device, Nvml, Shelf

MIB = 1 << 20


@dataclass
class Part:
    """A MIG device."""

    uuid: str
    name: str
    memory: int
    slices: int


@dataclass
class Gpu:
    """A card; ``parts`` None where MIG is off, ``mig`` False where it has none."""

    uuid: str
    memory: int
    mig: bool = True
    parts: list[Part | None] | None = None
    broken: bool = False


@dataclass
class FakeNvml:
    """The part of ``pynvml`` that is used, over cards that are data."""

    gpus: list[Gpu] = field(default_factory=list)
    driver: bool = True
    open: int = 0

    class NVMLError(Exception):
        pass

    NVML_DEVICE_MIG_ENABLE = 1

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        if self.gpus[index].broken:
            raise self.NVMLError("GPU is lost")
        return self.gpus[index]

    def nvmlDeviceGetMigMode(self, gpu: Gpu) -> list[int]:
        if not gpu.mig:
            raise self.NVMLError("Not Supported")
        return [int(gpu.parts is not None), 0]

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> Any:
        return SimpleNamespace(total=gpu.memory * MIB + 1)

    def nvmlDeviceGetUUID(self, device: Gpu | Part) -> str:
        return device.uuid

    def nvmlDeviceGetName(self, part: Part) -> bytes:
        return part.name.encode()

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: Gpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: Gpu, index: int) -> Part:
        parts = gpu.parts or []
        if index >= len(parts) or (part := parts[index]) is None:
            raise self.NVMLError("Not Found")
        return part

    def nvmlDeviceGetAttributes(self, part: Part) -> Any:
        return SimpleNamespace(memorySizeMB=part.memory, gpuInstanceSliceCount=part.slices)


CUT = Gpu(
    "GPU-cut",
    40960,
    parts=[
        Part("MIG-a", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4864, 1),
        None,
        Part("MIG-b", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4864, 1),
        Part("MIG-c", "NVIDIA A100-SXM4-40GB MIG 1g.5gb+me", 4864, 1),
        Part("MIG-d", "NVIDIA A100-SXM4-40GB", 19968, 3),
    ],
)
WHOLE = Gpu("GPU-whole", 24576, mig=False)

SMALL = Slice(4864, 1 / 7, "nvidia.com/mig-1g.5gb", SliceKind.MIG, source="device")
LARGE = Slice(24576, 1.0, "nvidia.com/gpu", SliceKind.GPU, source="device")


def test_a_whole_gpu_is_one_device_with_the_memory_that_nvml_tells() -> None:
    assert Nvml(FakeNvml([WHOLE])).devices() == (Device("GPU-whole", LARGE),)


def test_a_gpu_that_is_cut_is_its_parts_and_no_whole() -> None:
    devices = Nvml(FakeNvml([CUT])).devices()
    assert [device.uuid for device in devices] == ["MIG-a", "MIG-b", "MIG-c", "MIG-d"]
    assert devices[0].slice == devices[1].slice == SMALL


def test_parts_are_named_as_a_nodes_device_plugin_does() -> None:
    names = [device.slice.name for device in Nvml(FakeNvml([CUT])).devices()]
    assert names[2:] == ["nvidia.com/mig-1g.5gb.me", "nvidia.com/mig-3g.20gb"]


def test_a_gpu_that_is_cut_into_nothing_offers_nothing() -> None:
    assert Nvml(FakeNvml([Gpu("GPU-empty", 40960, parts=[])])).devices() == ()


def test_a_gpu_that_fails_does_not_hide_the_others() -> None:
    library = FakeNvml([Gpu("GPU-lost", 1, broken=True), WHOLE])
    assert [device.uuid for device in Nvml(library).devices()] == ["GPU-whole"]


def test_without_a_driver_there_is_nothing() -> None:
    assert Nvml(FakeNvml([WHOLE], driver=False)).devices() == ()


def test_the_library_is_let_go_each_time() -> None:
    library = FakeNvml([WHOLE, CUT])
    Nvml(library).devices()
    assert library.open == 0


def test_the_fake_has_the_names_of_the_real_library() -> None:
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    used = [name for name in dir(FakeNvml) if name.lower().startswith("nvml")]
    assert [name for name in used if not hasattr(pynvml, name)] == []


@pytest.mark.gpu
def test_the_devices_of_this_machine() -> None:
    nvml = Nvml.find()
    devices = nvml.devices() if nvml is not None else ()
    if not devices:
        pytest.skip("there is no NVIDIA GPU here, or nvidia-ml-py is not installed")
    assert all(device.uuid.startswith(("GPU-", "MIG-")) for device in devices)
    assert all(device.slice.memory_mib > 1000 for device in devices)
    assert all(0 < device.slice.compute <= 1 for device in devices)


@pytest.fixture
def shelf() -> Shelf:
    made = Shelf()
    made.put(Nvml(FakeNvml([CUT, WHOLE])).devices())
    return made


def test_devices_of_one_kind_are_one_pool(shelf: Shelf) -> None:
    totals = {pool.slice.name: (pool.node, pool.total) for pool in shelf.pools("here")}
    assert totals["nvidia.com/mig-1g.5gb"] == ("here", 2)
    assert totals["nvidia.com/gpu"] == ("here", 1)


def test_no_device_is_given_out_twice(shelf: Shelf) -> None:
    assert shelf.take("one", SMALL, 1) == ("MIG-a",)
    assert shelf.take("two", SMALL, 1) == ("MIG-b",)
    assert shelf.take("three", SMALL, 1) is None


def test_what_is_given_back_can_be_taken(shelf: Shelf) -> None:
    assert shelf.take("one", SMALL, 2) == ("MIG-a", "MIG-b")
    shelf.give_back("one")
    shelf.give_back("nobody")
    assert shelf.take("two", SMALL, 2) == ("MIG-a", "MIG-b")


def test_too_many_at_once_take_none(shelf: Shelf) -> None:
    assert shelf.take("one", SMALL, 3) is None
    assert shelf.take("two", SMALL, 2) is not None


def test_the_name_decides_where_the_operator_says_another_size(shelf: Shelf) -> None:
    written = Slice(80000, 1.0, "nvidia.com/gpu", SliceKind.GPU, source="setting")
    assert shelf.take("one", written, 1) == ("GPU-whole",)


def test_a_device_that_came_back_still_belongs_to_who_has_it(shelf: Shelf) -> None:
    assert shelf.take("one", LARGE, 1) == ("GPU-whole",)
    there = Nvml(FakeNvml([CUT, WHOLE])).devices()
    shelf.put(())
    assert shelf.empty
    assert shelf.pools("here") == ()
    shelf.put(there)
    assert shelf.take("two", LARGE, 1) is None
    assert Pool("here", LARGE, 1) in shelf.pools("here")
