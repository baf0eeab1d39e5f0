"""What each caller has taken of the machine: the limits that keep one from taking all."""

from __future__ import annotations


class Caller:
    """One caller's account. A slice is held while its server starts or works; an idle server is anybody's to evict.

    Launches are a token bucket: ``per_minute`` at once, refilled evenly.
    """

    __slots__ = ("_refilled", "_tokens", "held", "name")

    def __init__(self, name: str, now: float, per_minute: int) -> None:
        self.name = name
        self.held = 0
        self._tokens = float(per_minute)
        self._refilled = now

    def take_launch(self, now: float, per_minute: int) -> float:
        """Take one launch: 0.0 when there was one, else the seconds until there is."""
        rate = per_minute / 60
        self._tokens = min(float(per_minute), self._tokens + (now - self._refilled) * rate)
        self._refilled = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / rate if rate else 60.0

    def settled(self, now: float, per_minute: int) -> bool:
        """Whether this account says nothing that a new one would not say."""
        return not self.held and self._tokens + (now - self._refilled) * per_minute / 60 >= per_minute
