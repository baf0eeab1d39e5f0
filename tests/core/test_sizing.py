from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.core.sizing import (
    MIB,
    ModelFacts,
    Profile,
    default_ceiling,
    explain,
    fit,
    needed_mib,
    size,
)
from ssis_dispatcher.core.slices import Slice, SliceKind, parse_resource

LLAMA_8B = ModelFacts(
    source="safetensors", weight_bytes=16_060_522_496, kv_bytes_per_token=131_072, context=131_072, hidden_size=4096
)
LLAMA_70B = ModelFacts(source="safetensors", weight_bytes=141_107_412_992, kv_bytes_per_token=327_680)
PROFILE = Profile(LLAMA_8B, 4096)


def mig(profile: str) -> Slice:
    slice = parse_resource(f"nvidia.com/mig-{profile}")
    assert slice is not None
    return slice


def gpu(memory_mib: int, *, shared: bool = False) -> Slice:
    return Slice(memory_mib, 1.0, "nvidia.com/gpu", SliceKind.GPU, shared=shared, source="label")


@pytest.mark.parametrize("profile", ["1g.5gb", "1g.10gb", "1g.12gb"])
def test_an_8b_model_at_16_bit_does_not_fit_small_slices(profile: str) -> None:
    result = fit(PROFILE, mig(profile))
    assert result.seats == 0
    assert "needs" in result.why


def test_an_8b_model_at_16_bit_fits_20_gb_with_its_seats_counted() -> None:
    result = fit(PROFILE, mig("3g.20gb"))
    # 19968 MiB − 15317 weights − (512 + 5 % of 19968 = 999) overhead = 3140 MiB, at 512 MiB a seat
    assert (result.weights_mib, result.overhead_mib, result.seat_mib, result.seats) == (15317, 1511, 512.0, 6)
    assert result.why == ""
    assert explain(result) == "14.96 GiB weights + 1.48 GiB overhead + 6 seats × 512 MiB = 19.43 GiB of 19.50 GiB"


def test_what_does_not_fit_says_so_in_numbers() -> None:
    result = fit(PROFILE, mig("1g.10gb"))
    assert result.why == (
        "needs 16.44 GiB: 14.96 GiB weights + 1005 MiB overhead + 512 MiB for one seat of 4096 tokens;"
        " the slice has 9.62 GiB"
    )
    assert explain(result) == result.why


def test_seats_end_at_the_engines_limit() -> None:
    assert fit(Profile(LLAMA_8B, 4096, engine_seats=3), mig("7g.80gb")).seats == 3


def test_a_longer_context_leaves_fewer_seats() -> None:
    slice = mig("3g.40gb")
    seats = [fit(Profile(LLAMA_8B, context, engine_seats=1000), slice).seats for context in (2048, 4096, 8192, 131_072)]
    assert seats == [87, 43, 21, 1]


def test_a_context_for_which_no_seat_fits_is_no_fit() -> None:
    result = fit(Profile(LLAMA_8B, 131_072), mig("3g.20gb"))
    assert result.seats == 0
    assert "one seat of 131072 tokens" in result.why


def test_whole_gpus_share_weights_and_cache_but_each_pays_its_overhead() -> None:
    profile = Profile(LLAMA_70B, 8192, overhead_mib=640)
    assert fit(profile, gpu(81_559)).seats == 0
    result = fit(profile, gpu(81_559), 2)
    assert result.memory_mib == 163_118
    assert result.overhead_mib == 2 * (640 + 4078)
    assert result.seats == (163_118 - result.overhead_mib - 134_571) // 2560
    assert "2 GPUs have 46.88 GiB" in fit(profile, gpu(24_000), 2).why


@pytest.mark.parametrize(
    ("slice", "count", "why"),
    [
        (mig("3g.20gb"), 2, "only whole GPUs can be joined"),
        (gpu(20_000, shared=True), 2, "only whole GPUs can be joined"),
        (Slice(8192, 0.2, "nvidia.com/gpu-8gb", SliceKind.MPS), 4, "only whole GPUs can be joined"),
        (gpu(80_000), 3, "cannot join 3 GPUs"),
        (Slice(80_000, 1.0, "cpu-80gib", SliceKind.CPU), 1, "runs on mig, mps, gpu, not on cpu slices"),
        (Slice(0, 1.0, "nvidia.com/gpu", SliceKind.GPU, source="unknown"), 1, "nothing tells how much memory"),
    ],
)
def test_some_slices_are_out_of_the_question(slice: Slice, count: int, why: str) -> None:
    result = fit(PROFILE, slice, count)
    assert result.seats == 0
    assert why in result.why


def test_below_the_floor_and_above_the_ceiling_nothing_fits() -> None:
    profile = Profile(LLAMA_8B, 4096, floor_mib=19_969, ceiling_mib=40_192)
    assert "below the floor of 19.50 GiB" in fit(profile, mig("4g.20gb")).why
    assert fit(profile, mig("3g.40gb")).seats
    assert "above the ceiling of 39.25 GiB" in fit(profile, mig("7g.80gb")).why


def test_a_model_of_unknown_size_fits_with_few_seats_and_says_that_it_is_a_guess() -> None:
    result = fit(Profile(ModelFacts(), 4096), mig("1g.5gb"))
    assert result.seats == 4
    assert result.why.startswith("unknown size")
    assert result.weights_mib is result.seat_mib is None
    assert explain(result) == result.why
    assert fit(Profile(ModelFacts(), 4096, engine_seats=2), mig("1g.5gb")).seats == 2


def test_a_model_of_unknown_size_climbs_above_its_floor() -> None:
    profile = Profile(ModelFacts(), 4096, floor_mib=4865)
    assert not fit(profile, mig("1g.5gb")).seats
    assert fit(profile, mig("2g.10gb")).seats == 4


def test_a_slice_that_the_overhead_alone_exceeds_is_too_small_for_anything() -> None:
    result = fit(Profile(ModelFacts(), 4096), Slice(256, 0.1, "nvidia.com/gpu-x", SliceKind.MPS))
    assert result.seats == 0
    assert result.why == "needs more than 525 MiB of overhead alone; the slice has 256 MiB"


def test_known_weights_without_a_known_cache_are_still_weighed() -> None:
    profile = Profile(ModelFacts(weight_bytes=16 << 30), 4096)
    assert "needs 16.98 GiB: 16.00 GiB weights + 1005 MiB overhead; the slice" in fit(profile, mig("1g.10gb")).why
    result = fit(profile, mig("3g.20gb"))
    assert (result.seats, result.why[:12]) == (4, "unknown size")


def test_a_model_without_a_cache_is_limited_by_the_engine_alone() -> None:
    assert fit(Profile(ModelFacts(weight_bytes=MIB, kv_bytes_per_token=0), 512), mig("1g.5gb")).seats == 64


def test_half_a_billion_parameters_never_take_a_whole_h100_unless_told() -> None:
    facts = ModelFacts(weight_bytes=988_065_536, kv_bytes_per_token=12_288)
    need = needed_mib(Profile(facts, 8192))
    assert need == 943 + 96 + 512
    assert default_ceiling(need) == 24_576
    told = Profile(facts, 8192, ceiling_mib=default_ceiling(need))
    assert not fit(told, gpu(81_559)).seats
    assert fit(told, gpu(24_576)).seats
    assert fit(Profile(facts, 8192), gpu(81_559)).seats


def test_the_ceiling_grows_with_the_need() -> None:
    assert default_ceiling(16_341) == 130_728
    assert default_ceiling(16_341, factor=2) == 32_682
    assert needed_mib(Profile(ModelFacts(), 1)) is None


@pytest.mark.parametrize(
    ("mib", "text"), [(0, "0 MiB"), (1.5, "1.5 MiB"), (9.96, "10.0 MiB"), (512, "512 MiB"), (19_968, "19.50 GiB")]
)
def test_sizes_are_written_for_people(mib: float, text: str) -> None:
    assert size(mib) == text


@given(
    weights=st.integers(0, 1 << 40),
    kv=st.integers(1, 1 << 20),
    context=st.integers(1, 1 << 17),
    memory=st.integers(1, 300_000),
    count=st.sampled_from((1, 2, 4, 8)),
)
def test_a_plan_never_promises_more_than_there_is(weights: int, kv: int, context: int, memory: int, count: int) -> None:
    profile = Profile(ModelFacts(weight_bytes=weights, kv_bytes_per_token=kv), context, engine_seats=10_000)
    result = fit(profile, gpu(memory), count)
    used = weights + result.overhead_mib * MIB + result.seats * kv * context
    if result.seats:
        assert used <= memory * count * MIB
        assert result.seats == 10_000 or used + kv * context > (memory * count - 1) * MIB
    else:
        assert result.why
        assert used + kv * context > (memory * count - 1) * MIB
