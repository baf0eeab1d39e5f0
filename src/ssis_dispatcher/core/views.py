"""What the fleet shows of itself: the one source of metrics, command line, API and dashboard. Reads only.

Seconds are relative to ``now``. The shapes are those of the operations API, so that nobody has to translate them.
"""

from __future__ import annotations

from math import inf

import msgspec

from ssis_dispatcher.core.book import Book
from ssis_dispatcher.core.choice import Choice, choose, fitting, lacking, places, waits_for
from ssis_dispatcher.core.intake import obstacle
from ssis_dispatcher.core.lines import Ticket
from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.core.placement import Candidate, Plan
from ssis_dispatcher.core.racks import Rack
from ssis_dispatcher.core.reasons import TIED, why
from ssis_dispatcher.core.servers import Server, State
from ssis_dispatcher.core.shelves import Bin
from ssis_dispatcher.core.sizing import Fit, Profile
from ssis_dispatcher.core.slices import PENDING
from ssis_dispatcher.core.states import ModelState

_SHOWN = 100


class ServerView(msgspec.Struct, frozen=True):
    """One server. ``idle_seconds`` is None while it works."""

    id: str
    model: str
    revision: str
    engine: str
    key: str
    state: str
    phase: str
    detail: str
    slice: str
    count: int
    node: str
    seats: int
    busy: int
    waiting: int
    context: int
    age_seconds: float
    idle_seconds: float | None
    address: str | None
    pinned: bool
    extra: bool


class SliceView(msgspec.Struct, frozen=True):
    """One pool: what a node has of one slice kind, what others hold, what our servers hold, what is free."""

    node: str
    name: str
    kind: str
    memory_mib: int
    compute: float
    source: str
    total: int
    taken: int
    ours: int
    free: int


class HostView(msgspec.Struct, frozen=True):
    """What one node has for our servers beside its slices: CPU in thousandths of a core, memory in MiB, and what of it they
    leave. Nodes of which nothing is told are not listed."""

    node: str
    cpu_millis: int
    memory_mib: int
    cpu_millis_left: int
    memory_mib_left: int


class WaitingView(msgspec.Struct, frozen=True):
    """One waiting request. ``cause`` is the request id that its caller sees."""

    id: str
    caller: str
    position: int
    waited_seconds: float


class LineView(msgspec.Struct, frozen=True):
    """One model's line; at most the first hundred requests are listed."""

    model: str
    key: str
    phase: str
    waiting: int
    oldest_seconds: float
    why: str
    expected_seconds: float | None
    requests: tuple[WaitingView, ...]


class RequestView(msgspec.Struct, frozen=True):
    """Where one request stands."""

    model: str
    state: str
    phase: str
    position: int | None
    expected_seconds: float | None
    why: str
    server: str | None
    detail: str


class Statistics(msgspec.Struct, frozen=True):
    """The whole situation, with counters since the start. ``tied``: the platform cannot be reached, see `HandsTied`."""

    servers: tuple[ServerView, ...]
    slices: tuple[SliceView, ...]
    waiting: int
    waiting_bytes: int
    seated: int
    launches: int
    evictions: int
    failures: int
    refusals: int
    seatings: int
    draining: bool
    tied: bool = False
    hosts: tuple[HostView, ...] = ()


def statistics(book: Book, now: float) -> Statistics:
    return Statistics(
        servers=tuple(_server(server, now) for server in book.servers.values()),
        slices=tuple(_slice(bin) for shelf in book.stock.shelves.values() for bin in shelf.bins.values()),
        waiting=len(book.waiting),
        waiting_bytes=book.waiting_bytes,
        seated=len(book.seated),
        launches=book.launches,
        evictions=book.evictions,
        failures=book.failures,
        refusals=book.refusals,
        seatings=book.seatings,
        draining=book.draining,
        tied=book.tied,
        hosts=tuple(view for rack in book.stock.racks.values() if (view := _host(rack)) is not None),
    )


def _host(rack: Rack) -> HostView | None:
    host = rack.host
    if host is None:
        return None
    return HostView(rack.node, host.cpu_millis, host.memory_mib, int(rack.left.cpu), int(rack.left.mib))


def _server(server: Server, now: float) -> ServerView:
    state = server.model
    idle = server.state is State.READY and not server.busy
    return ServerView(
        id=server.id,
        model=state.model.id,
        revision=state.model.revision,
        engine=state.model.engine,
        key=state.model.key,
        state=server.state,
        phase=server.phase,
        detail=server.detail,
        slice=server.bin.shelf.slice.name,
        count=server.count,
        node=server.bin.node,
        seats=server.seats,
        busy=server.busy,
        waiting=len(state.line),
        context=server.context,
        age_seconds=now - server.born,
        idle_seconds=now - server.idle_since if idle else None,
        address=server.address,
        pinned=state.pinned,
        extra=server.extra,
    )


def _slice(bin: Bin) -> SliceView:
    slice = bin.shelf.slice
    return SliceView(
        node=bin.node,
        name=slice.name,
        kind=slice.kind,
        memory_mib=slice.memory_mib,
        compute=slice.compute,
        source=slice.source,
        total=bin.total,
        taken=bin.taken,
        ours=bin.ours,
        free=max(0, bin.free),
    )


def lines(book: Book, now: float) -> tuple[LineView, ...]:
    """Every line in which somebody waits."""
    return tuple(_line(book, state, now) for state in book.models.values() if state.line)


def _line(book: Book, state: ModelState, now: float) -> LineView:
    oldest = state.line.oldest()
    assert oldest is not None
    return LineView(
        model=state.model.id,
        key=state.model.key,
        phase=state.phase(),
        waiting=len(state.line),
        oldest_seconds=now - oldest.arrived,
        why=why(book, state),
        expected_seconds=expected(state, 1, now),
        requests=tuple(
            _waiting(ticket, position, now) for position, ticket in enumerate(state.line.in_turn(_SHOWN), start=1)
        ),
    )


def _waiting(ticket: Ticket, position: int, now: float) -> WaitingView:
    return WaitingView(ticket.cause, ticket.caller.name, position, now - ticket.arrived)


def request(book: Book, number: int) -> RequestView | None:
    """Where request ``number`` stands; None when the fleet does not know it (any more).

    Its ``expected_seconds`` is left to `outlook`, which needs the time.
    """
    server = book.seated.get(number)
    if server is not None:
        return RequestView(server.model.model.id, "seated", "", None, 0.0, "", server.id, "")
    state = book.waiting.get(number)
    if state is None:
        return None
    starting = state.starting()
    return RequestView(
        model=state.model.id,
        state="waiting",
        phase=state.phase(),
        position=state.line.position(number),
        expected_seconds=None,
        why=why(book, state),
        server=starting.id if starting else None,
        detail=f"{starting.phase} {starting.detail}".rstrip() if starting else "",
    )


def outlook(book: Book, number: int, now: float) -> RequestView | None:
    """`request`, with the expected wait."""
    view = request(book, number)
    state = book.waiting.get(number)
    if view is None or state is None:
        return view
    return msgspec.structs.replace(view, expected_seconds=expected(state, view.position or 1, now))


def expected(state: ModelState, position: int, now: float) -> float | None:
    """Seconds until the ``position``-th in this line is seated, None when nothing is known to go by.

    Behind a starting server: what is left of its predicted start. Behind taken seats: position × the mean time between
    the last seats that came free. For a slice that is being freed: the predicted start.
    """
    starting = state.starting()
    if state.ready:
        return None if state.turnover is None else position * state.turnover
    if starting is not None:
        return max(0.0, starting.born + starting.profile.start_seconds - now)
    if state.need is not None and state.need.claims and state.profile is not None:
        return state.profile.start_seconds
    return None


def plan(book: Book, model: Model, profile: Profile, now: float, concurrency: int = 1) -> Plan:
    """What would happen to a request for ``model`` now, and why: the rules of the fleet, without carrying them out. With
    ``concurrency``, only slices with so many seats will do.

    Who will ask is not known here: a caller's own limits may still refuse what this plan would do.
    """
    state = book.models.get(model.key)
    if state is not None and state.floor_mib > profile.floor_mib:
        profile = msgspec.structs.replace(profile, floor_mib=state.floor_mib)
    fits = tuple(_with_room_for(fit, concurrency) for fit in fitting(profile, book.stock))
    decision, reason, wait, choice = _decide(book, state, profile, fits, now)
    shown = tuple(_candidate(book, profile, fit, choice and choice.fit) for fit in fits)
    if choice is None:
        return Plan(model, profile, decision, reason, expected_seconds=wait, candidates=shown)
    return Plan(
        model,
        profile,
        decision,
        reason,
        slice=choice.fit.slice.name,
        node=choice.bin.node,
        count=choice.fit.count,
        seats=choice.fit.seats,
        context=profile.context,
        evicts=tuple(server.id for server in choice.victims if server.state is State.READY),
        expected_seconds=wait,
        candidates=shown,
    )


def _with_room_for(fit: Fit, concurrency: int) -> Fit:
    if not 0 < fit.seats < concurrency:
        return fit
    return msgspec.structs.replace(fit, seats=0, why=f"{fit.seats} of {concurrency} seats")


_Decision = tuple[str, str, float | None, Choice | None]
"""What, why, the expected wait in seconds, and where."""


def _decide(book: Book, state: ModelState | None, profile: Profile, fits: tuple[Fit, ...], now: float) -> _Decision:
    if state is not None and not state.line and not book.draining and (server := state.roomiest()) is not None:
        return "seat", f"Server {server.id} has room.", 0.0, None
    problem = obstacle(book, state, 0, now)
    if problem is not None:
        return "refuse", problem.message, None, None
    if state is not None and state.has_hope():
        return "join", why(book, state), expected(state, len(state.line) + 1, now), None
    if not book.stock.known:
        return "wait", "Waiting to learn which slices exist.", None, None
    where = places(fits, book.stock.shelves, lambda fit: True)
    if not where:
        return "refuse", "It fits on no slice here." if fits else "No slices are advertised here.", None, None
    if book.tied:
        return "wait", TIED, None, None
    choice = choose(where, profile.ask, inf)
    if choice is None:
        return "wait", waits_for(where, profile.ask), None, None
    missing = lacking(where, profile.ask) or "No slice that fits is free."
    if choice.bin.node == PENDING:
        return "launch", f"{missing} A node with one may come for it.", None, choice
    if not choice.victims:
        return "launch", "The smallest slice that fits and is free.", profile.start_seconds, choice
    idle = [server.id for server in choice.victims if server.state is State.READY]
    if idle:
        return "evict", f"{missing} Idle {', '.join(idle)} would be stopped.", profile.start_seconds, choice
    going = ", ".join(server.id for server in choice.victims)
    return "wait", f"{missing} {going} stops already.", profile.start_seconds, choice


def _candidate(book: Book, profile: Profile, fit: Fit, chosen: Fit | None) -> Candidate:
    shelf = book.stock.shelves[fit.slice]
    free = shelf.free()
    total = sum(bin.total for bin in shelf.bins.values())
    if fit is chosen:
        reason = ""
    elif not fit.seats:
        reason = fit.why
    elif shelf.find(fit.count, profile.ask, inf) or shelf.find_pending(fit.count, profile.ask, inf):
        reason = "a smaller slice will do"
    elif short := next((bin for bin in shelf.free_bins(fit.count) if bin.rack.lack(profile.ask)), None):
        reason = f"{short.node} has {short.rack.lack(profile.ask)}"
    else:
        reason = "none is free" if fit.count == 1 else f"no node has {fit.count} free"
    return Candidate(fit, free, total, reason)
