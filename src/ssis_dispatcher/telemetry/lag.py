"""Measures how late the event loop runs: the one number that shows whether one core is enough."""

from __future__ import annotations

import asyncio

from ssis_dispatcher.telemetry.metrics import Histogram

EVERY = 0.25
"""Seconds between two looks."""


class LoopLag:
    """Asks ``loop`` for a timer every `EVERY` seconds and notes how late each one came. The owner starts and stops
    it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, into: Histogram) -> None:
        self._loop = loop
        self._into = into
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; once."""
        self._arm()

    def stop(self) -> None:
        """End; nothing is called after this."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        due = self._loop.time() + EVERY
        self._timer = self._loop.call_at(due, self._look, due)

    def _look(self, due: float) -> None:
        self._into.observe(max(0.0, self._loop.time() - due))
        self._arm()
