"""The rules of the house, one story each: who is seated, who waits, what is started where, who goes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from tests.core.support import Story

from ssis_dispatcher.core.messages import CallerLimits
from ssis_dispatcher.core.slices import SliceKind

Begin = Callable[..., Story]


# Rules 3 to 7


def test_a_cold_request_is_described_launched_held_and_seated(begin: Begin) -> None:
    story = begin("a 1g:1")
    story.arrives("r1", "llama").then("describe llama")
    story.described("llama", 8).then("launch llama on 1g@a")
    story.ready("llama").then("seat r1 at llama")


def test_a_warm_request_is_seated_at_once(begin: Begin) -> None:
    story = begin("a 1g:1").serving("llama", seats=2)
    story.arrives("r1", "llama").then("seat r1 at llama")


def test_many_callers_of_a_cold_model_cause_one_launch(begin: Begin) -> None:
    story = begin("a 1g:4")
    story.arrives("r1", "llama").then("describe llama")
    story.arrives("r2", "llama", caller="bob").then()
    story.described("llama", 8, seats=2).then("launch llama on 1g@a")
    story.arrives("r3", "llama").then()
    story.ready("llama").then("seat r1 at llama", "seat r2 at llama")


def test_the_smallest_free_slice_that_fits_is_taken(begin: Begin) -> None:
    story = begin("a 3g:1 2g:1 1g:1")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 14).then("launch llama on 2g@a")


def test_a_larger_free_slice_is_better_than_waiting_for_a_smaller_one(begin: Begin) -> None:
    story = begin("a 1g:1-1 2g:1")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then("launch llama on 2g@a")


def test_an_idle_server_of_the_right_kind_makes_room(begin: Begin) -> None:
    story = begin("a 1g:1 2g:1", dwell=0.0).serving("small", 8).serving("large", 14)
    story.arrives("r1", "other").anyhow()
    story.described("other", 14).then("stop large: evicted for other")
    story.stopped("large").then("launch other on 2g@a")


def test_a_busy_server_is_never_evicted(begin: Begin) -> None:
    story = begin("a 1g:1", dwell=0.0).serving("llama", busy=1)
    story.arrives("r1", "other").anyhow()
    story.described("other", 8).then()
    story.gone("llama-1").then("stop llama: evicted for other")
    story.stopped("llama").then("launch other on 1g@a")


def test_a_server_is_left_in_peace_until_its_dwell_time_is_over(begin: Begin) -> None:
    story = begin("a 1g:1", dwell=30.0).serving("llama")
    story.arrives("r1", "other").anyhow()
    story.described("other", 8).then()
    story.passes(29).then()
    story.passes(2).then("stop llama: evicted for other")
    story.stopped("llama").then("launch other on 1g@a")


def test_two_launches_never_count_on_the_same_slice(begin: Begin) -> None:
    story = begin("a 1g:1")
    story.arrives("r1", "llama").anyhow()
    story.arrives("r2", "other").anyhow()
    story.described("llama", 8).then("launch llama on 1g@a")
    story.described("other", 8).then()


def test_what_fits_nowhere_is_refused_with_the_arithmetic(begin: Begin) -> None:
    story = begin("a 1g:1")
    story.arrives("r1", "huge").anyhow()
    story.described("huge", 100).then("refuse r1: 422 model_does_not_fit")
    assert "100" in story.why("r1")


def test_a_model_larger_than_a_card_takes_several_of_one_node(begin: Begin) -> None:
    story = begin("a gpu:1; b gpu:4")
    story.arrives("r1", "large").anyhow()
    story.described("large", 150).then("launch large on 2 gpu@b")


# Waiting


def test_the_waiting_room_has_an_end(begin: Begin) -> None:
    story = begin("a 1g:1", waiting_per_model=1).serving("llama", busy=1)
    story.arrives("r1", "llama").then()
    story.arrives("r2", "llama").then("refuse r2: 503 waiting_room_full")
    story.gone("llama-1").then("seat r1 at llama")


def test_bytes_count_too(begin: Begin) -> None:
    story = begin("a 1g:1", waiting_bytes=150).serving("llama", busy=1)
    story.arrives("r1", "llama", size=100).then()
    story.arrives("r2", "llama", size=100).then("refuse r2: 503 waiting_room_full")
    story.gone("llama-1").then("seat r1 at llama")


def test_callers_take_turns(begin: Begin) -> None:
    story = begin("a 1g:1").serving("llama", busy=1)
    for request in ("a1", "a2", "a3"):
        story.arrives(request, "llama", caller="alice").then()
    story.arrives("b1", "llama", caller="bob").then()
    story.gone("llama-1").then("seat a1 at llama")
    story.gone("a1").then("seat b1 at llama")
    story.gone("b1").then("seat a2 at llama")


def test_who_waits_too_long_for_a_slice_is_told_what_for(begin: Begin) -> None:
    story = begin("a 1g:1", slice_wait=120.0).serving("llama", busy=1)
    story.arrives("r1", "other").anyhow()
    story.described("other", 8).then()
    story.passes(119).then()
    story.passes(2).then("refuse r1: 503 no_capacity")
    assert "nvidia.com/mig-1g.10gb" in story.why("r1")


def test_a_start_has_a_budget_of_its_own(begin: Begin) -> None:
    story = begin("a 1g:1", start_wait=120.0, start_factor=2.0)
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, start=100).then("launch llama on 1g@a")
    story.passes(199).then()
    story.passes(2).then("stop llama: start timed out", "refuse r1: 503 model_failed")
    story.stopped("llama").then()


def test_a_download_that_moves_is_given_time(begin: Begin) -> None:
    story = begin("a 1g:1", start_wait=120.0)
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then("launch llama on 1g@a")
    for _ in range(5):
        story.passes(100).then()
        story.progresses("llama", "downloading", "1 GiB").then()
    story.ready("llama").then("seat r1 at llama")


def test_a_caller_that_leaves_takes_its_need_along(begin: Begin) -> None:
    story = begin("a 1g:1").serving("llama", busy=1)
    story.arrives("r1", "other").anyhow()
    story.described("other", 8).then()
    story.gone("r1").then()
    story.gone("llama-1").then()


# Failing


def test_out_of_memory_climbs_and_is_remembered(begin: Begin) -> None:
    story = begin("a 1g:1 2g:1")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then("launch llama on 1g@a")
    story.failed("llama", "out_of_memory").then("remember llama: 1g out_of_memory", "launch llama on 2g@a")
    story.ready("llama").then("seat r1 at llama")


def test_out_of_memory_on_the_largest_slice_is_the_end(begin: Begin) -> None:
    story = begin("a 1g:1")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).anyhow()
    story.failed("llama", "out_of_memory", "needed more").then(
        "remember llama: 1g out_of_memory", "refuse r1: 422 model_does_not_fit"
    )
    assert "needed more" in story.why("r1")


def test_a_crash_is_told_and_followed_by_pauses_that_grow(begin: Begin) -> None:
    story = begin("a 1g:1", pause_first=1.0)
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).anyhow()
    story.failed("llama", "crashed", "no such file").then("refuse r1: 503 model_failed")
    assert "no such file" in story.why("r1")
    story.arrives("r2", "llama").then("refuse r2: 503 model_failed")
    story.passes(1.5).arrives("r3", "llama").then("launch llama on 1g@a")
    story.failed("llama", "crashed").then("refuse r3: 503 model_failed")
    story.passes(1.5).arrives("r4", "llama").then("refuse r4: 503 model_failed")
    retry = story.refusals["r4"].retry_after
    assert retry is not None
    assert retry <= 2.0


def test_a_lost_server_is_replaced_for_those_who_wait(begin: Begin) -> None:
    story = begin("a 1g:2").serving("llama", busy=1)
    story.arrives("r1", "llama").then()
    story.failed("llama", "lost").then("launch llama on 1g@a")
    story.gone("llama-1").then()
    story.ready("llama").then("seat r1 at llama")


def test_who_takes_servers_away_is_not_fought(begin: Begin) -> None:
    """It may have been a mistake, the first time."""
    story = begin("a 1g:2", pause_first=1.0, pause_most=300.0, settled_after=60.0).serving("llama", busy=1)
    story.arrives("r1", "llama").then()
    story.failed("llama", "removed").then("launch llama on 1g@a")
    story.gone("llama-1").then()
    story.failed("llama", "removed").then("refuse r1: 503 model_failed")
    story.arrives("r2", "llama").then("refuse r2: 503 model_failed")
    story.passes(61).anyhow()
    story.arrives("r3", "llama").then("launch llama on 1g@a")
    story.ready("llama").then("seat r3 at llama")
    story.passes(61).anyhow()
    story.failed("llama", "removed").anyhow()
    story.arrives("r4", "llama").then("describe llama")
    story.described("llama", 8).then("launch llama on 1g@a")  # it had worked long enough


# Idling, pinning, more of the same


def test_an_unused_server_goes_after_its_keep_alive(begin: Begin) -> None:
    story = begin("a 1g:1", keep_alive=600.0).serving("llama")
    story.passes(599).then()
    story.passes(2).then("stop llama: idle for 600 s")
    story.stopped("llama").then()


def test_a_pinned_server_stays(begin: Begin) -> None:
    story = begin("a 1g:1", keep_alive=60.0, dwell=0.0).serving("llama")
    story.pinned("llama").then()
    story.passes(1000).then()
    story.arrives("r1", "other").anyhow()
    story.described("other", 8).then()
    story.pinned("llama", False).then("stop llama: evicted for other")
    story.stopped("llama").then("launch other on 1g@a")


def test_a_line_that_waits_long_gets_a_second_server(begin: Begin) -> None:
    story = begin("a 1g:2", scale_out_after=10.0).serving("llama", busy=1)
    story.arrives("r1", "llama").then()
    story.passes(9).then()
    story.passes(2).then("launch llama/1 on 1g@a")
    story.ready("llama/1").then("seat r1 at llama/1")


def test_a_server_that_stops_anyhow_is_waited_for_and_nobody_goes(begin: Begin) -> None:
    story = begin("a 1g:1; b 1g:1", dwell=0.0).serving("idle").passes(1).serving("leaving")
    story.stop_asked("leaving").then("stop leaving: asked by an operator")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then()
    story.arrives("r2", "other").anyhow()
    story.described("other", 8).then("stop idle: evicted for other")
    story.stopped("leaving").then("launch llama on 1g@b")


def test_what_a_launch_waited_for_goes_to_the_next_that_needs_it(begin: Begin) -> None:
    """Two GPUs come free at once: the first launch takes one and lets go of the slice that it waited for; the second, whose
    turn is next, takes the other; and the third is to count on the slice."""
    mig, gpu = (SliceKind.MIG,), (SliceKind.GPU,)
    story = begin("a 1g:1 gpu:2", dwell=0.0).serving("old", 8, kinds=mig).serving("pair", 100, kinds=gpu)
    story.stop_asked("old").then("stop old: asked by an operator")
    story.stop_asked("pair").then("stop pair: asked by an operator")
    for name, kinds in ("one", mig + gpu), ("two", mig + gpu), ("three", mig):
        story.arrives(name, name).anyhow()
        story.described(name, 8, kinds=kinds).then()
    story.stopped("pair").then("launch one on gpu@a", "launch two on gpu@a")
    story.stopped("old").then("launch three on 1g@a")


def test_where_more_is_held_than_there_is_what_stops_is_worth_something_when_enough_has_gone(begin: Begin) -> None:
    story = begin("a gpu:2", dwell=0.0).serving("pair", 100).adopted("one", "gpu", "a")  # three of two
    story.stop_asked("pair").then("stop pair: asked by an operator")
    story.stop_asked("one").then("stop one: asked by an operator")
    for name in ("first", "second"):
        story.arrives(name, name).anyhow()
        story.described(name, 20).then()
    story.stopped("pair").then("launch first on gpu@a")
    story.stopped("one").then("launch second on gpu@a")


def test_the_server_that_is_cheaper_to_have_back_goes_first(begin: Begin) -> None:
    story = begin("a 1g:2", dwell=0.0, reload_weight=1.0)
    story.serving("slow", start=300).passes(10).then()
    story.serving("quick", start=5)
    story.arrives("r1", "other").anyhow()
    story.described("other", 8).then("stop quick: evicted for other")
    story.stopped("quick").then("launch other on 1g@a")


# Limits, draining, operators


def test_a_caller_may_start_only_so_many_models_a_minute(begin: Begin) -> None:
    story = begin("a 1g:4", launches_per_minute=1)
    story.arrives("r1", "one").then("describe one")
    story.arrives("r2", "two").then("refuse r2: 429 launch_limit")
    story.arrives("r3", "two", caller="bob").then("describe two")


def test_a_callers_own_kinds_of_slices_are_kept_to(begin: Begin) -> None:
    story = begin("a 1g:1 gpu:1")
    story.arrives("r1", "llama", limits=CallerLimits(kinds=(SliceKind.GPU,))).anyhow()
    story.described("llama", 8).then("launch llama on gpu@a")


def test_a_drain_tells_who_waits_and_lets_the_seated_finish(begin: Begin) -> None:
    story = begin("a 1g:1").serving("llama", busy=1)
    story.arrives("r1", "llama").then()
    story.drains().then("refuse r1: 503 draining")
    story.arrives("r2", "llama").then("refuse r2: 503 draining")
    story.gone("llama-1").anyhow()


def test_a_stopped_server_finishes_first_and_its_line_gets_another(begin: Begin) -> None:
    story = begin("a 1g:2").serving("llama", busy=1)
    story.arrives("r1", "llama").then()
    story.stop_asked("llama").then("launch llama/1 on 1g@a")
    story.ready("llama/1").then("seat r1 at llama/1")
    story.gone("llama-1").then("stop llama: asked by an operator")
    story.stopped("llama").then()


def test_a_launch_that_needs_a_whole_node_is_passed_so_often_and_no_more(begin: Begin) -> None:
    story = begin("a gpu:2", overtakes=2, dwell=0.0).serving("first", 60, busy=1)
    story.arrives("r0", "large").anyhow()
    story.described("large", 150).then()
    for number in itertools.count(1):
        name = f"m{number}"
        story.arrives(f"r{number}", name).anyhow()
        story.described(name, 60).anyhow()
        if story.fleet.book.launches == 1 + number:
            story.ready(name).anyhow()
            story.gone(f"r{number}").anyhow()
            story.stopped(name).anyhow() if story.id(name) in story.fleet.book.servers else None
            continue
        break
    assert number == 3
