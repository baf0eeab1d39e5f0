"""The state that the fleet's three rooms share, and nothing that decides."""

from __future__ import annotations

from ssis_dispatcher.core.callers import Caller
from ssis_dispatcher.core.messages import AnyCommand, Refuse
from ssis_dispatcher.core.policy import Policy
from ssis_dispatcher.core.servers import Server
from ssis_dispatcher.core.shelves import Stock
from ssis_dispatcher.core.states import ModelState
from ssis_dispatcher.core.timers import Timers
from ssis_dispatcher.errors import Problem


class Book:
    """Everything the fleet knows. The containers are never replaced, so that the rooms may keep them.

    ``waiting`` finds the line of a waiting request, ``seated`` the server of a seated one; ``out`` collects the commands
    of the event at hand.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.stock = Stock()
        self.models: dict[str, ModelState] = {}
        self.servers: dict[str, Server] = {}
        self.waiting: dict[int, ModelState] = {}
        self.waiting_bytes = 0
        self.seated: dict[int, Server] = {}
        self.callers: dict[str, Caller] = {}
        self.timers = Timers()
        self.out: list[AnyCommand] = []
        self.draining = False
        self.launches = self.evictions = self.failures = self.refusals = self.seatings = 0
        self._order = 0

    def next_order(self) -> int:
        self._order += 1
        return self._order

    def refuse(self, request: int, cause: str, problem: Problem) -> None:
        self.refusals += 1
        self.out.append(Refuse(cause, request, problem))

    def forget_if_empty(self, state: ModelState, now: float) -> None:
        """Drop a model of which there is nothing to keep, so that a million names cost nothing."""
        if not (state.line or state.servers or state.describing or state.pinned or now < state.pause_until):
            self.models.pop(state.model.key, None)

    def caller(self, name: str, now: float) -> Caller:
        """This caller's account, made if it is new; settled ones are dropped when there are many."""
        caller = self.callers.get(name)
        if caller is None:
            if len(self.callers) >= 2 * len(self.servers) + 1_000:
                self._sweep_callers(now)
            caller = self.callers[name] = Caller(name, now, self.policy.launches_per_minute)
        return caller

    def _sweep_callers(self, now: float) -> None:
        per_minute = self.policy.launches_per_minute
        owners = {server.owner.name for server in self.servers.values() if server.owner}
        for name, caller in list(self.callers.items()):
            if name not in owners and caller.settled(now, per_minute):
                del self.callers[name]

    def over_limit(self, caller: Caller, now: float) -> Problem | None:
        """Take one launch from the caller's account, or say why not."""
        policy = self.policy
        if caller.held >= policy.slices_per_caller:
            message = f"{caller.held} slices work for this caller, the most it may hold at once."
            return Problem(429, "slice_limit", message, retry_after=10.0)
        wait = caller.take_launch(now, policy.launches_per_minute)
        if wait:
            message = f"This caller may start {policy.launches_per_minute} models a minute."
            return Problem(429, "launch_limit", message, retry_after=wait)
        return None
