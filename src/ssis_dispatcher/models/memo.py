"""What was found out lately: a bounded memory whose entries expire. Called by the hub."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Memo(Generic[V]):
    """Values by key, each for its own number of seconds of ``clock``; the oldest go when there are more than ``most``.

    Safe to use from several threads.
    """

    def __init__(self, clock: Callable[[], float], most: int = 2048) -> None:
        self._clock = clock
        self._most = most
        self._entries: dict[Hashable, tuple[float, V]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> V | None:
        """The value of ``key`` while it lasts, else None."""
        with self._lock:
            entry = self._entries.get(key)
            return entry[1] if entry and entry[0] > self._clock() else None

    def put(self, key: Hashable, value: V, seconds: float) -> None:
        with self._lock:
            self._entries.pop(key, None)
            self._entries[key] = self._clock() + seconds, value
            while len(self._entries) > self._most:
                del self._entries[next(iter(self._entries))]

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
