"""Random histories: whatever happens, in whatever order, the fleet keeps its promises and forgets nobody.

Hypothesis plays callers, hub, launcher, operators and the clock. The default profile is quick; ``HYPOTHESIS_PROFILE=ci``
makes more than 10⁵ steps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.core.referee import Referee
from tests.core.support import SLICES, model, profile

from ssis_dispatcher.core import views
from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core.messages import (
    AnyCommand,
    AnyEvent,
    CallerLimits,
    Describe,
    DrainBegan,
    Failure,
    FailureKind,
    InventoryChanged,
    Launch,
    Model,
    ModelDescribed,
    ModelForgotten,
    ModelPinned,
    ModelRejected,
    Refuse,
    RequestArrived,
    RequestGone,
    Seat,
    ServerAdopted,
    ServerFailed,
    ServerPlaced,
    ServerProgressed,
    ServerReady,
    ServerStopped,
    Stop,
    StopAsked,
    TimePassed,
    decode,
)
from ssis_dispatcher.core.policy import Policy
from ssis_dispatcher.core.sizing import Profile
from ssis_dispatcher.core.slices import Pool, SliceKind
from ssis_dispatcher.errors import Problem

T = TypeVar("T")

POLICY = Policy(
    waiting_per_model=6,
    waiting_total=16,
    waiting_bytes=2_000,
    waiting_bytes_per_model=1_000,
    slices_per_caller=5,
    launches_per_minute=20,
    servers_per_model=3,
    overtakes=2,
    keep_alive=200.0,
)
KNOWN: dict[Model, Profile] = {
    model("tiny"): profile(4, seats=2),
    model("small"): profile(8, seats=1, start=90.0),
    model("medium"): profile(15, seats=2, keep_alive=20.0),
    model("large"): profile(30, seats=1, max_servers=1),
    model("unknown"): profile(None, seats=3),
    model("joined"): profile(120, seats=2),
    model("huge"): profile(250, seats=1),
    model("whole"): profile(60, seats=1, kinds=(SliceKind.GPU,)),
    model("kept"): profile(4, seats=1, pinned=True),
    model("endless"): profile(10_000),
}
MODELS = list(KNOWN)
CALLERS: list[tuple[str, CallerLimits | None]] = [
    ("alice", None),
    ("bob", None),
    ("carol", CallerLimits(slices=2, launches_per_minute=6)),
    ("dave", CallerLimits(kinds=(SliceKind.MIG,))),
]
NODES = ("a", "b", "c")
INVENTORIES: list[dict[str, tuple[int, ...]]] = [
    {"1g": (2, 0, 0), "gpu": (4, 0, 0)},
    {"1g": (2, 1, 0), "2g": (1, 0, 0), "gpu": (4, 2, 0)},
    {"1g": (0, 2, 1), "3g": (0, 1, 0), "gpu": (2, 4, 1)},
    {"mps": (2, 0, 0)},
    {"2g": (1, 1, 1)},
    {},
]

index = st.integers(0, 11)
seconds = st.sampled_from([0.0, 0.4, 1.0, 7.0, 31.0, 61.0, 130.0, 700.0])


def inventory(number: int, taken: int, other_size: bool) -> tuple[Pool, ...]:
    """One of `INVENTORIES`. ``other_size``: what is called 1g is smaller than before."""
    pools = []
    for short, totals in INVENTORIES[number % len(INVENTORIES)].items():
        slice = SLICES[short]
        if other_size and short == "1g":
            slice = msgspec.structs.replace(slice, memory_mib=9_856, source="label")
        pools += [
            Pool(node, slice, total, taken if node == "a" else 0)
            for node, total in zip(NODES, totals, strict=True)
            if total
        ]
    return tuple(pools)


def pick(things: Sequence[T], number: int) -> T | None:
    return things[number % len(things)] if things else None


class World(RuleBasedStateMachine):
    """Everything around one fleet."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(POLICY)
        self.referee = Referee(self.fleet)
        self.now = 0.0
        self.requests = 0

    def tell(self, event: AnyEvent) -> list[AnyCommand]:
        return self.referee.handle(event, self.now)

    def servers(self, *states: str) -> list[str]:
        return [id for id, (_, state) in self.referee.servers.items() if state in states]

    @initialize(number=index)
    def begin(self, number: int) -> None:
        if number % 4:
            self.tell(InventoryChanged("launcher", inventory(number % 3, 0, False)))

    # Callers

    @rule(
        number=index,
        who=index,
        size=st.sampled_from([100, 100, 400]),
        patience=st.sampled_from([None, None, 5.0, 60.0]),
    )
    def arrives(self, number: int, who: int, size: int, patience: float | None) -> None:
        self.ask(MODELS[number % len(MODELS)], who, size, patience)

    @rule(number=index, who=index, many=st.integers(2, 6))
    def crowd_arrives(self, number: int, who: int, many: int) -> None:
        for each in range(many):
            self.ask(MODELS[number % len(MODELS)], who * (each % 2), 100, None)

    def ask(self, model: Model, who: int, size: int, patience: float | None) -> None:
        self.requests += 1
        caller, limits = CALLERS[who % len(CALLERS)]
        known = self.fleet.book.models.get(model.key)
        asked_before = model.key in self.referee.describing
        what = KNOWN[model] if known is None or known.profile is None else known.profile
        plan = views.plan(self.fleet.book, model, what, self.now)
        commands = self.tell(RequestArrived(f"r{self.requests}", self.requests, model, caller, size, patience, limits))
        if any(isinstance(command, Describe) for command in commands):
            commands += self.tell(ModelDescribed("hub", model, what))
        if not asked_before:
            check_plan(plan, self.requests, commands, size, limits)

    @rule(number=index)
    def reply_ends(self, number: int) -> None:
        request = pick(list(self.referee.seated), number)
        if request is not None:
            self.tell(RequestGone("caller", request))

    @rule(number=index)
    def caller_leaves(self, number: int) -> None:
        request = pick(list(self.referee.waiting), number)
        if request is not None:
            self.tell(RequestGone("caller", request))

    @rule()
    def all_replies_end(self) -> None:
        for request in list(self.referee.seated):
            self.tell(RequestGone("caller", request))

    # The hub

    @rule(number=index, rejected=st.booleans())
    def hub_answers(self, number: int, rejected: bool) -> None:
        asked = pick(list(self.referee.describing.values()), number)
        if asked is None:
            return
        if rejected:
            self.tell(ModelRejected("hub", asked.model, Problem(404, "model_not_found", "It is not there.")))
        else:
            self.tell(ModelDescribed("hub", asked.model, KNOWN[asked.model]))

    @rule(number=index)
    def catalogue_changes(self, number: int) -> None:
        self.tell(ModelForgotten("operator", MODELS[number % len(MODELS)].key))

    # The launcher

    @rule(number=index, seats=st.sampled_from([None, None, 1, 4]))
    def server_is_ready(self, number: int, seats: int | None) -> None:
        server = pick(self.servers("starting"), number)
        if server is not None:
            self.tell(ServerReady("launcher", server, "127.0.0.1:1", seats))

    @rule(number=index, kind=st.sampled_from(list(FailureKind)), starting=st.booleans())
    def server_fails(self, number: int, kind: FailureKind, starting: bool) -> None:
        server = pick(self.servers("starting") if starting else self.servers("starting", "ready", "stopping"), number)
        if server is not None:
            self.tell(ServerFailed("launcher", server, Failure(kind, "it broke")))

    @rule(number=index)
    def server_stops(self, number: int) -> None:
        server = pick(self.servers("stopping"), number)
        if server is not None:
            self.tell(ServerStopped("launcher", server))

    @rule(number=index, phase=st.sampled_from(["downloading", "loading"]))
    def server_progresses(self, number: int, phase: str) -> None:
        server = pick(self.servers("starting"), number)
        if server is not None:
            self.tell(ServerProgressed("launcher", server, phase, "half"))

    @rule(number=index, node=st.sampled_from(NODES))
    def server_is_placed(self, number: int, node: str) -> None:
        server = pick(self.servers("starting", "stopping"), number)
        if server is not None:
            self.tell(ServerPlaced("launcher", server, node))

    @rule(number=index, slice=st.sampled_from(["1g", "gpu"]), starting=st.booleans())
    def server_is_found(self, number: int, slice: str, starting: bool) -> None:
        found = MODELS[number % 5]
        if any(id.startswith("found") for id in self.referee.servers):
            return  # two are more than a platform has room for, and nobody but the platform would see to that
        bin = self.fleet.book.stock.named(NODES[number % 3], SLICES[slice].name)
        if bin is None or bin.free < 1 or self.referee.draining:
            return
        address = None if starting else "127.0.0.1:1"
        event = ServerAdopted(
            "launcher",
            f"found{len(self.referee.history)}",
            found,
            KNOWN[found],
            SLICES[slice].name,
            bin.node,
            1,
            1,
            address,
        )
        self.tell(event)

    @rule(number=index, taken=st.sampled_from([0, 0, 1]), other_size=st.booleans())
    def inventory_changes(self, number: int, taken: int, other_size: bool) -> None:
        self.tell(InventoryChanged("launcher", inventory(number, taken, other_size)))

    @rule()
    def nonsense_is_reported(self) -> None:
        """Words about servers and models that nobody knows change nothing."""
        failure = Failure(FailureKind.CRASHED, "never heard of")
        for event in (
            ServerReady("launcher", "nobody", "127.0.0.1:1"),
            ServerFailed("launcher", "nobody", failure),
            ServerStopped("launcher", "nobody"),
            ServerProgressed("launcher", "nobody", "loading"),
            ServerPlaced("launcher", "nobody", "a"),
            StopAsked("operator", "nobody"),
            ModelDescribed("hub", model("nobody"), profile(1)),
            ModelRejected("hub", model("nobody"), Problem(404, "x", "x")),
            ModelForgotten("operator", "nobody"),
            RequestGone("caller", 10**9),
        ):
            self.referee.answered.discard(10**9)
            assert not self.tell(event)

    # Operators

    @rule(number=index)
    def operator_stops(self, number: int) -> None:
        server = pick(list(self.referee.servers), number)
        if server is not None:
            self.tell(StopAsked("operator", server))

    @rule(number=index, pinned=st.booleans())
    def operator_pins(self, number: int, pinned: bool) -> None:
        self.tell(ModelPinned("operator", MODELS[number % len(MODELS)], pinned))

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

    @rule(passed=st.floats(0.0, 3.0))
    def a_moment_passes(self, passed: float) -> None:
        """Less than the alarm waits for, or a little more: the alarm may ring late."""
        self.now += passed

    # The end

    def teardown(self) -> None:
        self.let_everything_finish()
        self.let_everything_go()
        self.tell(DrainBegan("operator"))
        self.replay()
        World.steps += len(self.referee.history)

    def let_everything_finish(self) -> None:
        """Hub, launcher and clock do their work: whoever waits gets an answer."""
        self.tell(InventoryChanged("launcher", inventory(1, 0, False)))
        for _ in range(400):
            if not (self.referee.waiting or self.referee.seated):
                return
            self.everybody_works()
        raise AssertionError(f"somebody waits for ever: {self.fleet}")

    def let_everything_go(self) -> None:
        """When nobody asks for anything, every slice goes back and nothing is remembered."""
        for _ in range(400):
            for each in MODELS:
                self.tell(ModelPinned("operator", each, False))
            if self.referee.wake_at is None and not (self.referee.servers or self.referee.describing):
                break
            self.everybody_works()
        book = self.fleet.book
        assert not book.servers
        assert not book.models, book.models
        assert not len(book.timers)
        assert not any(caller.held or caller.wanted or caller.ties for caller in book.callers.values())

    def everybody_works(self) -> None:
        for asked in list(self.referee.describing.values()):
            self.tell(ModelDescribed("hub", asked.model, KNOWN[asked.model]))
        for server in self.servers("starting"):
            self.tell(ServerReady("launcher", server, "127.0.0.1:1"))
        for request in list(self.referee.seated):
            self.tell(RequestGone("caller", request))
        for server in self.servers("stopping"):
            self.tell(ServerStopped("launcher", server))
        self.alarm_rings()

    def replay(self) -> None:
        """The history as it was written down gives the same commands and the same book."""
        again = Fleet(POLICY)
        for event, commands in self.referee.history:
            recorded = decode(event)
            assert msgspec.json.encode(again.handle(recorded.event, recorded.now)) == commands
        assert again.statistics(self.now) == self.fleet.statistics(self.now)


def check_plan(
    plan: views.Plan, request: int, commands: list[AnyCommand], size: int, limits: CallerLimits | None
) -> None:
    """What was planned for a request is what then happened to it, but for what only its caller's limits forbid."""
    refused = next((c.problem for c in commands if isinstance(c, Refuse) and c.request == request), None)
    launch = next((c for c in commands if isinstance(c, Launch)), None)
    stops = tuple(c.server for c in commands if isinstance(c, Stop))
    if refused is not None and refused.code in ("slice_limit", "launch_limit", "slice_kind_not_allowed"):
        return
    if refused is not None and refused.code == "waiting_room_full" and size > 0 and plan.decision != "refuse":
        return  # by its bytes, which no plan knows
    if limits is not None and (limits.kinds or limits.slices):
        return
    seated = any(isinstance(c, Seat) and c.request == request for c in commands)
    assert seated == (plan.decision == "seat"), plan
    assert (refused is not None) == (plan.decision == "refuse"), plan
    assert (launch is not None) == (plan.decision == "launch"), plan
    assert stops == plan.evicts, plan
    if launch is not None:
        assert (launch.pool.slice.name, launch.pool.node) == (plan.slice, plan.node)
        assert (launch.count, launch.seats, launch.context) == (plan.count, plan.seats, plan.context)


_QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
settings.register_profile("core-quick", max_examples=60, stateful_step_count=60, deadline=None, print_blob=True)
settings.register_profile("core-ci", max_examples=1000, stateful_step_count=100, deadline=None, print_blob=True)

World.TestCase.settings = settings(
    settings.get_profile("core-ci" if os.environ.get("HYPOTHESIS_PROFILE") == "ci" else "core-quick"),
    suppress_health_check=_QUIET,
)
TestWorld = World.TestCase
