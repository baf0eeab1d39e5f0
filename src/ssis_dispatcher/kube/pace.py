"""How long to wait before the API server is asked again. Used by `api` and `watch`."""

from __future__ import annotations

import asyncio
import random

LONGEST = 30.0
"""Seconds between two attempts, at most, where the server named no time."""

SHORTEST = 0.25
UNSAID = 1.0
"""Seconds to wait after a 429 that names no time; it is what the API server's own says."""

GAP = 0.25
"""Seconds between two calls while limited: four a second, which leaves one a second to those that must not wait."""

LIMITED_FOR = 10.0
"""Seconds for which a refusal is remembered, from when the server said to come again."""


def backoff(attempt: int) -> float:
    """Seconds before retry number ``attempt`` (from 0): doubling from a quarter second, and never two callers in step."""
    return float(min(LONGEST, SHORTEST * 2 ** min(attempt, 16)) * random.uniform(0.5, 1.0))


def at_least(seconds: float) -> float:
    """No less than the server said, and up to a fifth more, so that those it sent away do not come back together."""
    return seconds * random.uniform(1.0, 1.2)


class Pace:
    """Spaces calls out for as long as the server limits us."""

    def __init__(self) -> None:
        self._limited_until = 0.0
        self._next = 0.0

    def limited(self, retry_after: float) -> None:
        """The server refused a call for being one too many."""
        until = asyncio.get_running_loop().time() + retry_after + LIMITED_FOR
        self._limited_until = max(self._limited_until, until)

    async def turn(self, urgent: bool = False) -> None:
        """Wait until a call may be made: not at all as a rule, nor where it is ``urgent``."""
        now = asyncio.get_running_loop().time()
        if urgent or now >= self._limited_until:
            return
        at = max(now, self._next)
        self._next = at + GAP
        if at > now:
            await asyncio.sleep(at - now)
