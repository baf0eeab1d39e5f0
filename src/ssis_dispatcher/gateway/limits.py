"""What one caller may do, and how much of it at once: the account behind an API key.

The gateway asks `Key.demand` and `Key.demand_model` what the caller may do, and puts each inference request between
`Key.admit` and `Key.release`. Slices and launches are counted where they are given out, by the fleet; their limits are
only carried here.
"""

from __future__ import annotations

import fnmatch
import math
import re
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from ssis_dispatcher.core.messages import CallerLimits
from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.errors import Forbidden, LimitExceeded

Role = Literal["use", "operate", "admin"]
"""``use``: inference. ``operate``: also servers, slices, queue, warm, pin, stop. ``admin``: everything."""

_RANK: dict[str, int] = {"use": 0, "operate": 1, "admin": 2}

_MOST_VERDICTS = 1024

Positive = Annotated[int, msgspec.Meta(ge=1)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One API key as it is stored; the secret itself is nowhere.

    ``hash`` is ``sha256:`` and 64 hexadecimal digits. ``models`` are shell patterns of model ids (``*`` also matches
    ``/``). ``in_flight`` and ``per_minute`` limit requests, ``slices`` those held at once, ``launches_per_minute`` cold
    starts; None means no limit of this key's own. ``kinds`` are the slice kinds it may use, empty for all.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    hash: Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
    role: Role = "use"
    models: tuple[str, ...] = ("*",)
    in_flight: Positive | None = None
    per_minute: Positive | None = None
    slices: Positive | None = None
    launches_per_minute: Positive | None = None
    kinds: tuple[Literal["cpu", "mig", "mps", "gpu"], ...] = ()
    expires: Moment | None = None
    created: Moment | None = None

    @property
    def digest(self) -> bytes:
        """The 32 bytes of ``hash``."""
        return bytes.fromhex(self.hash.removeprefix("sha256:"))


def limits_of(record: KeyRecord) -> CallerLimits | None:
    """What the fleet must know of a key; None where the policy's limits apply."""
    if record.slices is None and record.launches_per_minute is None and not record.kinds:
        return None
    return CallerLimits(record.slices, record.launches_per_minute, tuple(map(SliceKind, record.kinds)))


class Key:
    """One caller: its record, and what it is doing now. Outlives a reload of the record."""

    __slots__ = (
        "_allowance",
        "_pattern",
        "_refilled",
        "_verdicts",
        "digest",
        "expires",
        "fleet_limits",
        "in_flight",
        "lasting",
        "name",
        "record",
    )

    def __init__(self, record: KeyRecord) -> None:
        self.in_flight = 0
        self.digest = record.digest
        self._allowance = 0.0
        self._refilled = -math.inf  # the first request finds a full bucket, whenever that is
        self.update(record)

    def update(self, record: KeyRecord) -> None:
        """Take the record's new limits; requests in flight stay counted."""
        self.record = record
        self.name = record.name
        self.fleet_limits = limits_of(record)
        self.lasting = record.expires is None
        """Neither expires nor was revoked: who showed this key once may be believed to show it again."""
        self.expires = record.expires.timestamp() if record.expires else None
        everything = "*" in record.models
        self._pattern = None if everything else re.compile("|".join(map(fnmatch.translate, record.models)) or r"(?!)")
        self._verdicts: dict[str, bool] = {}

    def revoke(self) -> None:
        """This key opens nothing any more; its requests in flight go on."""
        self.lasting = False

    def may_see(self, caller: str) -> bool:
        """Whether the requests of this caller are its business: its own are, and to operators all."""
        return caller == self.name or _RANK[self.record.role] >= _RANK["operate"]

    def demand(self, role: Role) -> None:
        """Raise `Forbidden` unless this key has ``role`` or a higher one."""
        if _RANK[self.record.role] < _RANK[role]:
            raise Forbidden(f"This needs an API key with the role {role!r}; {self.name!r} has {self.record.role!r}.")

    def demand_model(self, model: str) -> None:
        """Raise `Forbidden` unless this key may use the model with the id ``model``."""
        if not self.allows(model):
            allowed = ", ".join(self.record.models) or "none"
            raise Forbidden(
                f"The API key {self.name!r} may not use the model {model!r}. Its models: {allowed}.",
                code="model_not_allowed",
                param="model",
            )

    def allows(self, model: str) -> bool:
        """Whether ``model`` is among this key's models."""
        if self._pattern is None:
            return True
        verdict = self._verdicts.get(model)
        if verdict is None:
            if len(self._verdicts) >= _MOST_VERDICTS:
                self._verdicts.clear()
            verdict = self._verdicts[model] = self._pattern.match(model) is not None
        return verdict

    def admit(self, now: float) -> None:
        """Count one request in, at ``now`` (monotonic seconds). Raises `LimitExceeded` with a hint when to come back.

        ``per_minute`` is a token bucket: that many at once after a quiet minute, refilled evenly.
        """
        most, rate = self.record.in_flight, self.record.per_minute
        if most is not None and self.in_flight >= most:
            raise LimitExceeded(
                f"The API key {self.name!r} may have {most} requests in flight, and has.", retry_after=1.0
            )
        if rate is not None:
            allowance = self._allowance + (now - self._refilled) * rate / 60
            self._allowance = allowance = allowance if allowance < rate else float(rate)
            self._refilled = now
            if allowance < 1:
                raise LimitExceeded(
                    f"The API key {self.name!r} may make {rate} requests a minute, and has made them.",
                    retry_after=(1 - allowance) * 60 / rate,
                )
            self._allowance = allowance - 1
        self.in_flight += 1

    def release(self) -> None:
        """Count it out again: exactly once for each `admit` that did not raise."""
        self.in_flight -= 1

    def __repr__(self) -> str:
        return f"<Key {self.name}: {self.record.role}, {self.in_flight} in flight>"
