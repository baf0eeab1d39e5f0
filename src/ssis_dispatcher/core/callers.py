"""What each caller has taken of the machine: the limits that keep one from taking all."""

from __future__ import annotations

from ssis_dispatcher.core.messages import CallerLimits
from ssis_dispatcher.core.policy import Policy
from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.errors import Problem


class Caller:
    """One caller's account. A slice is held while its server starts or works; an idle server is anybody's to evict.

    ``held`` counts slices, ``wanted`` launches that wait, ``ties`` whatever points to this account (requests in lines,
    launches, servers). Launches are a token bucket: ``per_minute`` at once, refilled evenly. ``kinds`` are the slice kinds
    that may be launched for this caller, empty for all.
    """

    __slots__ = ("_refilled", "_tokens", "held", "kinds", "name", "per_minute", "slices", "ties", "wanted")

    def __init__(self, name: str, now: float, policy: Policy) -> None:
        self.name = name
        self.held = self.wanted = self.ties = 0
        self.take_limits(None, policy)
        self._tokens = float(self.per_minute)
        self._refilled = now

    def take_limits(self, limits: CallerLimits | None, policy: Policy) -> None:
        """The caller's own limits, else the policy's."""
        own = limits or CallerLimits()
        self.slices = policy.slices_per_caller if own.slices is None else own.slices
        self.per_minute = policy.launches_per_minute if own.launches_per_minute is None else own.launches_per_minute
        self.kinds: tuple[SliceKind, ...] = own.kinds

    def take_launch(self, now: float) -> Problem | None:
        """Take one launch from the account, or say why there is none and when there will be."""
        if self.held + self.wanted >= self.slices:
            return self.over_slices()
        rate = self.per_minute / 60
        self._tokens = min(float(self.per_minute), self._tokens + (now - self._refilled) * rate)
        self._refilled = now
        if self._tokens < 1:
            message = f"This caller may start {self.per_minute} models a minute."
            return Problem(429, "launch_limit", message, retry_after=(1 - self._tokens) / rate if rate else 60.0)
        self._tokens -= 1
        return None

    def over_slices(self) -> Problem:
        message = f"{self.held} slices work for this caller, {self.wanted} launches wait; {self.slices} is its limit."
        return Problem(429, "slice_limit", message, retry_after=10.0)

    def allows(self, kind: SliceKind) -> bool:
        """Whether slices of this kind may be launched for this caller."""
        return not self.kinds or kind in self.kinds

    def affords(self, count: int) -> bool:
        """Whether a launch on ``count`` joined slices stays within what this caller may hold. Single ones are counted when
        their request arrives (`take_launch`); how many slices a model needs is only known later."""
        return count == 1 or self.held + count <= self.slices

    def settled(self, now: float) -> bool:
        """Whether this account says nothing that a new one would not say."""
        return not self.ties and self._tokens + (now - self._refilled) * self.per_minute / 60 >= self.per_minute
