"""Servers that run already, and hands that are tied: what a fleet does not do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.core.support import SLICES, Story, model, pools, profile

from ssis_dispatcher.core import views
from ssis_dispatcher.core.messages import InventoryChanged, ServerAdopted
from ssis_dispatcher.core.servers import server_name

Begin = Callable[..., Story]


# Found again after a restart


def test_servers_that_are_found_are_known_before_anything_is_launched(begin: Begin) -> None:
    story = begin()
    story.arrives("r1", "llama").then("describe llama")
    story.described("llama", 8).then()
    story.adopted("llama", "1g", "a").then()
    story.inventory("a 1g:2").then("seat r1 at llama")


def test_one_that_was_still_starting_is_waited_for(begin: Begin) -> None:
    story = begin()
    story.arrives("r1", "llama").then("describe llama")
    story.adopted("llama", "1g", "a", starting=True).then()
    story.inventory("a 1g:2").then()
    story.described("llama", 8).then()
    story.ready("llama").then("seat r1 at llama")


def test_who_asks_for_a_server_that_was_found_gets_it(begin: Begin) -> None:
    story = begin().adopted("llama", "1g", "a", seats=2).inventory("a 1g:2").then()
    story.arrives("r1", "llama").then("seat r1 at llama")


def test_a_found_server_keeps_its_name_and_the_next_gets_another(begin: Begin) -> None:
    name = server_name(model("llama"), 0)
    story = begin(scale_out_after=10.0).adopted("llama", "1g", "a", id=name).inventory("a 1g:2").then()
    story.arrives("r1", "llama").then("seat r1 at llama")
    story.arrives("r2", "llama").then()
    story.passes(11).then("launch llama/1 on 1g@a")


def test_what_is_learned_before_the_inventory_is_known_counts(begin: Begin) -> None:
    story = begin()
    story.adopted("gone", "1g", "a").adopted("moved", "1g", "a", starting=True).adopted("stopped", "1g", "a").then()
    story.failed("gone", "lost").stopped("stopped").placed("moved", "b").ready("moved", 3).then()
    story.inventory("a 1g:2; b 1g:1").then()
    (server,) = story.fleet.book.servers.values()
    assert (server.model.model.id, server.bin.node, server.seats, server.state) == ("moved", "b", 3, "ready")


def test_a_server_on_a_node_that_takes_no_more_is_kept_and_used(begin: Begin) -> None:
    story = begin().adopted("llama", "1g", "cordoned").inventory("a 1g:1").then()
    story.arrives("r1", "llama").then("seat r1 at llama")
    story.inventory("a 1g:1; cordoned 1g:1").then()
    assert story.fleet.book.stock.shelves[SLICES["1g"]].bins["cordoned"].free == 0


def test_what_was_kept_for_a_found_server_alone_goes_after_it(begin: Begin) -> None:
    """Also where only news are told, and they are of other nodes."""
    story = begin().adopted("llama", "1g", "cordoned").inventory("a 1g:1").then()
    story.failed("llama", "lost").then()
    story.tell(InventoryChanged("launcher", pools("a 1g:2"), (), ("a",))).then()
    stock = story.fleet.book.stock
    assert list(stock.racks) == list(stock.shelves[SLICES["1g"]].bins) == ["a"]


def test_a_server_on_slices_of_which_nobody_knows_what_they_are_is_left_alone(begin: Begin) -> None:
    story = begin("a 1g:1").adopted("llama", "example.com/big", "a").then()
    assert not story.fleet.book.servers


def test_a_found_server_that_nobody_uses_goes_like_any_other(begin: Begin) -> None:
    story = begin(keep_alive=60.0).adopted("llama", "1g", "a").inventory("a 1g:1").then()
    story.passes(61).then("stop llama: idle for 60 s")
    story.stopped("llama").then()


def test_the_same_server_is_found_once(begin: Begin) -> None:
    story = begin("a 1g:2").adopted("llama", "1g", "a", id="x").then()
    again = ServerAdopted("launcher", "x", model("llama"), profile(8), SLICES["1g"].name, "a", 1, 1, "127.0.0.1:1")
    story.tell(again).then()
    assert story.fleet.book.stock.shelves[SLICES["1g"]].bins["a"].free == 1


# Hands that are tied


def test_while_the_platform_cannot_be_reached_ready_servers_are_used(begin: Begin) -> None:
    story = begin("a 1g:2").serving("llama", seats=1).hands_tied()
    story.arrives("r1", "llama").then("seat r1 at llama")
    story.arrives("r2", "llama").then()
    story.gone("r1").then("seat r2 at llama")


def test_nothing_is_launched_until_it_can_be(begin: Begin) -> None:
    story = begin("a 1g:2").hands_tied()
    story.arrives("r1", "llama").then("describe llama")
    story.described("llama", 8).then()
    assert views.lines(story.fleet.book, story.now)[0].why == (
        "The platform cannot be reached now: nothing is started until it can."
    )
    plan = views.plan(story.fleet.book, model("other"), profile(8), story.now)
    assert (plan.decision, plan.why) == ("wait", views.lines(story.fleet.book, story.now)[0].why)
    assert story.fleet.statistics(story.now).tied
    story.hands_tied(False).then("launch llama on 1g@a")


def test_who_waits_too_long_meanwhile_is_told_so(begin: Begin) -> None:
    story = begin("a 1g:2", slice_wait=120.0).hands_tied()
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then()
    story.passes(121).then("refuse r1: 503 no_capacity")
    assert "cannot be reached" in story.why("r1")
    story.hands_tied(False).then()


def test_what_can_never_run_is_refused_all_the_same(begin: Begin) -> None:
    story = begin("a 1g:2").hands_tied()
    story.arrives("r1", "huge").anyhow()
    story.described("huge", 100).then("refuse r1: 422 model_does_not_fit")


def test_nobody_is_evicted_until_it_can_be(begin: Begin) -> None:
    story = begin("a 1g:1", dwell=0.0).serving("idle").hands_tied()
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then()
    story.hands_tied(False).then("stop idle: evicted for llama")
    story.stopped("idle").then("launch llama on 1g@a")


def test_a_keep_alive_that_ends_meanwhile_is_kept_to_afterwards(begin: Begin) -> None:
    story = begin("a 1g:2", keep_alive=60.0).serving("llama").serving("other").hands_tied()
    story.passes(100).then()
    story.arrives("r1", "other").then("seat r1 at other")
    story.hands_tied(False).then("stop llama: idle for 100 s")
    story.stopped("llama").then()


def test_a_launch_that_waits_takes_what_goes_anyhow(begin: Begin) -> None:
    story = begin("a 1g:2", keep_alive=60.0, dwell=0.0).serving("cheap", start=1).passes(1)
    story.serving("overdue", start=900, keep_alive=30.0).hands_tied().passes(40)
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then()
    story.hands_tied(False).then("stop overdue: idle for 40 s")
    story.stopped("overdue").then("launch llama on 1g@a")


def test_a_start_that_nobody_can_see_is_not_given_up_but_its_callers_are_told(begin: Begin) -> None:
    story = begin("a 1g:1", start_wait=120.0)
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then("launch llama on 1g@a")
    story.hands_tied().passes(121).then("refuse r1: 503 platform_unreachable")
    story.arrives("r2", "llama").then()
    story.hands_tied(False).then()
    story.ready("llama").then("seat r2 at llama")


def test_a_start_that_is_overdue_afterwards_is_given_up(begin: Begin) -> None:
    story = begin("a 1g:1", start_wait=120.0)
    story.arrives("r1", "llama").anyhow()
    story.described("llama", 8).then("launch llama on 1g@a")
    story.hands_tied().passes(130).anyhow()
    story.hands_tied(False).passes(120).then("stop llama: start timed out")
    story.stopped("llama").then()


def test_an_operator_may_still_ask_for_a_stop(begin: Begin) -> None:
    story = begin("a 1g:1").serving("llama").hands_tied()
    story.stop_asked("llama").then("stop llama: asked by an operator")
    story.stopped("llama").then()


def test_a_server_that_is_lost_is_not_replaced_until_it_can_be(begin: Begin) -> None:
    story = begin("a 1g:1").serving("llama", busy=1).hands_tied()
    story.arrives("r1", "llama").then()
    story.failed("llama", "lost").then()
    story.gone("llama-1").then()
    story.hands_tied(False).then("launch llama on 1g@a")


def test_a_long_line_gets_its_second_server_afterwards(begin: Begin) -> None:
    story = begin("a 1g:2", scale_out_after=10.0).serving("llama", busy=1).hands_tied()
    story.arrives("r1", "llama").then()
    story.passes(30).then()
    story.hands_tied(False).passes(10).then("launch llama/1 on 1g@a")


@pytest.mark.parametrize("tied", [True, False])
def test_to_be_told_twice_changes_nothing(begin: Begin, tied: bool) -> None:
    begin("a 1g:1").hands_tied(tied).then().hands_tied(tied).then()


def test_a_server_that_somebody_gave_another_slice_is_counted_there(begin: Begin) -> None:
    story = begin("a 1g:1 2g:1").serving("llama", busy=1)
    story.arrives("r1", "other").anyhow()
    story.described("other", 8).then("launch other on 2g@a")
    bins = story.fleet.book.stock.racks["a"].bins
    story.placed("llama", "a", "2g").then()
    assert (bins[SLICES["1g"]].free, bins[SLICES["2g"]].free) == (1, -1)
    story.arrives("r2", "third").anyhow()
    story.described("third", 8).then("launch third on 1g@a")
    story.placed("llama", "a", "nobody.knows/this").then()
    assert story.fleet.book.servers[story.id("llama")].bin.shelf.slice == SLICES["2g"]
