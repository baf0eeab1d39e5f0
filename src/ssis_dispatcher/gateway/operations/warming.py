"""Models that are started before somebody asks them: requests that want a seat and leave as soon as they have it."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from itertools import count

from ssis_dispatcher.core.messages import CallerLimits, Model
from ssis_dispatcher.dispatcher import Dispatcher, Endpoint, Visit
from ssis_dispatcher.errors import DispatchError, Problem
from ssis_dispatcher.gateway.limits import Key

_REMEMBERED = 256
"""Ends that can still be asked for."""


class Warmings:
    """Those under way, by request id, and what came of the last ones."""

    def __init__(self) -> None:
        self._prefix = f"warm-{secrets.token_hex(4)}-"
        self._numbers = count(1)
        self._waiting: dict[str, _Warming] = {}
        self._over: OrderedDict[str, tuple[str, Endpoint | Problem]] = OrderedDict()

    def begin(self, dispatcher: Dispatcher, model: Model, caller: str, limits: CallerLimits | None) -> str:
        """Ask for a seat; the id under which it can be followed. Raises `DispatchError` when it is refused at once."""
        id = f"{self._prefix}{next(self._numbers)}"
        guest = self._waiting[id] = _Warming(self, id, caller)
        dispatcher.enter(guest, model, caller, 0, id, limits=limits)
        _, problem = self._over.get(id, ("", None))
        if isinstance(problem, Problem):
            del self._over[id]
            raise DispatchError.of(problem)
        return id

    def number(self, id: str, key: Key) -> int | None:
        """The visit behind a request id; None when it is none of these, or over, or not for this key to see."""
        guest = self._waiting.get(id)
        return guest.visit.number if guest is not None and key.may_see(guest.caller) else None

    def end(self, id: str, key: Key) -> Endpoint | Problem | None:
        """The server that is ready, or why there is none; None when it is none of these, or not over, or over for long, or
        not for this key to see."""
        caller, end = self._over.get(id, ("", None))
        return end if key.may_see(caller) else None

    def ended(self, id: str, end: Endpoint | Problem) -> None:
        """For the guests: one of them has what it wanted, or will not have it."""
        guest = self._waiting.pop(id)
        guest.visit.leave()
        self._over[id] = guest.caller, end
        if len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)


class _Warming:
    """The guest of one warming."""

    visit: Visit

    def __init__(self, warmings: Warmings, id: str, caller: str) -> None:
        self._warmings = warmings
        self._id = id
        self.caller = caller

    def seated(self, endpoint: Endpoint) -> None:
        self._warmings.ended(self._id, endpoint)

    def refused(self, problem: Problem) -> None:
        self._warmings.ended(self._id, problem)
