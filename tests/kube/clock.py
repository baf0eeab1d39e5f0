"""The cluster's time, which is the loop's: virtual where the test's is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any


class Clock:
    """Tells the time, and calls back."""

    def __init__(self) -> None:
        self._base: datetime | None = None
        self._stopped = False

    @property
    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def now(self) -> datetime:
        """The time of day: right when first asked, and from then on as the loop's clock goes."""
        if self._base is None:
            self._base = datetime.now(UTC) - timedelta(seconds=self.time)
        return self._base + timedelta(seconds=self.time)

    def stamp(self, moment: datetime | None = None) -> str:
        """As ``creationTimestamp`` is written: whole seconds."""
        return (moment or self.now()).strftime("%Y-%m-%dT%H:%M:%SZ")

    def later(self, delay: float, call: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        """Call it after ``delay`` seconds, unless the cluster is gone by then."""
        return asyncio.get_running_loop().call_later(delay, self._run, call, args)

    def _run(self, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self._stopped:
            call(*args)

    def stop(self) -> None:
        self._stopped = True
