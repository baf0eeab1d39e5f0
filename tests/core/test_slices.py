from __future__ import annotations

import pytest

from ssis_dispatcher.core.slices import (
    Pool,
    Slice,
    SliceKind,
    cpu_slice,
    parse_resource,
    preference,
    smallest_by_name,
)

A100_40 = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}
A100_80 = {"nvidia.com/gpu.product": "NVIDIA-A100-80GB-PCIe"}
H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
H200 = {"nvidia.com/gpu.product": "NVIDIA-H200"}
A30 = {"nvidia.com/gpu.product": "NVIDIA-A30"}
RTX = {"nvidia.com/gpu.product": "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition"}

PROFILES = {
    1: (5, 6, 10, 12, 18, 23, 24, 34, 35, 36, 45, 47, 67, 70),
    2: (10, 12, 20, 24, 35, 36, 45, 47, 48, 67, 70),
    3: (20, 40, 47, 48, 71, 72, 90, 93, 95, 135, 139),
    4: (20, 24, 40, 47, 71, 90, 96, 135, 139),
    7: (40, 80, 94, 96, 141, 144, 180, 186, 189, 269, 278),
}
"""Every MIG profile there is: compute slices → GB in the name."""


def parsed(name: str, labels: dict[str, str] | None = None) -> Slice:
    slice = parse_resource(name, labels or {})
    assert slice is not None
    return slice


@pytest.mark.parametrize(
    ("labels", "profile", "memory", "compute"),
    [
        (A30, "1g.6gb", 5836, 1 / 4),
        (A30, "2g.12gb", 11672, 2 / 4),
        (A30, "4g.24gb", 23344, 1.0),
        (A100_40, "1g.5gb", 4864, 1 / 7),
        (A100_40, "1g.10gb", 9856, 1 / 7),
        (A100_40, "2g.10gb", 9856, 2 / 7),
        (A100_40, "3g.20gb", 19968, 3 / 7),
        (A100_40, "4g.20gb", 19968, 4 / 7),
        (A100_40, "7g.40gb", 40192, 1.0),
        (A100_80, "1g.10gb", 9856, 1 / 7),
        (A100_80, "1g.20gb", 19968, 1 / 7),
        (A100_80, "2g.20gb", 19968, 2 / 7),
        (A100_80, "3g.40gb", 40192, 3 / 7),
        (A100_80, "4g.40gb", 40192, 4 / 7),
        (A100_80, "7g.80gb", 80384, 1.0),
        (H100, "3g.40gb", 40192, 3 / 7),
    ],
)
def test_measured_profiles_have_their_real_size(
    labels: dict[str, str], profile: str, memory: int, compute: float
) -> None:
    slice = parsed(f"nvidia.com/mig-{profile}", labels)
    assert slice == Slice(memory, compute, f"nvidia.com/mig-{profile}", SliceKind.MIG, source="table")


@pytest.mark.parametrize("profile", [f"{g}g.{gb}gb" for g, sizes in PROFILES.items() for gb in sizes])
def test_every_profile_of_every_card_is_known_by_its_name_alone(profile: str) -> None:
    slice = parsed(f"nvidia.com/mig-{profile}")
    compute, memory = profile.removesuffix("gb").split("g.")
    assert slice.kind is SliceKind.MIG
    assert int(memory) * 1024 * 7 // 8 <= slice.memory_mib < int(memory) * 1024  # names are rounded up
    assert slice.compute in (int(compute) / 7, int(compute) / 4)


def test_the_nodes_label_beats_the_table_and_the_name() -> None:
    labels = H200 | {"nvidia.com/mig-1g.18gb.memory": "16384", "nvidia.com/mig-1g.18gb.replicas": "1"}
    assert parsed("nvidia.com/mig-1g.18gb", labels).memory_mib == 16384
    assert parsed("nvidia.com/mig-1g.18gb", labels).source == "label"
    assert parsed("nvidia.com/mig-3g.40gb", {"nvidia.com/mig-3g.40gb.memory": "40448 MiB"}).memory_mib == 40448


def test_a_size_that_only_the_name_tells_is_rounded_down_to_what_was_seen() -> None:
    slice = parsed("nvidia.com/mig-1g.18gb", H200)
    assert (slice.memory_mib, slice.source) == (16128, "name")
    assert slice.memory_mib <= 16384  # what an H200 really gives


def test_one_name_means_different_hardware_on_different_cards() -> None:
    assert parsed("nvidia.com/mig-1g.24gb", RTX).compute == 1 / 4
    assert parsed("nvidia.com/mig-1g.24gb", {"nvidia.com/gpu.product": "NVIDIA-H100-NVL"}).compute == 1 / 7
    assert parsed("nvidia.com/mig-1g.10gb", H200).source == "name"  # no such profile was measured on this card


@pytest.mark.parametrize("suffix", [".me", ".me.all", ".gfx", "-me"])
def test_attributes_in_the_name_change_neither_size_nor_name(suffix: str) -> None:
    name = f"nvidia.com/mig-1g.24gb{suffix}"
    labels = RTX | {f"{name}.memory": "23700"}
    assert parsed(name, labels) == Slice(23700, 0.25, name, SliceKind.MIG, source="label")


def test_a_single_strategy_slice_calls_itself_a_gpu_but_is_a_slice() -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "nvidia.com/gpu.memory": "4864"}
    assert parsed("nvidia.com/gpu", labels) == Slice(4864, 1 / 7, "nvidia.com/gpu", SliceKind.MIG, source="label")
    assert parsed("nvidia.com/gpu", {"nvidia.com/gpu.product": labels["nvidia.com/gpu.product"]}).memory_mib == 4864


def test_an_invalid_mig_configuration_has_no_slices() -> None:
    assert parse_resource("nvidia.com/gpu", {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-INVALID"}) is None


def test_a_whole_gpu_has_the_memory_of_its_label() -> None:
    slice = parsed("nvidia.com/gpu", H100 | {"nvidia.com/gpu.memory": "81559", "nvidia.com/gpu.replicas": "1"})
    assert slice == Slice(81559, 1.0, "nvidia.com/gpu", SliceKind.GPU, source="label")


@pytest.mark.parametrize(
    ("product", "memory", "source"),
    [
        ("NVIDIA-A100-SXM4-80GB", 80384, "table"),
        ("NVIDIA-A30", 23344, "table"),
        ("Tesla-V100-SXM2-32GB", 28672, "name"),
        ("NVIDIA-GH200-480GB", 0, "unknown"),
        ("NVIDIA-L40S", 0, "unknown"),
        ("", 0, "unknown"),
    ],
)
def test_a_whole_gpu_without_a_memory_label_is_not_overrated(product: str, memory: int, source: str) -> None:
    slice = parsed("nvidia.com/gpu", {"nvidia.com/gpu.product": product})
    assert (slice.memory_mib, slice.source) == (memory, source)


@pytest.mark.parametrize(("gigabytes", "share"), [(1, 1 / 32), (2, 2 / 32), (13, 13 / 32), (32, 1.0), (48, 1.0)])
def test_mps_shares_of_any_size_are_known(gigabytes: int, share: float) -> None:
    name = f"nvidia.com/gpu-{gigabytes}gb"
    assert parsed(name) == Slice(gigabytes * 1024, share, name, SliceKind.MPS, source="name")


def test_an_mps_share_is_a_share_of_the_card_that_the_node_has() -> None:
    labels = A100_40 | {"nvidia.com/gpu.memory": "40960"}
    assert parsed("nvidia.com/gpu-4gb", labels).compute == 0.1
    assert parsed("nvidia.com/gpu-64gb", labels).memory_mib == 40960


@pytest.mark.parametrize("name", ["nvidia.com/gpu", "nvidia.com/gpu.shared"])
def test_the_device_plugins_own_mps_splits_a_gpu_evenly(name: str) -> None:
    labels = {
        "nvidia.com/gpu.memory": "40960",
        "nvidia.com/gpu.replicas": "4",
        "nvidia.com/gpu.sharing-strategy": "mps",
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-SHARED",
    }
    assert parsed(name, labels) == Slice(10240, 0.25, name, SliceKind.MPS, source="label")


@pytest.mark.parametrize("name", ["nvidia.com/gpu", "nvidia.com/gpu.shared"])
def test_a_time_sliced_gpu_counts_with_its_fair_part(name: str) -> None:
    labels = {
        "nvidia.com/gpu.memory": "16384",
        "nvidia.com/gpu.replicas": "4",
        "nvidia.com/gpu.sharing-strategy": "time-slicing",
    }
    assert parsed(name, labels) == Slice(4096, 0.25, name, SliceKind.GPU, shared=True, source="label")


def test_a_time_sliced_mig_slice_counts_with_its_fair_part() -> None:
    labels = A100_40 | {"nvidia.com/mig-3g.20gb.replicas": "2", "nvidia.com/mig-3g.20gb.memory": "19968"}
    slice = parsed("nvidia.com/mig-3g.20gb.shared", labels)
    assert (slice.memory_mib, slice.compute, slice.shared, slice.kind) == (9984, 3 / 14, True, SliceKind.MIG)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("nvidia.com/gpu.shared", {"nvidia.com/gpu.memory": "16384"}),
        ("nvidia.com/gpu", {"nvidia.com/gpu.memory": "16384", "nvidia.com/gpu.product": "Tesla-T4-SHARED"}),
        ("nvidia.com/gpu", {"nvidia.com/gpu.memory": "16384", "nvidia.com/gpu.sharing-strategy": "mps"}),
        ("nvidia.com/mig-1g.5gb.shared", A100_40),
    ],
)
def test_sharing_among_an_unknown_number_promises_no_memory(name: str, labels: dict[str, str]) -> None:
    slice = parsed(name, labels)
    assert (slice.memory_mib, slice.source) == (0, "unknown")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "cpu",
        "memory",
        "amd.com/gpu",
        "nvidia.com/mig-",
        "nvidia.com/mig-1g.5gb.foo",
        "nvidia.com/mig-1c.2g.10gb",
        "nvidia.com/mig-0g.5gb",
        "nvidia.com/mig-1g.0gb",
        "nvidia.com/gpu-0gb",
        "nvidia.com/gpu-4Gb",
        "nvidia.com/gpu-99999999gb",
        "xnvidia.com/gpu",
        "nvidia.com/gpu\n",
        "cpu-0gib",
        "cpu-2gb",
        "requests.nvidia.com/gpu",
    ],
)
def test_what_is_no_slice_is_none(name: str) -> None:
    assert parse_resource(name) is None


@pytest.mark.parametrize("label", ["", "unknown", "-5", "0", "NaN"])
def test_a_senseless_label_counts_as_missing(label: str) -> None:
    assert parsed("nvidia.com/mig-1g.5gb", A100_40 | {"nvidia.com/mig-1g.5gb.memory": label}).memory_mib == 4864


def test_shares_of_ram_are_named_by_their_size() -> None:
    assert cpu_slice(2048, 0.5) == Slice(2048, 0.5, "cpu-2gib", SliceKind.CPU, source="setting")
    assert cpu_slice(1536).name == "cpu-1536mib"
    for slice in (cpu_slice(2048), cpu_slice(1536)):
        again = parsed(slice.name)
        assert (again.memory_mib, again.kind, again.compute) == (slice.memory_mib, SliceKind.CPU, 1.0)


def test_slices_are_ordered_by_memory_then_compute_then_own_before_shared() -> None:
    own, shared = (Slice(100, 0.5, name, SliceKind.GPU, shared=name == "a") for name in ("b", "a"))
    larger, weaker = Slice(200, 0.1, "c", SliceKind.GPU), Slice(100, 0.25, "z", SliceKind.MIG)
    assert sorted([larger, shared, own, weaker], key=preference) == [weaker, own, shared, larger]
    a3g, a4g = (parsed(f"nvidia.com/mig-{profile}", A100_40) for profile in ("3g.20gb", "4g.20gb"))
    assert a3g < a4g


def test_where_one_name_means_several_sizes_the_smallest_counts_for_all() -> None:
    small = parsed("nvidia.com/mig-1g.10gb", {"nvidia.com/mig-1g.10gb.memory": "9856"})
    large = parsed("nvidia.com/mig-1g.10gb", {"nvidia.com/mig-1g.10gb.memory": "10112"})
    other = parsed("nvidia.com/mig-3g.40gb", H100)
    pools = (Pool("a", large, 7, taken=2), Pool("b", small, 4), Pool("b", other, 1))
    assert smallest_by_name(pools, pinned=False) == (
        Pool("a", small, 7, taken=2),
        Pool("b", small, 4),
        Pool("b", other, 1),
    )


def test_where_nodes_can_be_pinned_each_keeps_its_size() -> None:
    pools = (
        Pool("a", Slice(2, 1, "x", SliceKind.GPU), 1),
        Pool("b", Slice(1, 1, "x", SliceKind.GPU), 1),
    )
    assert smallest_by_name(iter(pools), pinned=True) == pools
