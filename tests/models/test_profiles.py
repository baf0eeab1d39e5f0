from __future__ import annotations

import pytest

from ssis_dispatcher.core.sizing import MIB, ModelFacts, fit
from ssis_dispatcher.core.slices import SliceKind, cpu_slice
from ssis_dispatcher.errors import Unprocessable
from ssis_dispatcher.models.catalogue import Entry, demo_path
from ssis_dispatcher.models.gguf import file_facts
from ssis_dispatcher.models.naming import facts_from_name, parse_name
from ssis_dispatcher.models.profiles import Defaults, Learned, completed, profile

LLAMA = ModelFacts(
    source="safetensors",
    weight_bytes=16_060_522_496,
    kv_bytes_per_token=131_072,
    context=131_072,
    parameters=8_030_261_248,
    hidden_size=4096,
    vocabulary=128_256,
)


def test_without_a_wish_the_models_own_context_counts_up_to_the_default() -> None:
    assert profile(LLAMA).context == 8192
    assert profile(LLAMA, defaults=Defaults(context=4096)).context == 4096
    assert profile(ModelFacts(context=1024)).context == 1024
    assert profile(ModelFacts()).context == 8192


def test_the_callers_context_beats_the_catalogues_beats_the_models() -> None:
    entry = Entry(name="x", context=16_384)
    assert profile(LLAMA, entry=entry).context == 16_384
    assert profile(LLAMA, entry=entry, context=100_000).context == 100_000
    assert profile(LLAMA, entry=entry, context=128).context == 128


def test_more_context_than_the_model_has_is_refused_with_both_numbers() -> None:
    with pytest.raises(Unprocessable) as caught:
        profile(LLAMA, context=131_073)
    assert caught.value.problem.param == "context"
    assert "131073" in caught.value.problem.message
    assert "131072" in caught.value.problem.message
    with pytest.raises(Unprocessable):
        profile(LLAMA, context=0)


def test_the_operator_may_stretch_a_models_context_and_callers_may_use_it() -> None:
    entry = Entry(name="x", context=262_144)
    assert profile(LLAMA, entry=entry, context=200_000).context == 200_000
    with pytest.raises(Unprocessable, match="at most 262144"):
        profile(LLAMA, entry=entry, context=300_000)


def test_the_catalogue_settles_what_it_speaks_of() -> None:
    entry = Entry(
        name="x",
        seats=4,
        floor_mib=10_000,
        ceiling_mib=50_000,
        weights_mib=2_000,
        kv_bytes_per_token=1_000,
        keep_alive=60.0,
        pinned=True,
        max_servers=1,
        start_seconds=7.0,
    )
    found = profile(LLAMA, entry=entry, learned=Learned(5_000, 99.0))
    assert (found.engine_seats, found.floor_mib, found.ceiling_mib) == (4, 10_000, 50_000)
    assert (found.facts.source, found.facts.weight_bytes) == ("catalogue", 2_000 * MIB)
    assert found.facts.kv_bytes_per_token == 1_000
    assert (found.keep_alive, found.pinned, found.max_servers, found.start_seconds) == (60.0, True, 1, 7.0)
    assert profile(LLAMA, entry=Entry(name="x", seats=100), engine_seats=16).engine_seats == 16


def test_what_was_learned_raises_the_floor_and_predicts_the_start() -> None:
    found = profile(LLAMA, entry=Entry(name="x", floor_mib=10_000), learned=Learned(20_000, 42.0))
    assert (found.floor_mib, found.start_seconds) == (20_000, 42.0)


def test_the_start_is_predicted_from_the_weights() -> None:
    defaults = Defaults(start_base=10.0, load_mib_per_second=1000.0)
    assert profile(ModelFacts(weight_bytes=15_000 * MIB), defaults=defaults).start_seconds == 25.0
    assert profile(ModelFacts(), defaults=defaults).start_seconds == 60.0


def test_overheads_follow_where_the_engine_runs() -> None:
    gpu, cpu = profile(LLAMA), profile(LLAMA, kinds=(SliceKind.CPU,), parallel=())
    assert (gpu.overhead_mib, gpu.overhead_share) == (576, 0.05)
    assert (cpu.overhead_mib, cpu.overhead_share, cpu.parallel) == (363, 0.0, ())


def test_a_small_model_has_a_ceiling_and_a_large_one_a_higher_one() -> None:
    small = ModelFacts(weight_bytes=988_065_536, kv_bytes_per_token=12_288, hidden_size=896)
    assert profile(small).ceiling_mib == 24_576
    assert profile(LLAMA).ceiling_mib == 8 * (15_317 + 1024 + 576)
    assert profile(small, defaults=Defaults(ceiling_factor=100)).ceiling_mib == 100 * (943 + 96 + 526)


def test_where_nothing_is_known_or_ram_is_shared_there_is_no_ceiling() -> None:
    assert profile(ModelFacts()).ceiling_mib is None
    assert profile(LLAMA, kinds=(SliceKind.CPU,)).ceiling_mib is None


def test_a_model_that_proved_larger_than_it_looks_is_not_caught_between_floor_and_ceiling() -> None:
    small = ModelFacts(weight_bytes=1 << 30, kv_bytes_per_token=1)
    found = profile(small, learned=Learned(floor_mib=24_577))
    assert found.ceiling_mib is not None
    assert found.ceiling_mib > found.floor_mib


def test_the_packaged_model_fits_a_share_of_128_mib_with_four_seats() -> None:
    found = profile(file_facts(demo_path()), kinds=(SliceKind.CPU,), engine_seats=4)
    assert found.context == 1024
    assert fit(found, cpu_slice(128)).seats == 4
    assert fit(found, cpu_slice(64)).seats == 0


@pytest.mark.parametrize(
    ("outcomes", "learned"),
    [
        ([], Learned()),
        ([("out_of_memory", 4864, 9.0)], Learned(4865)),
        ([("out_of_memory", 4864, 9.0), ("out_of_memory", 9856, 9.0)], Learned(9857)),
        ([("out_of_memory", 4864, 9.0), ("ready", 9856, 20.0)], Learned(4865, 20.0)),
        ([("out_of_memory", 16_384, 9.0), ("ready", 9856, 20.0)], Learned(0, 20.0)),
        ([("ready", 1, 10.0), ("ready", 2, 30.0), ("ready", 3, 500.0)], Learned(0, 30.0)),
    ],
)
def test_outcomes_become_a_floor_and_a_prediction(outcomes: list[tuple[str, int, float]], learned: Learned) -> None:
    assert Learned.of(outcomes) == learned


def test_what_one_source_does_not_know_the_next_one_tells() -> None:
    bare = ModelFacts(source="safetensors", weight_bytes=100)
    name = facts_from_name(parse_name("org/x-8B"))
    found = completed(bare, ModelFacts(), name)
    assert (found.source, found.weight_bytes, found.kv_bytes_per_token) == ("safetensors", 100, 196_608)
    assert found.note == "KV cache by name"
    assert completed(ModelFacts(), name) == name
    assert completed(LLAMA, name) == LLAMA
    assert completed(ModelFacts(note="hub is away"), name).note.startswith("hub is away; estimated from the name")
