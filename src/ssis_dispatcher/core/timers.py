"""Deadlines in one heap. Nothing here knows what time it is."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count

Due = Callable[[float], None]


class Timers:
    """Calls to make at a time. A timer cannot be cancelled: what it calls looks whether it still matters, which keeps
    setting one cheap and the heap free of bookkeeping."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Due]] = []
        self._order = count()

    def at(self, when: float, due: Due) -> None:
        heapq.heappush(self._heap, (when, next(self._order), due))

    def earliest(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[Due]:
        """Remove and yield what is due at ``now``, in the order of its time."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]

    def __len__(self) -> int:
        return len(self._heap)
