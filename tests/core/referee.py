"""A second opinion on the fleet: sees only what goes in and what comes out, and holds it to its promises.

Each request is answered exactly once; seats are given at servers that can answer, and given back; nothing busy is stopped;
no two launches serve one need; callers take turns; whoever waits for a slice is overtaken so often and no more.
"""

from __future__ import annotations

from collections import Counter

import msgspec
from tests.core.invariants import check_invariants, check_launches

from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core.messages import (
    AnyCommand,
    AnyEvent,
    Describe,
    DrainBegan,
    HandsTied,
    InventoryChanged,
    Launch,
    ModelDescribed,
    ModelRejected,
    Recorded,
    Refuse,
    Remember,
    RequestArrived,
    RequestGone,
    Seat,
    ServerAdopted,
    ServerFailed,
    ServerReady,
    ServerStopped,
    Stop,
    WakeAt,
    encode,
)
from ssis_dispatcher.core.slices import Slice
from ssis_dispatcher.core.states import Need


class Referee:
    """Hands events to ``fleet`` and keeps the score.

    ``waiting`` are requests without an answer and ``seated`` those at a server, by number; ``servers`` what is known to
    run, by id: its model's key and where it is in its life; ``describing`` the models about which it was asked; ``told`` how
    many events there were of each kind; ``history`` every event and its commands, as they are written down.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.history: list[tuple[bytes, bytes]] = []
        self.wake_at: float | None = None
        self.draining = False
        self.told: Counter[str] = Counter()
        self.tied = False
        self.known = False
        self.waiting: dict[int, tuple[str, str]] = {}
        self.seated: dict[int, str] = {}
        self.answered: set[int] = set()
        self.servers: dict[str, tuple[str, str]] = {}
        self.describing: dict[str, Describe] = {}
        self.seats: dict[str, set[int]] = {}
        self._turns: dict[tuple[str, str], Counter[str]] = {}
        self._passed: Counter[Need] = Counter()

    def handle(self, event: AnyEvent, now: float) -> list[AnyCommand]:
        """Let the fleet handle ``event``; AssertionError where it breaks a promise."""
        before = self._queue()
        self.told[type(event).__name__] += 1
        self._heard(event)
        commands = list(self.fleet.handle(event, now))
        self.history.append((encode(Recorded(now, event)), msgspec.json.encode(commands)))
        for command in commands:
            self._said(command, now)
        if not isinstance(event, InventoryChanged):
            self._count_passed(before, commands)
        if self.draining:
            assert not self.waiting
        check_invariants(self.fleet)
        check_launches(self.fleet, commands)
        assert self.waiting.keys() == self.fleet.book.waiting.keys()
        if self.known:
            assert self.servers.keys() == self.fleet.book.servers.keys()
        assert self.seated == {number: server.id for number, server in self.fleet.book.seated.items()}
        return commands

    # What goes in

    def _heard(self, event: AnyEvent) -> None:
        match event:
            case RequestArrived(request=request, model=model, caller=caller):
                self.waiting[request] = model.key, caller
            case RequestGone(request=request):
                self._left(request)
                self.answered.add(request)
                server = self.seated.pop(request, "")
                self.seats.get(server, set()).discard(request)
            case ModelDescribed(model=model) | ModelRejected(model=model):
                self.describing.pop(model.key, None)
            case ServerReady(server=server) if server in self.servers and self.servers[server][1] == "starting":
                self.servers[server] = self.servers[server][0], "ready"
            case ServerFailed(server=server) | ServerStopped(server=server):
                self.servers.pop(server, None)
                self.seats.pop(server, None)
            case ServerAdopted(server=server, model=model, slice=slice, address=address) if server not in self.servers:
                if slice == "nothing":
                    return  # of which nobody knows what it is
                self.servers[server] = model.key, "starting" if address is None else "ready"
            case DrainBegan():
                self.draining = True
            case HandsTied(tied=tied):
                self.tied = tied
            case InventoryChanged():
                self.known = True

    def _left(self, request: int) -> None:
        """A request waits no more. A caller of whom none waits any more begins anew."""
        place = self.waiting.pop(request, None)
        if place is not None and place not in self.waiting.values():
            self._turns.pop(place, None)

    # What comes out

    def _said(self, command: AnyCommand, now: float) -> None:
        match command:
            case Seat(request=request, server=server):
                self._seat(request, server)
            case Refuse(request=request, problem=problem):
                assert request in self.waiting, f"request {request} was refused after its answer"
                assert problem.status >= 400
                assert problem.message
                assert problem.retry_after is None or problem.retry_after > 0
                self._left(request)
                self.answered.add(request)
            case Describe(model=model):
                assert model.key not in self.describing, f"{model.id} is looked up twice at once"
                self.describing[model.key] = command
            case Launch():
                self._launch(command)
            case Stop(server=server, why=why):
                assert not self.tied or why == "asked by an operator", f"{server} was stopped with tied hands: {why}"
                key, state = self.servers[server]
                assert state in ("starting", "ready"), f"{server} was stopped twice"
                assert not self.seats.get(server), f"{server} was stopped while it works"
                self.servers[server] = key, "stopping"
            case WakeAt(when=when):
                self.wake_at = when
            case Remember(outcome=outcome, seconds=seconds):
                assert outcome in ("ready", "out_of_memory")
                assert seconds >= 0

    def _seat(self, request: int, server: str) -> None:
        assert request in self.waiting, f"request {request} was seated after its answer"
        key, caller = self.waiting[request]
        assert self.servers[server] == (key, "ready"), f"request {request} was seated at {self.servers.get(server)}"
        self._take_turn(key, caller)
        self._left(request)
        self.answered.add(request)
        self.seated[request] = server
        self.seats.setdefault(server, set()).add(request)

    def _take_turn(self, key: str, caller: str) -> None:
        """Of those who wait for one model, nobody gets a second seat before everybody has got one."""
        for other_key, other in set(self.waiting.values()):
            if other_key == key and other != caller:
                turns = self._turns.setdefault((key, other), Counter())
                turns[caller] += 1
                assert turns[caller] <= 1, f"{caller} got two seats while {other} waited"
        self._turns.pop((key, caller), None)

    def _launch(self, launch: Launch) -> None:
        assert not self.draining
        assert not self.tied
        assert self.known
        assert launch.server not in self.servers, f"{launch.server} was launched while it was there"
        key = launch.model.key
        others = [state for other, state in self.servers.values() if other == key]
        assert "starting" not in others, f"{launch.model.id} was launched twice for one need"
        assert any(waits == key for waits, _ in self.waiting.values()), f"{launch.model.id} was launched for nobody"
        assert launch.budget > 0
        self.servers[launch.server] = key, "starting"

    # Who overtook whom

    def _queue(self) -> dict[str, tuple[Need, int, set[Slice]]]:
        """Launches that wait for a slice, by model: their order, and what they could use."""
        return {
            state.model.key: (state.need, state.need.order, {fit.slice for fit, _ in state.need.places})
            for state in self.fleet.book.models.values()
            if state.need is not None and state.need.order
        }

    def _count_passed(self, before: dict[str, tuple[Need, int, set[Slice]]], commands: list[AnyCommand]) -> None:
        launches = {command.model.key: command.pool.slice for command in commands if isinstance(command, Launch)}
        for key, slice in launches.items():
            order = before[key][1] if key in before else float("inf")
            for other, (need, turn, could_use) in before.items():
                waits = need.model.need is need and not need.model.describing  # else it is not known what it waits for
                if turn < order and slice in could_use and waits:
                    self._passed[need] += 1
                    most = self.fleet.book.policy.overtakes
                    assert self._passed[need] <= most, f"{other} was overtaken {self._passed[need]} times"
