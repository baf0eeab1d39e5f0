"""The gateway: what the listener serves. Routes, keys, and what is counted when a reply has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import count

from ssis_dispatcher import __version__
from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.dispatcher import Dispatcher
from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.errors import DispatchError, Problem, UpstreamTimeout
from ssis_dispatcher.gateway.dialects.base import Dialect, Wish
from ssis_dispatcher.gateway.dialects.problems import PROBLEM_JSON, problem_json
from ssis_dispatcher.gateway.dialects.tgi import info
from ssis_dispatcher.gateway.door import Door
from ssis_dispatcher.gateway.following import Following
from ssis_dispatcher.gateway.inference import Inference
from ssis_dispatcher.gateway.limits import Key
from ssis_dispatcher.gateway.needs import Need
from ssis_dispatcher.gateway.operations import KEY
from ssis_dispatcher.gateway.passages import Admitted, Way
from ssis_dispatcher.http.asgi import App, AsgiBridge, Receive, Scope, Send
from ssis_dispatcher.http.client import Pool
from ssis_dispatcher.http.heads import Head, Header
from ssis_dispatcher.http.server import Exchange, Handler
from ssis_dispatcher.telemetry.access import AccessLog
from ssis_dispatcher.telemetry.finished import Finished
from ssis_dispatcher.telemetry.metrics import Metrics

_MOST_WAYS = 1024
"""Request lines that are remembered."""

_TICK = 1.0
"""Seconds between two looks at the held requests: how late a heartbeat may be."""


@dataclass(frozen=True)
class Parts:
    """What the gateway is built from. ``identify`` finds the model that is wished for; where ``knows`` says no, ``acquaint``
    must have been awaited before (the hub is asked about the caller's token). ``operations`` serves everything that is not an
    inference request, and ``need_of`` tells what its routes ask of a key (None: there is no such route). ``following``, where
    there is one, takes requests while another replica leads."""

    dispatcher: Dispatcher
    door: Door
    pool: Pool
    engines: Mapping[str, Engine]
    identify: Callable[[Wish], Model]
    knows: Callable[[Wish], bool]
    acquaint: Callable[[Wish], Awaitable[None]]
    dialects: tuple[Dialect, ...]
    operations: App
    need_of: Callable[[str, str], Need | None]
    metrics: Metrics
    access: AccessLog | None = None
    following: Following | None = None
    heartbeat: float = 10.0
    patience: float | None = None
    cors_origins: frozenset[str] = frozenset()


class Gateway:
    """An `http.server.Application`. ``requests`` are the inference requests under way, the oldest first, by their ids; where
    another has the same, by a name of their own."""

    def __init__(self, parts: Parts) -> None:
        self.dispatcher = parts.dispatcher
        self.pool = parts.pool
        self.engines = parts.engines
        self.identify = parts.identify
        self.knows = parts.knows
        self.acquaint = parts.acquaint
        self.requests: dict[str, Inference] = {}
        self._twins: dict[str, dict[Inference, None]] = {}  # by their id, but for the first of each
        self._numbers = count(1)
        self._ways: dict[tuple[str, str, bytes], Way] = {}
        self._following = parts.following
        self._parts = parts
        self._patience = parts.patience
        self._access = parts.access
        self._door = parts.door
        self.metrics = parts.metrics
        self._held: dict[Inference, float] = {}
        self._tick: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self._operations = AsgiBridge(_with_key(parts.operations))
        routes = [(method, path, dialect) for dialect in parts.dialects for method, path in dialect.routes]
        self._exact = {(method, path): dialect for method, path, dialect in routes if not path.endswith("*")}
        self._trees = [(path[:-1], method, dialect) for method, path, dialect in routes if path.endswith("*")]

    async def close(self) -> None:
        """End what the operations application still does."""
        for timer in (self._tick, self._sweeper):
            if timer is not None:
                timer.cancel()
        await self._operations.close()

    def admit(self, exchange: Exchange) -> Handler:
        """Whose request this is, and who handles it. Raises `DispatchError`."""
        head = exchange.head
        admitted = head.note
        if not isinstance(admitted, Admitted) or not admitted.key.lasting:
            way = self._way(head)
            if way is None:
                return self._operation(exchange)
            exchange.extra = extra = self._origin_allowed(exchange)  # a refusal is to be readable, too
            head.note = admitted = Admitted(head, way, self._door.admit(exchange), extra)
        elif admitted.extra:
            exchange.extra = admitted.extra
        inference = Inference(self, exchange, admitted)
        if self._following is not None and not self._following.leads:
            return self._following.handler(self._take_in(inference), self.render)
        exchange.tag = inference
        return inference.begin

    def _way(self, head: Head) -> Way | None:
        """What is known of this request line; None when it is no inference request's."""
        line = (head.method, head.path, head.query)
        way = self._ways.get(line)
        if way is None:
            dialect = self._exact.get(line[:2]) or self._below(head.method, head.path)
            if dialect is None:
                return None
            if len(self._ways) >= _MOST_WAYS:
                self._ways.clear()
            way = self._ways[line] = Way(dialect, _template(head.path))
        return way

    def _operation(self, exchange: Exchange) -> Handler:
        """Who handles what is no inference request."""
        method, path = exchange.method, exchange.path
        need = self._parts.need_of(method, path)
        if need is None and method != "OPTIONS" and path in _KNOWN:
            methods = ["GET", "POST"] if self._parts.need_of("GET", path) else ["POST"]
            exchange.extra = ((b"allow", ", ".join(methods).encode()), *self._origin_allowed(exchange))
            message = f"{path} does not take {method}; it takes {', '.join(methods)}."
            raise DispatchError.of(Problem(405, "method_not_allowed", message))
        if need is not None and need is not Need.PUBLIC:
            exchange.tag = key = self._door.admit(exchange)
            key.demand(need.value)
            if self._following is not None and not self._following.leads and path not in _OF_THIS_REPLICA:
                return self._following.handler(self._operations, self.render)
        return self._operations

    @staticmethod
    def _take_in(inference: Inference) -> Handler:
        """Who handles a request that was to go to another replica, should this one come to lead."""

        def begin(exchange: Exchange) -> None:
            exchange.tag = inference
            inference.begin(exchange)

        return begin

    def hand_over(self, inference: Inference) -> bool:
        """Another replica leads from now on: give it a request that waits here. False where there is no other."""
        if self._following is None:
            return False
        self._forget(inference)
        again = Inference(self, inference.exchange, inference.admitted)
        self._following.handler(self._take_in(again), self.render)(inference.exchange)
        return True

    def _origin_allowed(self, exchange: Exchange) -> tuple[Header, ...]:
        """Lets pages of the origins that are allowed read the reply. (Preflights are the operations application's.)"""
        origins = self._parts.cors_origins
        origin = exchange.header(b"origin") if origins else None
        if origin is not None and ("*" in origins or origin.decode("latin-1") in origins):
            readable = (b"access-control-expose-headers", b"retry-after, x-request-id")
            return ((b"access-control-allow-origin", origin), readable, (b"vary", b"origin"))
        return ()

    def render(self, exchange: Exchange, problem: Problem) -> tuple[bytes, bytes]:
        """Body and content type of a refusal at the door, in the form of the route that was meant. An exchange whose head
        could not be read has no path."""
        path = getattr(exchange, "path", "")
        dialect = self._exact.get(("POST", path)) or self._below("POST", path)
        return (problem_json(problem), PROBLEM_JSON) if dialect is None else dialect.error(problem)

    def _below(self, method: str, path: str) -> Dialect | None:
        """The dialect that serves a whole tree of routes, this one among them."""
        for start, wanted, dialect in self._trees:
            if path.startswith(start) and wanted in (method, "*"):
                return dialect
        return None

    def visit(self, id: str, key: Key) -> int | None:
        """The number under which the fleet knows the request with this id; None when it is not here (any more), or not for
        this key to see."""
        first = self.requests.get(id)
        found: list[Inference] = [*([] if first is None else [first]), *self._twins.get(id, ())]
        for inference in found:
            if key.may_see(inference.admitted.key.name):
                return inference.visit.number
        return None

    def enter(self, inference: Inference, model: Model, size: int) -> None:
        """Ask the dispatcher for a seat."""
        id, key = inference.exchange.id, inference.admitted.key
        inference.name = name = id if id not in self.requests else self._name_of_twin(inference)
        self.requests[name] = inference
        if self._patience is not None and self._sweeper is None:
            self._sweeper = self._loop.call_later(min(_TICK, self._patience), self._sweep, self._patience)
        self.dispatcher.enter(inference, model, key.name, size, id, self._patience, key.fleet_limits)

    def _name_of_twin(self, inference: Inference) -> str:
        """Another name for a request whose id one that is under way has already: callers choose ids."""
        id = inference.exchange.id
        self._twins.setdefault(id, {})[inference] = None
        return f"{id}#{next(self._numbers)}"  # which no id has in it

    def _forget(self, inference: Inference) -> None:
        """It is under way here no more."""
        name, inference.name = inference.name, ""
        self.requests.pop(name, None)
        if self._twins and inference in (twins := self._twins.get(inference.exchange.id, {})):
            del twins[inference]
            if not twins:
                del self._twins[inference.exchange.id]

    def info(self, model: Model) -> bytes:
        """What is known of a model whose engine has no ``/info``. Nothing is started for it: of a model that does not run,
        and did not lately, less is known."""
        state = self.dispatcher.fleet.book.models.get(model.key)
        servers = [] if state is None else list(state.servers.values())
        context = servers[0].context if servers else model.context
        if context is None and state is not None and state.profile is not None:
            context = state.profile.context
        seats = sum(server.seats for server in servers)
        return info(model.id, model.revision, context, seats or None, __version__)

    def cut_off(self, problem: Problem) -> None:
        """End every reply that still runs; its caller is told why."""
        for inference in list(self.requests.values()):
            if inference.relay is not None:
                inference.relay.cut(DispatchError.of(problem))
        if self._following is not None:
            self._following.cut_off(problem)

    def _sweep(self, patience: float) -> None:
        """End the replies of requests that have lived as long as they may (who still waits is told by the fleet). The oldest
        requests are first."""
        oldest = self.time() - patience
        overdue = []
        for inference in self.requests.values():
            if inference.exchange.started > oldest:
                break
            overdue.append(inference)
        for inference in overdue:
            if inference.relay is not None:
                inference.relay.cut(
                    UpstreamTimeout(f"The answer was not complete after {patience:g} s.", code="request_timeout")
                )
        self._sweeper = self._loop.call_later(min(_TICK, patience), self._sweep, patience) if self.requests else None

    # Held requests: one timer for all of them

    def hold(self, inference: Inference) -> None:
        self._held[inference] = self._loop.time() + self._parts.heartbeat
        if self._tick is None:
            self._tick = self._loop.call_later(min(_TICK, self._parts.heartbeat), self._beat)

    def let_go(self, inference: Inference) -> None:
        self._held.pop(inference, None)

    def _beat(self) -> None:
        """Give everybody whose heartbeat is due a sign of life. The oldest are first, and a beat moves one to the end."""
        now = self._loop.time()
        for inference, due in list(self._held.items()):
            if due > now:
                break
            del self._held[inference]
            self._held[inference] = now + self._parts.heartbeat
            inference.beat()
        self._tick = self._loop.call_later(min(_TICK, self._parts.heartbeat), self._beat) if self._held else None

    # What is counted

    def finished(self, exchange: Exchange) -> None:
        """A reply has ended, however it ended."""
        inference = exchange.tag
        exchange.tag = None  # or the two would keep each other until the garbage collector comes
        if not isinstance(inference, Inference):
            self._turned_away(exchange)
            return
        id, admitted, relay, model = exchange.id, inference.admitted, inference.relay, inference.model
        self._forget(inference)
        now = self.time()
        began, seated, first = exchange.started, inference.seated_at, None if relay is None else relay.first_byte_at
        row = Finished(
            "",
            id,
            admitted.key.name,
            exchange.head.method,
            admitted.way.route,
            admitted.dialect.name,
            "" if model is None else model.id,
            exchange.status,
            exchange.sent,
            _micro(now - began),
            None if seated is None else _micro(seated - began),
            None if first is None else _micro(first - began),
            inference.server,
            "gone" if exchange.gone and not exchange.status else inference.outcome,
        )
        self._put_down(row, now)

    def _turned_away(self, exchange: Exchange) -> None:
        """An inference request that came no further than the door, or that could not be read."""
        method, path = getattr(exchange, "method", ""), getattr(exchange, "path", "")
        dialect = self._exact.get((method, path)) or self._below(method, path)
        if dialect is None or exchange.status < 400:
            return
        now = self.time()
        row = Finished(
            time="",
            id=exchange.id,
            caller="",
            method=method,
            route=_template(path),
            dialect=dialect.name,
            model="",
            status=exchange.status,
            sent=exchange.sent,
            duration=_micro(now - exchange.started),
            held=None,
            ttfb=None,
            server="",
            outcome="refused",
        )
        self._put_down(row, now)

    def _put_down(self, row: Finished, now: float) -> None:
        self.metrics.finished(row)
        if self._access is not None:
            self._access.record(row, now)


def _micro(seconds: float) -> float:
    """To the microsecond, so that no log line says 0.10000000000002274."""
    return int(seconds * 1e6 + 0.5) / 1e6


def _with_key(app: App) -> App:
    """``app``, handed the key that the door has found."""

    async def handed(scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["extensions"]["ssis.exchange"]
        if isinstance(exchange.tag, Key):
            scope[KEY] = exchange.tag
        await app(scope, receive, send)

    return handed


def _template(path: str) -> str:
    """The route without what callers make up: model names, and paths of engines that we do not know."""
    if path.startswith("/models/"):
        return "/models/{model}/…"
    return path if path in _KNOWN else "/v1/…"


_OF_THIS_REPLICA = frozenset(("/metrics",))
"""Operations that every replica answers for itself."""

_KNOWN = frozenset(("/", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"))
