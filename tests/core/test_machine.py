"""Random histories: whatever happens, in whatever order, the fleet keeps its promises and forgets nobody.

Hypothesis plays callers, hub, launcher, operators and the clock; `Referee` watches. It takes 10⁵ steps, about a minute, and
the same ones each time; ``MACHINE_STEPS`` asks for others, each time: 5000 are enough while something is being changed, and
300000 have found what these did not.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, TypeVar, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.core.invariants import check_inventory
from tests.core.referee import Referee
from tests.core.support import SLICES
from tests.core.world import (
    CALLERS,
    KNOWN,
    MODELS,
    NODES,
    NONSENSE,
    POLICY,
    check_plan,
    cluster_hosts,
    inventory,
)

from ssis_dispatcher.core import views
from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core.messages import (
    AnyCommand,
    AnyEvent,
    Describe,
    DrainBegan,
    Failure,
    FailureKind,
    HandsTied,
    InventoryChanged,
    Model,
    ModelDescribed,
    ModelForgotten,
    ModelPinned,
    ModelRejected,
    RequestArrived,
    RequestGone,
    ServerAdopted,
    ServerFailed,
    ServerPlaced,
    ServerProgressed,
    ServerReady,
    ServerStopped,
    StopAsked,
    TimePassed,
    decode,
)
from ssis_dispatcher.core.servers import server_name
from ssis_dispatcher.core.sizing import NOTHING
from ssis_dispatcher.errors import Problem

T = TypeVar("T")

index = st.integers(0, 11)
seconds = st.sampled_from([0.0, 0.4, 1.0, 7.0, 31.0, 61.0, 130.0, 700.0])
sizes = st.sampled_from([100, 100, 100, 1_000])
patience = st.sampled_from([None, None, None, 5.0, 60.0])
failures = st.sampled_from(list(FailureKind))
reports = st.sampled_from(["downloading", "loading", *NODES, *SLICES])
doings = st.sampled_from(["stop", "stop", "pin", "unpin", "unpin", "forget", "drain"])


def pick(things: Sequence[T], number: int) -> T | None:
    return things[number % len(things)] if things else None


class World(RuleBasedStateMachine):
    """Everything around one fleet."""

    taken: ClassVar[Counter[str]] = Counter()
    """Steps, and events by kind, over all histories."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(POLICY)
        self.referee = Referee(self.fleet)
        self.now = 0.0
        self.requests = 0
        World.taken["steps"] -= 1  # the beginning is counted, and is none

    def tell(self, event: AnyEvent) -> list[AnyCommand]:
        return self.referee.handle(event, self.now)

    def servers(self, *states: str) -> list[str]:
        return [id for id, (_, state) in self.referee.servers.items() if state in states]

    @initialize(number=index, limits=index)
    def begin(self, number: int, limits: int) -> None:
        self.inventory: InventoryChanged | None = None
        if number > 1:
            self.tell_inventory(InventoryChanged("launcher", inventory(number % 6), cluster_hosts(limits)))

    def tell_inventory(self, whole: InventoryChanged, *, news: bool = False) -> None:
        """All of it, or what is new in it."""
        self.tell(whole if self.inventory is None or not news else whole.since(self.inventory))
        self.inventory = whole
        check_inventory(self.fleet, whole)

    @invariant()
    def count(self) -> None:
        World.taken["steps"] += 1

    # Callers

    @rule(number=index, who=index, size=sizes, patience=patience, at_once=st.booleans())
    def arrives(self, number: int, who: int, size: int, patience: float | None, at_once: bool) -> None:
        self.ask(MODELS[number % len(MODELS)], who, size, patience, at_once)

    @rule(number=index, who=index, many=st.integers(2, 6))
    def crowd_arrives(self, number: int, who: int, many: int) -> None:
        for each in range(many):
            self.ask(MODELS[number % len(MODELS)], who * (each % 2))

    @rule(number=index)
    def different_ones_arrive(self, number: int) -> None:
        for each in range(number, number + 4):
            self.ask(MODELS[each % 8], number)

    def ask(self, model: Model, who: int, size: int = 100, patience: float | None = None, at_once: bool = True) -> None:
        """One request, and what its model needs when the hub answers ``at_once``."""
        self.requests += 1
        caller, limits = CALLERS[who % len(CALLERS)]
        known = self.fleet.book.models.get(model.key)
        what = KNOWN[model] if known is None or known.profile is None else known.profile
        plan = views.plan(self.fleet.book, model, what, self.now)
        asked_before = model.key in self.referee.describing
        commands = self.tell(RequestArrived(f"r{self.requests}", self.requests, model, caller, size, patience, limits))
        if at_once and any(isinstance(command, Describe) for command in commands):
            commands += self.tell(ModelDescribed("hub", model, what))
        if not asked_before and model.key not in self.referee.describing:
            check_plan(plan, self.requests, commands, size, limits)

    @rule(number=index)
    def reply_ends(self, number: int) -> None:
        request = pick(list(self.referee.seated), number)
        if request is not None:
            self.tell(RequestGone("caller", request))

    @rule()
    def all_replies_end(self) -> None:
        for request in list(self.referee.seated):
            self.tell(RequestGone("caller", request))

    @rule(number=index)
    def caller_leaves(self, number: int) -> None:
        request = pick(list(self.referee.waiting), number)
        if request is not None:
            self.tell(RequestGone("caller", request))

    # The hub

    @rule(number=index)
    def hub_answers(self, number: int) -> None:
        asked = pick(list(self.referee.describing.values()), number)
        if asked is None:
            return
        if number % 4 == 3:
            self.tell(ModelRejected("hub", asked.model, Problem(404, "model_not_found", "It is not there.")))
        else:
            self.tell(ModelDescribed("hub", asked.model, KNOWN[asked.model]))

    # The launcher

    @rule()
    def platform_works(self) -> None:
        """Everything that starts is up, everything that stops is gone."""
        for server in self.servers("starting"):
            self.tell(ServerReady("launcher", server, "127.0.0.1:1"))
        for server in self.servers("stopping"):
            self.tell(ServerStopped("launcher", server))

    @rule(number=index, seats=st.sampled_from([None, None, 1, 4]))
    def server_is_ready(self, number: int, seats: int | None) -> None:
        server = pick(self.servers("starting"), number)
        if server is not None:
            self.tell(ServerReady("launcher", server, "127.0.0.1:1", seats))

    @rule(number=index)
    def server_stops(self, number: int) -> None:
        server = pick(self.servers("stopping"), number)
        if server is not None:
            self.tell(ServerStopped("launcher", server))

    @rule(number=index, kind=failures, starting=st.booleans())
    def server_fails(self, number: int, kind: FailureKind, starting: bool) -> None:
        server = pick(self.servers("starting") if starting else list(self.referee.servers), number)
        if server is not None:
            self.tell(ServerFailed("launcher", server, Failure(kind, "it broke")))

    @rule(number=index, word=reports)
    def server_reports(self, number: int, word: str) -> None:
        server = pick(self.servers("starting", "stopping"), number)
        if server is not None and word in NODES:
            self.tell(ServerPlaced("launcher", server, word))
        elif word in SLICES:
            self.slice_is_changed(pick(list(self.referee.servers), number), word)
        elif server is not None:
            self.tell(ServerProgressed("launcher", server, word, "half"))

    def slice_is_changed(self, server: str | None, slice: str) -> None:
        """By somebody else, at any time; now and then to one of which nobody knows."""
        known = self.fleet.book.servers.get(server or "")
        if server is not None:
            node = NODES[0] if known is None else known.bin.node
            name = "odd" if slice == "mps" and known is not None else SLICES[slice].name
            self.tell(ServerPlaced("launcher", server, node, name))

    @rule(number=index, slice=st.sampled_from(["1g", "gpu"]), starting=st.booleans())
    def server_is_found(self, number: int, slice: str, starting: bool) -> None:
        """On a node that has room, that has none as far as anybody knows, or of which nobody knows."""
        if any(id.startswith("found") for id in self.referee.servers):
            return
        model, address = MODELS[number % 6], None if starting else "127.0.0.1:1"
        own = server_name(model, 0)
        id = own if number % 2 and own not in self.referee.servers else f"found{len(self.referee.history)}"
        node = (*NODES, "elsewhere")[number % 4]
        self.tell(ServerAdopted("launcher", id, model, KNOWN[model], SLICES[slice].name, node, 1, 1, address))

    @rule(number=index, taken=st.sampled_from([0, 0, 1]), other_size=st.booleans(), limits=index, news=st.booleans())
    def inventory_changes(self, number: int, taken: int, other_size: bool, limits: int, news: bool) -> None:
        hosts = cluster_hosts(limits, taken)
        self.tell_inventory(InventoryChanged("launcher", inventory(number, taken, other_size), hosts), news=news)

    @rule(tied=st.sampled_from([True, False, False]))
    def control_plane_goes_or_comes(self, tied: bool) -> None:
        self.tell(HandsTied("launcher", tied))

    @rule(number=index)
    def nonsense_is_reported(self, number: int) -> None:
        event = pick(NONSENSE, number)
        assert event is not None
        assert not self.tell(event)

    # Operators

    @rule(number=index, what=doings)
    def operator_acts(self, number: int, what: str) -> None:
        server, model = pick(list(self.referee.servers), number), MODELS[number % len(MODELS)]
        if what == "stop" and server is not None:
            self.tell(StopAsked("operator", server))
        elif what in ("pin", "unpin"):
            self.tell(ModelPinned("operator", model, what == "pin"))
        elif what == "forget":
            self.tell(ModelForgotten("operator", model.key))
        elif what == "drain" and number > 9:
            self.tell(DrainBegan("operator"))

    # The clock

    @rule()
    def alarm_rings(self) -> None:
        if self.referee.wake_at is not None:
            self.now, self.referee.wake_at = max(self.now, self.referee.wake_at), None
            self.tell(TimePassed("timer"))

    @rule(passed=seconds)
    def alarm_is_late(self, passed: float) -> None:
        self.now += passed
        self.tell(TimePassed("timer"))

    @rule(passed=st.floats(0.0, 8.0))
    def a_moment_passes(self, passed: float) -> None:
        """And if an alarm was due in it, that has yet to ring."""
        self.now += passed

    # The end

    def teardown(self) -> None:
        self.let_everything_finish()
        self.let_everything_go()
        self.replay()
        World.taken.update(self.referee.told)

    def let_everything_finish(self) -> None:
        """Hub, launcher and clock do their work: whoever waits gets an answer."""
        self.tell(HandsTied("launcher", False))
        hosts = cluster_hosts(len(self.referee.history))
        self.tell_inventory(InventoryChanged("launcher", inventory(1), hosts))
        for _ in range(400):
            if not (self.referee.waiting or self.referee.seated):
                return
            self.everybody_works()
        raise AssertionError(f"somebody waits for ever: {self.fleet}")

    def let_everything_go(self) -> None:
        """When nobody asks for anything, every slice goes back and nothing is remembered."""
        for _ in range(400):
            for state in list(self.fleet.book.models.values()):
                if state.pinned:
                    self.tell(ModelPinned("operator", state.model, False))
            if self.referee.wake_at is None and not (self.referee.servers or self.referee.describing):
                break
            self.everybody_works()
        book = self.fleet.book
        assert not book.servers
        assert not book.models
        assert not len(book.timers)
        assert not book.deferred
        assert not book.found
        assert all(rack._asked == NOTHING for rack in book.stock.racks.values())
        assert not any(caller.held or caller.wanted or caller.ties for caller in book.callers.values())

    def everybody_works(self) -> None:
        for asked in list(self.referee.describing.values()):
            self.tell(ModelDescribed("hub", asked.model, KNOWN[asked.model]))
        self.platform_works()
        self.all_replies_end()
        self.alarm_rings()

    def replay(self) -> None:
        """The history as it was written down gives the same commands and the same book."""
        again = Fleet(POLICY)
        for line, commands in self.referee.history:
            recorded = decode(line)
            assert msgspec.json.encode(again.handle(recorded.event, recorded.now)) == commands
        assert again.statistics(self.now) == self.fleet.statistics(self.now)


STEPS = int(os.environ.get("MACHINE_STEPS", "100000"))
MACHINE = settings(
    max_examples=STEPS // 48 + 10,
    stateful_step_count=60,
    deadline=None,
    derandomize="MACHINE_STEPS" not in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
"""Histories of at most 60 steps, a few of them much shorter."""


@pytest.mark.timeout(600)
def test_whatever_happens_the_fleet_keeps_its_promises() -> None:
    World.taken.clear()
    run_state_machine_as_test(World, settings=MACHINE)
    assert World.taken["steps"] >= STEPS
    never = {event.__name__ for event in get_args(AnyEvent)} - World.taken.keys()
    assert not never or STEPS < 100_000, f"these never happened: {never}"
