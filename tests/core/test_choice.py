"""Slices that no node has yet: after those that are there, before those that are in use."""

from __future__ import annotations

from collections.abc import Callable

from tests.core.support import SLICES, Story, model, profile

from ssis_dispatcher.core import views
from ssis_dispatcher.core.slices import PENDING

Begin = Callable[..., Story]


def test_a_slice_that_is_there_comes_first_even_a_larger_one(begin: Begin) -> None:
    story = begin("a 2g:1; pending 1g:2")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then("launch llama on 2g@a")


def test_a_node_may_come_before_an_idle_server_goes(begin: Begin) -> None:
    story = begin("a 1g:1; pending 1g:1", dwell=0.0).serving("idle")
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then("launch llama on 1g@pending")
    story.arrives("r2", "other").anyhow()
    story.described("other", 8).then("stop idle: evicted for other")
    story.stopped("idle").then("launch other on 1g@a")


def test_no_more_are_waited_for_than_were_allowed(begin: Begin) -> None:
    story = begin("pending 1g:2")
    for name in ("one", "two", "three"):
        story.arrives(name, name).anyhow()
        story.described(name, 8).anyhow()
    assert story.fleet.book.launches == 2
    story.placed("one", "new").then("launch three on 1g@pending")
    assert story.fleet.book.servers[story.id("one")].bin.node == "new"


def test_a_server_that_was_pending_belongs_to_the_node_that_came(begin: Begin) -> None:
    story = begin("a 1g:1; pending 1g:1").serving("first", busy=1)
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8, memory=16).then("launch llama on 1g@pending")
    story.placed("llama", "b").then()
    story.inventory("a 1g:1; b 1g:2 mem:64; pending 1g:1").then()
    story.ready("llama").then("seat r1 at llama")
    rack = story.fleet.book.stock.racks["b"]
    assert rack.left.mib == 48 * 1024
    assert rack.bins[SLICES["1g"]].free == 1
    assert story.fleet.book.stock.racks[PENDING].bins[SLICES["1g"]].free == 1


def test_one_that_does_not_come_in_time_makes_room_for_the_next(begin: Begin) -> None:
    story = begin("pending 1g:1", start_wait=120.0)
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then("launch llama on 1g@pending")
    story.arrives("r2", "other").anyhow()
    story.described("other", 8).then()
    story.failed("llama", "timed_out", "no node came").then("launch other on 1g@pending", "refuse r1: 503 model_failed")


def test_a_slice_that_only_a_new_node_could_have_is_a_reason_to_hope(begin: Begin) -> None:
    story = begin("a 1g:1; pending 3g:1")
    story.arrives("r1", "large").anyhow()
    story.described("large", 30).then("launch large on 3g@pending")


def test_nothing_is_evicted_for_the_sake_of_a_pending_slice(begin: Begin) -> None:
    story = begin("pending 1g:1", dwell=0.0)
    story.serving("llama").then()  # the launcher never told where it came to be
    story.arrives("r1", "other").anyhow()
    story.described("other", 8).then()
    story.passes(601).then("refuse r1: 503 no_capacity", "stop llama: idle for 600 s")
    story.stopped("llama").then()


def test_a_second_server_for_a_model_is_no_reason_for_a_new_node(begin: Begin) -> None:
    story = begin("a 1g:1; pending 1g:1", scale_out_after=10.0).serving("llama", busy=1)
    story.arrives("r1", "llama").then()
    story.passes(60).then()


def test_the_plan_says_that_a_node_must_come(begin: Begin) -> None:
    story = begin("a 1g:1-1; pending 1g:1")
    plan = views.plan(story.fleet.book, model("llama"), profile(8), story.now)
    assert (plan.decision, plan.node, plan.expected_seconds) == ("launch", PENDING, None)
    assert plan.why == "No slice that fits is free. A node with one may come for it."
