from __future__ import annotations

from ssis_dispatcher.core.placement import candidates
from ssis_dispatcher.core.sizing import ModelFacts, Profile
from ssis_dispatcher.core.slices import Pool, Slice, SliceKind, parse_resource

LLAMA_8B = Profile(ModelFacts(weight_bytes=16_060_522_496, kv_bytes_per_token=131_072), 4096)
LLAMA_70B = Profile(ModelFacts(weight_bytes=141_107_412_992, kv_bytes_per_token=327_680), 8192)
H100 = Slice(81_559, 1.0, "nvidia.com/gpu", SliceKind.GPU, source="label")


def pool(node: str, profile: str, total: int) -> Pool:
    slice = parse_resource(f"nvidia.com/mig-{profile}")
    assert slice is not None
    return Pool(node, slice, total)


README_SLICES = tuple(pool("a", profile, 1) for profile in ("7g.40gb", "4g.20gb", "3g.20gb", "2g.10gb", "1g.5gb"))


def names(fits: object) -> list[str]:
    assert isinstance(fits, tuple)
    return [fit.slice.name.removeprefix("nvidia.com/mig-") for fit in fits]


def test_the_smallest_slice_that_fits_comes_first_and_the_rest_say_why_not() -> None:
    fits = candidates(LLAMA_8B, README_SLICES)
    assert names(fits) == ["3g.20gb", "4g.20gb", "7g.40gb", "1g.5gb", "2g.10gb"]
    assert [bool(fit.seats) for fit in fits] == [True, True, True, False, False]
    assert all(fit.why for fit in fits[3:])


def test_every_slice_kind_is_asked_once_however_many_nodes_have_it() -> None:
    pools = [pool(f"n{i}", "3g.20gb", 2) for i in range(20)] + [pool("z", "3g.40gb", 2)]
    assert names(candidates(LLAMA_8B, pools)) == ["3g.20gb", "3g.40gb"]


def test_a_slice_kind_of_which_there_are_none_is_no_candidate() -> None:
    assert candidates(LLAMA_8B, [pool("a", "3g.20gb", 0)]) == ()
    assert candidates(LLAMA_8B, []) == ()


def test_a_model_larger_than_one_gpu_takes_several_of_one_node() -> None:
    fits = candidates(LLAMA_70B, [Pool("a", H100, 4), Pool("b", H100, 2)])
    assert [(fit.count, bool(fit.seats)) for fit in fits] == [(2, True), (4, True), (1, False)]


def test_gpus_of_different_nodes_are_not_joined() -> None:
    fits = candidates(LLAMA_70B, [Pool(f"n{i}", H100, 1) for i in range(8)])
    assert [(fit.count, fit.seats) for fit in fits] == [(1, 0)]


def test_gpus_are_not_joined_where_one_is_enough() -> None:
    assert [fit.count for fit in candidates(LLAMA_8B, [Pool("a", H100, 8)])] == [1]


def test_mig_mps_and_shared_slices_are_never_joined() -> None:
    mps = Slice(32_768, 1.0, "nvidia.com/gpu-32gb", SliceKind.MPS)
    shared = Slice(40_000, 0.5, "nvidia.com/gpu.shared", SliceKind.GPU, shared=True)
    fits = candidates(LLAMA_70B, [pool("a", "7g.80gb", 8), Pool("b", mps, 8), Pool("c", shared, 8)])
    assert {fit.count for fit in fits} == {1}
    assert not any(fit.seats for fit in fits)


def test_gpus_above_the_ceiling_or_of_a_foreign_kind_are_not_joined() -> None:
    small = Profile(ModelFacts(weight_bytes=1 << 30, kv_bytes_per_token=1), 1, ceiling_mib=24_576)
    assert [fit.count for fit in candidates(small, [Pool("a", H100, 8)])] == [1]
    cpu = Profile(LLAMA_70B.facts, 1, kinds=(SliceKind.CPU,))
    assert [fit.count for fit in candidates(cpu, [Pool("a", H100, 8)])] == [1]


def test_with_equal_memory_less_compute_and_then_a_slice_of_ones_own_is_preferred() -> None:
    shared = Slice(19_968, 4 / 7, "nvidia.com/gpu.shared", SliceKind.GPU, shared=True)
    fits = candidates(LLAMA_8B, [Pool("b", shared, 1), pool("a", "4g.20gb", 1), pool("a", "3g.20gb", 1)])
    assert names(fits) == ["3g.20gb", "4g.20gb", "nvidia.com/gpu.shared"]
