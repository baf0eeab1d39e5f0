"""What the fleet keeps per model, and a launch that waits for a slice."""

from __future__ import annotations

from ssis_dispatcher.core.callers import Caller
from ssis_dispatcher.core.lines import Line
from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.core.servers import Server, State
from ssis_dispatcher.core.shelves import Shelf
from ssis_dispatcher.core.sizing import Fit, Profile
from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.errors import Problem


class Need:
    """A model needs a server and no slice is free for it. ``claims`` are the servers that stop to make room."""

    __slots__ = ("caller", "cause", "claims", "fits", "model", "order", "overtaken", "shelves", "since")

    def __init__(self, model: ModelState, caller: Caller, cause: str, order: int, since: float) -> None:
        self.model = model
        self.caller = caller
        self.cause = cause
        self.order = order
        self.since = since
        self.overtaken = 0
        self.fits: list[tuple[Fit, Shelf]] = []
        self.shelves: list[Shelf] = []
        self.claims: set[str] = set()

    def allows(self, kind: SliceKind) -> bool:
        """Whether slices of this kind may be launched for the caller who needs it."""
        return not self.caller.kinds or kind in self.caller.kinds


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
        "problem",
        "profile",
        "ready",
        "scale_armed",
        "servers",
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
        self.problem: Problem | None = None
        self.pinned = False
        self.clock = 0.0
        self.line_armed = False
        self.scale_armed = False
        self.turnover: float | None = None
        self.last_grant = 0.0

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
        assert self.problem is not None
        return Problem(503, "model_failed", self.problem.message, retry_after=max(1.0, self.pause_until - now))

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

    def why(self) -> str:
        """What its line waits for, in words."""
        if self.ready:
            seats = sum(server.seats for server in self.ready)
            return f"All {seats} seats of {len(self.ready)} server(s) are taken."
        starting = self.starting()
        if starting is not None:
            return f"Server {starting.id} is starting: {starting.phase} {starting.detail}".rstrip() + "."
        if self.profile is None:
            return "Finding out what this model needs."
        if self.need is None or not self.need.fits:
            return "Waiting to learn which slices exist."
        if self.need.claims:
            return f"Waiting for {', '.join(sorted(self.need.claims))} to stop and free its slice."
        names = ", ".join(dict.fromkeys(fit.slice.name for fit, _ in self.need.fits))
        return f"Every slice that fits is in use: {names}."
