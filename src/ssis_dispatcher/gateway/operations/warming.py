"""Models that are started before somebody asks them: requests that want a seat and leave as soon as they have it."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from itertools import count

from ssis_dispatcher.core.messages import CallerLimits, Model
from ssis_dispatcher.dispatcher import Dispatcher, Endpoint, Visit
from ssis_dispatcher.errors import DispatchError, Problem

_REMEMBERED = 256
"""Refusals that can still be asked for."""


class Warmings:
    """Those under way, by request id, and why the last ones came to nothing."""

    def __init__(self) -> None:
        self._prefix = f"warm-{secrets.token_hex(4)}-"
        self._numbers = count(1)
        self._waiting: dict[str, _Warming] = {}
        self._refused: OrderedDict[str, Problem] = OrderedDict()

    def begin(self, dispatcher: Dispatcher, model: Model, caller: str, limits: CallerLimits | None) -> str:
        """Ask for a seat; the id under which it can be followed. Raises `DispatchError` when it is refused at once."""
        id = f"{self._prefix}{next(self._numbers)}"
        guest = self._waiting[id] = _Warming(self, id)
        dispatcher.enter(guest, model, caller, 0, id, limits=limits)
        if (problem := self._refused.pop(id, None)) is not None:
            raise DispatchError.of(problem)
        return id

    def number(self, id: str) -> int | None:
        """The visit behind a request id; None when it is none of these, or over."""
        guest = self._waiting.get(id)
        return guest.visit.number if guest is not None else None

    def refusal(self, id: str) -> Problem | None:
        """Why this one came to nothing; None when it is none of these, or did not."""
        return self._refused.get(id)

    def ended(self, id: str, problem: Problem | None) -> None:
        """For the guests: one of them has what it wanted, or will not have it."""
        self._waiting.pop(id).visit.leave()
        if problem is not None:
            self._refused[id] = problem
            if len(self._refused) > _REMEMBERED:
                self._refused.popitem(last=False)


class _Warming:
    """The guest of one warming."""

    visit: Visit

    def __init__(self, warmings: Warmings, id: str) -> None:
        self._warmings = warmings
        self._id = id

    def seated(self, endpoint: Endpoint) -> None:
        self._warmings.ended(self._id, None)

    def refused(self, problem: Problem) -> None:
        self._warmings.ended(self._id, problem)
