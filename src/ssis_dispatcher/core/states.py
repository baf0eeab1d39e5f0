"""What the fleet keeps per model, and a launch that waits for a slice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssis_dispatcher.core.callers import Caller
from ssis_dispatcher.core.lines import Line
from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.core.servers import Server, State
from ssis_dispatcher.core.sizing import NOTHING, Fit, Profile
from ssis_dispatcher.errors import Problem

if TYPE_CHECKING:
    from ssis_dispatcher.core.choice import Places


class Need:
    """A model needs a server: a launch in waiting, on the account of the caller who wanted it first.

    ``order`` is its turn, given when it is known what it needs (0 until then). It hangs on the shelves of ``places``,
    and asks ``ask`` of a node; ``claims`` are the servers that stop to make room for it.
    """

    __slots__ = ("ask", "caller", "cause", "claims", "model", "order", "overtaken", "places")

    def __init__(self, model: ModelState, caller: Caller, cause: str) -> None:
        self.model = model
        self.caller = caller
        self.cause = cause
        self.order = 0
        self.overtaken = 0
        self.places: Places = ()
        self.ask = NOTHING
        self.claims: dict[str, Server] = {}


class ModelState:
    """One model: its servers, its line, its luck."""

    __slots__ = (
        "clock",
        "describing",
        "failures",
        "fits",
        "fits_kinds",
        "floor_mib",
        "last_grant",
        "line",
        "line_armed",
        "model",
        "need",
        "pause_until",
        "pinned",
        "profile",
        "ready",
        "remembered_until",
        "scale_armed",
        "servers",
        "trouble",
        "turnover",
    )

    def __init__(self, model: Model) -> None:
        self.model = model
        self.profile: Profile | None = None
        self.describing = False
        self.line = Line()
        self.servers: dict[str, Server] = {}
        self.ready: list[Server] = []
        self.need: Need | None = None
        self.fits: tuple[Fit, ...] = ()
        self.fits_kinds = -1
        self.floor_mib = 0
        self.failures = 0
        self.pause_until = 0.0
        self.remembered_until = 0.0
        self.trouble = ""
        self.pinned = False
        self.clock = 0.0
        self.line_armed = False
        self.scale_armed = False
        self.turnover: float | None = None
        self.last_grant: float | None = None

    def starting(self) -> Server | None:
        """A server on its way that callers may wait for."""
        for server in self.servers.values():
            if server.state is State.STARTING:
                return server
        return None

    def has_hope(self) -> bool:
        """Whether something is under way that will give this line a seat, or an answer."""
        return bool(self.ready) or self.need is not None or self.starting() is not None

    def resting(self, now: float) -> Problem:
        """What callers are told while this model pauses after a failure."""
        return Problem(503, "model_failed", self.trouble, retry_after=max(1.0, self.pause_until - now))

    def phase(self) -> str:
        """What its line waits for: ``describing``, ``slice``, ``starting`` or ``seat``."""
        if self.ready:
            return "seat"
        if self.starting():
            return "starting"
        return "slice" if self.profile else "describing"

    def roomiest(self) -> Server | None:
        """The ready server with the most free seats, the oldest of equals; None when all seats are taken."""
        best: Server | None = None
        most = 0
        for server in self.ready:
            room = server.seats - server.busy
            if room > most:
                best, most = server, room
        return best
