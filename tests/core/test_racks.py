"""A slice and the CPU and memory of its node: one is worth nothing without the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.core.support import SLICES, Story, hosts, model, pools, profile

from ssis_dispatcher.core import views
from ssis_dispatcher.core.racks import Rack
from ssis_dispatcher.core.sizing import Ask
from ssis_dispatcher.core.slices import Host, SliceKind

Begin = Callable[..., Story]


def left(story: Story, node: str) -> tuple[float, float]:
    """CPUs and GiB that our servers leave of a node."""
    ask = story.fleet.book.stock.racks[node].left
    return ask.cpu / 1000, ask.mib / 1024


def test_a_node_without_the_memory_is_passed_by(begin: Begin) -> None:
    story = begin("a 1g:1 mem:8; b 1g:2 mem:32")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, memory=16).then("launch llama on 1g@b")
    assert left(story, "b") == (1000, 16)


def test_a_node_without_the_cpus_is_passed_by(begin: Begin) -> None:
    story = begin("a 1g:1 cpu:2; b 1g:2 cpu:8")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, cpus=4).then("launch llama on 1g@b")
    assert left(story, "b")[0] == 4


def test_a_larger_slice_is_taken_where_the_memory_is(begin: Begin) -> None:
    story = begin("a 1g:1 mem:8; b 2g:1 mem:32")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, memory=16).then("launch llama on 2g@b")


def test_two_launches_never_count_on_the_same_memory(begin: Begin) -> None:
    story = begin("a 1g:2 mem:24", slice_wait=120.0)
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, memory=16).then("launch llama on 1g@a")
    story.arrives("r2", "other").anyhow()
    story.described("other", 8, memory=16).then()
    story.ready("llama").then("seat r1 at llama")
    story.passes(121).then("refuse r2: 503 no_capacity")
    assert story.why("r2").endswith(
        "1 slice nvidia.com/mig-1g.10gb is free on node a, but only 8192 MiB of its memory: "
        "a server asks 16384 MiB of memory."
    )


def test_who_asks_nothing_of_the_node_is_not_held_up_by_it(begin: Begin) -> None:
    story = begin("a 1g:2 mem:16")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, memory=16).then("launch llama on 1g@a")
    story.arrives("r2", "other").anyhow()
    story.described("other", 8).then("launch other on 1g@a")


def test_what_asks_more_than_any_node_has_is_refused(begin: Begin) -> None:
    story = begin("a 1g:1 mem:64-60 cpu:2; b 2g:1 mem:48 cpu:4")
    story.arrives("r1", "large").anyhow()
    story.described("large", 8, memory=80).then("refuse r1: 422 model_does_not_fit")
    assert story.why("r1") == (
        "large fits on no slice here. nvidia.com/mig-2g.20gb: asks 81920 MiB of memory of its node; "
        "the best node for it, b, has only 49152 MiB of its memory."
    )
    story.arrives("r2", "busy").anyhow()
    story.described("busy", 8, cpus=5).then("refuse r2: 422 model_does_not_fit")
    assert "5 CPUs" in story.why("r2")


def test_what_others_hold_may_come_back_and_is_waited_for(begin: Begin) -> None:
    story = begin("a 1g:1 mem:64-60")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, memory=16).then()
    story.inventory("a 1g:1 mem:64-40").then("launch llama on 1g@a")


def test_a_node_that_is_said_to_be_larger_is_large_enough(begin: Begin) -> None:
    story = begin("a 1g:1 mem:8; b 1g:1 mem:32")
    story.serving("small", 8, memory=20)
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, memory=16).then()
    story.inventory("a 1g:1 mem:16; b 1g:1 mem:32").then("launch llama on 1g@a")


def test_what_was_too_much_for_every_node_is_not_when_one_has_grown(begin: Begin) -> None:
    story = begin("a 1g:1 mem:8; b 1g:1 mem:4")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, memory=16).then("refuse r1: 422 model_does_not_fit")
    story.inventory("a 1g:1 mem:8; b 1g:1 mem:16").then()
    story.arrives("r2", "llama").then("describe llama")
    story.described("llama", 8, memory=16).then("launch llama on 1g@b")


def test_a_server_of_another_kind_of_slice_gives_its_memory_back_to_who_waits(begin: Begin) -> None:
    story = begin("a 1g:1 2g:1 mem:24", dwell=1000.0)
    story.serving("small", 8, memory=16)
    story.arrives("r1", "large").anyhow()
    story.described("large", 14, memory=16).then()
    story.stop_asked("small").then("stop small: asked by an operator")
    story.stopped("small").then("launch large on 2g@a")


def test_an_idle_server_of_another_kind_of_slice_goes_for_its_memory(begin: Begin) -> None:
    story = begin("a 1g:1 2g:1 mem:24", dwell=0.0)
    story.serving("small", 8, memory=16)
    story.arrives("r1", "large").anyhow()
    story.described("large", 14, memory=16).then("stop small: evicted for large")
    story.stopped("small").then("launch large on 2g@a")


def test_it_goes_as_soon_as_it_is_idle(begin: Begin) -> None:
    story = begin("a 1g:1 2g:1 mem:24", dwell=0.0)
    story.serving("small", 8, memory=16, busy=1)
    story.arrives("r1", "large").anyhow()
    story.described("large", 14, memory=16).then()
    story.gone("small-1").then("stop small: evicted for large")
    story.stopped("small").then("launch large on 2g@a")


def test_of_the_servers_that_hold_the_memory_of_nodes_the_one_idle_longest_goes(begin: Begin) -> None:
    story = begin("a 1g:1 2g:1 mem:24; b 1g:1 2g:1 mem:24; c 1g:1 2g:1 mem:24", dwell=0.0)
    for name in ("one", "two", "three"):
        story.serving(name, 8, memory=16).passes(1)
    story.arrives("again", "one").then("seat again at one")
    story.gone("again").then()
    story.arrives("r1", "large").anyhow()
    story.described("large", 14, memory=16).then("stop two: evicted for large")
    story.stopped("two").then("launch large on 2g@b")


def test_one_that_works_again_is_left_and_is_found_when_it_is_idle_again(begin: Begin) -> None:
    story = begin("a 1g:1 2g:1 mem:24; b 1g:1 2g:1 mem:24", dwell=0.0)
    for name in ("one", "two"):
        story.serving(name, 8, memory=16).passes(1)
    story.arrives("again", "one").then("seat again at one")
    story.arrives("r1", "large").anyhow()
    story.described("large", 14, memory=16).then("stop two: evicted for large")
    story.arrives("r2", "larger").anyhow()
    story.described("larger", 14, memory=20).then()
    story.gone("again").then("stop one: evicted for larger")


def test_no_more_servers_go_than_must(begin: Begin) -> None:
    story = begin("a 1g:3 2g:1 mem:40", dwell=0.0)
    for name, memory in ("one", 8), ("two", 16), ("three", 8):
        story.serving(name, 8, memory=memory).passes(1)
    story.arrives("r1", "large").anyhow()
    story.described("large", 14, memory=24).then("stop two: evicted for large")
    story.stopped("two").then("launch large on 2g@a")


def test_a_victim_that_gives_back_too_little_takes_another_along(begin: Begin) -> None:
    story = begin("a 1g:2 2g:1 mem:32", dwell=0.0)
    story.serving("slim", 14, memory=8, kinds=(SLICES["2g"].kind,)).passes(1)
    story.serving("wide", 8, memory=16)
    story.arrives("r1", "large").anyhow()
    story.described("large", 14, memory=24).then("stop slim: evicted for large", "stop wide: evicted for large")
    story.stopped("slim").then()
    story.stopped("wide").then("launch large on 2g@a")


def test_a_busy_server_keeps_its_memory(begin: Begin) -> None:
    story = begin("a 1g:1 2g:1 mem:24; b 2g:1 mem:24", dwell=0.0)
    story.serving("small", 8, memory=16, busy=1).serving("there", 14, memory=16, start=9000)
    assert story.id("there") in story.fleet.book.stock.shelves[SLICES["2g"]].bins["b"].servers
    story.arrives("r1", "large").anyhow()
    story.described("large", 14, memory=16).then("stop there: evicted for large")
    story.stopped("there").then("launch large on 2g@b")


def test_a_server_that_lands_elsewhere_takes_its_memory_from_there(begin: Begin) -> None:
    story = begin("a 1g:1 mem:16; b 1g:1 mem:16", dwell=0.0)
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, memory=12).then("launch llama on 1g@a")
    story.arrives("r2", "other").anyhow()
    story.described("other", 8, memory=12).then("launch other on 1g@b")
    story.arrives("r3", "third").anyhow()
    story.described("third", 8, memory=12).then()
    story.placed("llama", "b").then("launch third on 1g@a")
    assert left(story, "b") == (1000, -8)
    assert left(story, "a") == (1000, 4)


def test_a_node_that_is_overdrawn_gets_nobody_until_the_inventory_is_put_right(begin: Begin) -> None:
    story = begin("a 1g:1 mem:64; b 1g:1-1 mem:64")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, memory=12).then("launch llama on 1g@a")
    story.placed("llama", "b").then()
    bin = story.fleet.book.stock.shelves[SLICES["1g"]].bins["b"]
    assert bin.free == -1
    story.arrives("r2", "other").anyhow()
    story.described("other", 8, memory=12).then("launch other on 1g@a")
    story.arrives("r3", "third").anyhow()
    story.described("third", 8, memory=12).then()
    story.inventory("a 1g:1 mem:64; b 1g:3-1 mem:64").then("launch third on 1g@b")
    assert bin.free == 0
    assert left(story, "b") == (1000, 40)


def test_a_server_may_land_on_a_node_of_which_nobody_knew(begin: Begin) -> None:
    story = begin("a 1g:1 mem:16")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, memory=12).then("launch llama on 1g@a")
    story.placed("llama", "new").then()
    assert left(story, "a") == (1000, 16)
    story.inventory("a 1g:1 mem:16; new 1g:2 mem:16").then()
    assert left(story, "new") == (1000, 4)
    story.ready("llama").then("seat r1 at llama")


def test_where_the_slice_is_of_another_size_the_server_is_counted_on_that(begin: Begin) -> None:
    story = begin("a 1g:1")
    smaller = tuple(
        pool.__class__("b", pool.slice.__class__(9_000, 1 / 7, pool.slice.name, pool.slice.kind), 1)
        for pool in pools("b 1g:1")
    )
    story.inventory((*pools("a 1g:1"), *smaller)).then()
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 9).then("launch llama on 1g@a")
    story.placed("llama", "b").then()
    assert story.fleet.book.servers[story.id("llama")].bin.shelf.slice.memory_mib == 9_000


def test_a_found_server_is_booked_with_what_it_asks(begin: Begin) -> None:
    story = begin("a 1g:2 mem:24")
    story.adopted("llama", "1g", "a", memory=16).then()
    assert left(story, "a") == (1000, 8)
    story.arrives("r1", "other").anyhow()
    story.described("other", 8, memory=16).then()
    assert "only 8192 MiB of its memory" in views.lines(story.fleet.book, story.now)[0].why


def test_a_second_server_for_a_model_takes_no_memory_that_a_launch_waits_for(begin: Begin) -> None:
    story = begin("a 1g:2 2g:1 mem:32", scale_out_after=10.0)
    story.serving("llama", 8, memory=8, busy=1)
    story.arrives("r0", "large").anyhow()
    story.described("large", 14, memory=32).then()
    story.arrives("r1", "llama").then()
    story.passes(60).then()


def test_who_takes_the_memory_that_another_waits_for_overtakes_it_and_only_so_often(begin: Begin) -> None:
    """The older launch wants a slice of another kind, and is passed all the same: by those who take its node's memory."""
    story = begin("a 1g:4 2g:1 mem:40", overtakes=2, dwell=1000.0)
    story.serving("first", 8, memory=24, busy=1)
    story.arrives("r0", "large").anyhow()
    story.described("large", 14, memory=24).then()
    for name in ("one", "two"):
        story.arrives(name, name).anyhow()
        story.described(name, 8, memory=4).then(f"launch {name} on 1g@a")
    story.arrives("three", "three").anyhow()
    story.described("three", 8, memory=4).then()  # there is enough for it, but it is not its turn
    story.arrives("free", "free").anyhow()
    story.described("free", 8).then("launch free on 1g@a")  # takes no memory from anybody
    story.gone("first-1").then()
    story.stop_asked("first").then("stop first: asked by an operator")
    story.stopped("first").then("launch large on 2g@a", "launch three on 1g@a")


@pytest.mark.parametrize("end", ["leaves", "is forgotten", "is larger than was said"])
def test_who_was_held_up_by_a_launch_goes_on_when_that_is_no_more(begin: Begin, end: str) -> None:
    mig, mps = (SliceKind.MIG,), (SliceKind.MPS,)
    story = begin("a 1g:4 mps:1 mem:40", overtakes=1)
    story.serving("first", 8, memory=24, kinds=mig, busy=1)
    story.arrives("r0", "large").anyhow()
    story.described("large", 14, memory=24, kinds=mps).then()
    story.arrives("r1", "one").anyhow()
    story.described("one", 8, memory=4, kinds=mig).then("launch one on 1g@a")
    story.arrives("r2", "two").anyhow()
    story.described("two", 8, memory=4, kinds=mig).then()
    match end:
        case "leaves":
            story.gone("r0").then("launch two on 1g@a")
        case "is forgotten":
            story.forgotten("large").then("describe large", "launch two on 1g@a")
        case _:
            story.described("large", 100).then("refuse r0: 422 model_does_not_fit", "launch two on 1g@a")


def test_a_launch_that_leaves_enough_for_those_before_it_overtakes_nobody(begin: Begin) -> None:
    story = begin("a 1g:4 2g:1-1 mem:100", overtakes=1)
    story.arrives("r0", "large").anyhow()
    story.described("large", 14, memory=24).then()
    for name in ("one", "two", "three"):
        story.arrives(name, name).anyhow()
        story.described(name, 8, memory=4).then(f"launch {name} on 1g@a")


def test_the_plan_says_what_is_missing(begin: Begin) -> None:
    story = begin("a 1g:1 2g:1 mem:24; b 1g:1 mem:4", dwell=1000.0)
    story.serving("small", 8, memory=16)
    plan = views.plan(story.fleet.book, model("large"), profile(14, memory=16), story.now)
    assert (plan.decision, plan.why) == (
        "wait",
        "1 slice nvidia.com/mig-2g.20gb is free on node a, but only 8192 MiB of its memory: "
        "a server asks 16384 MiB of memory.",
    )
    reasons = {each.fit.slice.name: each.why for each in plan.candidates}
    assert reasons["nvidia.com/mig-2g.20gb"] == "a has only 8192 MiB of its memory"
    plan = views.plan(story.fleet.book, model("vast"), profile(14, cpus=2, memory=99), story.now)
    assert plan.decision == "refuse"
    reasons = {each.fit.slice.name: each.why for each in plan.candidates}
    assert "asks 101376 MiB of memory and 2 CPUs of its node" in reasons["nvidia.com/mig-2g.20gb"]


def test_the_statistics_show_what_is_left(begin: Begin) -> None:
    story = begin("a 1g:1 cpu:8 mem:64-16; b 1g:1")
    story.serving("llama", 8, cpus=2, memory=16)
    (view,) = story.fleet.statistics(story.now).hosts
    assert view == views.HostView("a", 8_000, 48 * 1024, 6_000, 32 * 1024)


def test_limits_come_and_go(begin: Begin) -> None:
    story = begin("a 1g:3 mem:16")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, memory=16).then("launch llama on 1g@a")
    story.arrives("r2", "other").anyhow()
    story.described("other", 8, memory=16).then()
    story.inventory("a 1g:3").then("launch other on 1g@a")
    story.inventory("a 1g:3 mem:16").then()
    assert left(story, "a") == (1000, -16)


def test_of_many_nodes_only_those_are_remembered_that_no_other_beats(begin: Begin) -> None:
    story = begin(
        "a 1g:1 cpu:8 mem:8; b 1g:1 cpu:2 mem:64; c 1g:1 cpu:2 mem:32; d 1g:1 cpu:8 mem:8; e 2g:1 cpu:99 mem:99"
    )
    racks = story.fleet.book.stock.roomiest(SLICES["1g"], 1)
    assert [rack.node for rack in racks] in (["b", "a"], ["b", "d"])


def test_what_is_short_is_said_in_words() -> None:
    rack = Rack("a")
    rack.tell(Host("a", 1500, 2048))
    assert rack.lack(Ask(2000, 4096)) == "only 2048 MiB of its memory and 1.5 of its CPUs"
    assert rack.lack(Ask(0, 1)) == ""
    rack.take(Ask(2000, 0))
    assert rack.lack(Ask(1, 1)) == "only 0 of its CPUs"


def test_hosts_are_written_as_they_are_read() -> None:
    assert hosts("a cpu:8-2 mem:4; b 1g:1") == (Host("a", 6_000, 4_096, 8_000, 4_096),)
