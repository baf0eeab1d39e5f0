"""U6. More models are wanted than there are slices: who can runs, the others wait their turn or are told, nobody for ever."""

from __future__ import annotations

from collections import defaultdict
from statistics import mean

import pytest
from tests.core.referee import Referee
from tests.core.support import model, pools, profile

from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core.messages import (
    InventoryChanged,
    Launch,
    ModelDescribed,
    Refuse,
    RequestArrived,
    RequestGone,
    Seat,
    ServerReady,
    ServerStopped,
    Stop,
    TimePassed,
)
from ssis_dispatcher.core.policy import Policy

SLICES, STARTS, TENANTS = 7, 50, 5
ROUND = 30.0
"""Seconds that every server takes to start and to answer; then it idles, and may go."""


class Cluster:
    """Seven slices of one node, and a platform on which everything takes its time. The `Referee` checks the whole book after
    every event: nothing is ever handed out twice."""

    def __init__(self, slice_wait: float) -> None:
        self.now = 0.0
        self.referee = Referee(Fleet(Policy(slice_wait=slice_wait, dwell=0.0)))
        self.callers: dict[int, str] = {}
        self.waited: dict[int, float] = {}
        self.refused: dict[int, int] = {}
        self.running = self.most = 0
        self._tell(InventoryChanged("launcher", pools(f"a 1g:{SLICES}")))

    def ask(self, number: int, caller: str) -> None:
        name = model(f"model-{number}")
        self.callers[number] = caller
        self._tell(RequestArrived(f"r{number}", number, name, caller, 100))
        self._tell(ModelDescribed("hub", name, profile(8)))

    def settle(self) -> None:
        """Until nobody waits: every round, what starts is ready, what stops is gone, and what is answered ends."""
        for _ in range(100):
            if not self.referee.waiting and not self.referee.seated:
                return
            self.now += ROUND
            self._tell(TimePassed("timer"))
            for server in [id for id, (_, state) in self.referee.servers.items() if state == "starting"]:
                self._tell(ServerReady("launcher", server, "127.0.0.1:1"))
            for request in list(self.referee.seated):
                self._tell(RequestGone("caller", request))
        raise AssertionError(f"somebody waits for ever: {self.referee.fleet}")

    def _tell(self, event: object) -> None:
        for command in self.referee.handle(event, self.now):  # type: ignore[arg-type]
            match command:
                case Seat(request=request):
                    self.waited[request] = self.now
                case Refuse(request=request, problem=problem):
                    self.refused[request] = problem.status
                case Launch():
                    self.running += 1
                    self.most = max(self.most, self.running)
                case Stop(server=server):
                    self.running -= 1
                    self._tell(ServerStopped("launcher", server))


def test_of_fifty_starts_at_once_seven_run_and_the_others_have_their_turn() -> None:
    cluster = Cluster(slice_wait=10_000.0)
    for number in range(STARTS):
        cluster.ask(number, f"tenant-{number % TENANTS}")
    assert cluster.running == SLICES
    assert len(cluster.referee.waiting) == STARTS
    cluster.settle()
    assert sorted(cluster.waited) == list(range(STARTS))
    assert cluster.most == SLICES


def test_those_who_have_no_turn_in_time_are_told_when_to_come_again() -> None:
    cluster = Cluster(slice_wait=4 * ROUND - 1)
    for number in range(STARTS):
        cluster.ask(number, f"tenant-{number % TENANTS}")
    cluster.settle()
    assert len(cluster.waited) + len(cluster.refused) == STARTS
    assert len(cluster.waited) >= SLICES
    assert set(cluster.refused.values()) == {503}


@pytest.mark.parametrize("hog", [10, 30])
def test_no_tenant_waits_twice_as_long_as_the_mean(hog: int) -> None:
    """However many one of them asks for at once: it asks first, the others after it."""
    cluster = Cluster(slice_wait=10_000.0)
    others = STARTS - hog
    tenants = ["hog"] * hog + [f"tenant-{number % (TENANTS - 1)}" for number in range(others)]
    for number, tenant in enumerate(tenants):
        cluster.ask(number, tenant)
    cluster.settle()
    waits: dict[str, list[float]] = defaultdict(list)
    for request, waited in cluster.waited.items():
        waits[cluster.callers[request]].append(waited)
    assert max(map(mean, waits.values())) <= 2 * mean(cluster.waited.values())
    assert max(cluster.waited.values()) <= 2 * mean(cluster.waited.values())
