"""The state that the fleet's three rooms share, and nothing that decides."""

from __future__ import annotations

from ssis_dispatcher.core.callers import Caller
from ssis_dispatcher.core.messages import AnyCommand, Refuse, ServerAdopted
from ssis_dispatcher.core.policy import Policy
from ssis_dispatcher.core.servers import Server
from ssis_dispatcher.core.shelves import Stock
from ssis_dispatcher.core.states import ModelState
from ssis_dispatcher.core.timers import Due, Timers
from ssis_dispatcher.errors import Problem


class Book:
    """Everything the fleet knows. The containers are never replaced, so that the rooms may keep them.

    ``waiting`` finds the line of a waiting request, ``seated`` the server of a seated one; ``out`` collects the commands
    of the event at hand. ``tied``: nothing may be started or stopped now, and ``deferred`` is looked at when it may be again.
    ``found`` are servers that run already and wait for the inventory to be known.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.stock = Stock(policy.reload_weight)
        self.models: dict[str, ModelState] = {}
        self.servers: dict[str, Server] = {}
        self.waiting: dict[int, ModelState] = {}
        self.waiting_bytes = 0
        self.seated: dict[int, Server] = {}
        self.callers: dict[str, Caller] = {}
        self.timers = Timers()
        self.out: list[AnyCommand] = []
        self.draining = False
        self.tied = False
        self.deferred: list[Due] = []
        self.found: dict[str, ServerAdopted] = {}
        self.launches = self.evictions = self.failures = self.refusals = self.seatings = 0
        self._order = 0
        self._sweep_callers_at = 1_000

    def next_order(self) -> int:
        self._order += 1
        return self._order

    def refuse(self, request: int, cause: str, problem: Problem) -> None:
        self.refusals += 1
        self.out.append(Refuse(cause, request, problem))

    def forget_if_empty(self, state: ModelState, now: float) -> None:
        """Drop a model of which there is nothing to keep, so that a million names cost nothing. A late timer may ask this
        of one that was dropped before, and whose name another now has."""
        if state.line or state.servers or state.describing or state.pinned or now < state.remembered_until:
            return
        if self.models.get(state.model.key) is state:
            del self.models[state.model.key]

    def caller(self, name: str, now: float) -> Caller:
        """This caller's account, made if it is new; settled ones are dropped when there are many."""
        caller = self.callers.get(name)
        if caller is None:
            if len(self.callers) >= self._sweep_callers_at:
                self._sweep_callers(now)
            caller = self.callers[name] = Caller(name, now, self.policy)
        return caller

    def _sweep_callers(self, now: float) -> None:
        for name, caller in list(self.callers.items()):
            if caller.settled(now):
                del self.callers[name]
        self._sweep_callers_at = 2 * len(self.callers) + 1_000
