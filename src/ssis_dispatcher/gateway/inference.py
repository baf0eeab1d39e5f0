"""One inference request, from its head to the end of its reply.

`Inference` is the guest that the dispatcher seats or refuses. Everything here is called back: on the warm path the whole
request, from its last body byte to the call upstream, is one chain of plain calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.dispatcher import Endpoint, Visit
from ssis_dispatcher.errors import DispatchError, Problem
from ssis_dispatcher.gateway.dialects.base import Dialect, InferenceRequest, Upstream
from ssis_dispatcher.gateway.dialects.sse import heartbeat
from ssis_dispatcher.gateway.dialects.tgi import wants_info
from ssis_dispatcher.gateway.following import LEADER_CHANGED
from ssis_dispatcher.gateway.limits import Key
from ssis_dispatcher.gateway.relay import Outcome, Relay
from ssis_dispatcher.http.heads import retry_headers
from ssis_dispatcher.http.server import Exchange, report

if TYPE_CHECKING:
    from ssis_dispatcher.gateway.api import Gateway

_HOLDING_COSTS = 4096
"""Bytes that a held request costs besides its body: connection, head, tickets."""

_EVENT_STREAM = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class Inference:
    """The state of one inference request. ``held`` is set while it waits for a seat."""

    __slots__ = (
        "_admitted",
        "_gateway",
        "_request",
        "_upstream",
        "dialect",
        "exchange",
        "held",
        "key",
        "model",
        "outcome",
        "relay",
        "seated_at",
        "server",
        "streams",
        "visit",
    )

    visit: Visit

    def __init__(self, gateway: Gateway, exchange: Exchange, dialect: Dialect, key: Key) -> None:
        self._gateway = gateway
        self._admitted = False
        self.exchange = exchange
        self.dialect = dialect
        self.key = key
        self.model: Model | None = None
        self.relay: Relay | None = None
        self.server = ""
        self.outcome = "refused"
        self.seated_at: float | None = None
        self.held = False
        self.streams = False

    def begin(self, exchange: Exchange) -> None:
        """The body is there: read it, and ask for a seat."""
        try:
            request = self.dialect.read(exchange.method, exchange.path, exchange.query, exchange.headers, exchange.body)
        except DispatchError as error:
            self._say(error.problem)
            return
        if self._gateway.knows(request.wish):
            self._ask(request)
        else:
            exchange.on_gone = self._left_early
            self._gateway.dispatcher.tasks.start(self._ask_later(request), f"acquaint {exchange.id}")

    async def _ask_later(self, request: InferenceRequest) -> None:
        """The hub must be asked about the caller's token first: it decides who may share the server. No listener stands
        behind a task, so what breaks here is answered here."""
        try:
            await self._gateway.acquaint(request.wish)
            if not self.exchange.gone:
                self._ask(request)
        except Exception as error:
            report(error)
            self._say(DispatchError("The request could not be taken in: an internal error.").problem)

    def _left_early(self) -> None:
        self.outcome = "gone"

    def _ask(self, request: InferenceRequest) -> None:
        gateway, exchange = self._gateway, self.exchange
        try:
            self.model = model = gateway.identify(request.wish)
            self.key.demand_model(model.id)
            engine = gateway.engines[model.engine]
            if wants_info(request, engine):
                self.outcome = "ok"
                exchange.reply(200, gateway.info(model))
                return
            self._upstream: Upstream = self.dialect.adapt(request, engine, model.id)
            self.key.admit(exchange.started)
        except DispatchError as error:
            self._say(error.problem)
            return
        self._admitted = True
        self._request: InferenceRequest = request
        self.held = True
        exchange.on_gone = self._caller_left
        size = len(exchange.body) + _HOLDING_COSTS
        gateway.enter(self, model, size)
        if self.held and request.stream:
            gateway.hold(self)

    def seated(self, endpoint: Endpoint) -> None:
        """The dispatcher's word: go ahead."""
        self._let_go()
        self.seated_at = self._gateway.dispatcher.now()
        self.server = endpoint.server
        self.relay = relay = Relay(
            self.exchange, self._upstream, self.dialect, streams=self._request.stream, done=self._ended
        )
        relay.send(self._gateway.pool, endpoint.address, endpoint.host)

    def refused(self, problem: Problem) -> None:
        """The dispatcher's word: no, because."""
        self._let_go()
        self._release()
        if problem.code == LEADER_CHANGED and not self.streams and self._gateway.hand_over(self):
            self.outcome = "forwarded"
            return
        self._say(problem)

    def beat(self) -> None:
        """A streaming caller has waited long: say that we live, and what it waits for. The status is then decided."""
        view = self._gateway.dispatcher.outlook(self.visit.number)
        if not self.streams:
            self.streams = True
            self.exchange.start(200, list(_EVENT_STREAM))
        if view is not None:
            self.exchange.write(heartbeat(view.phase, view.position, view.expected_seconds))

    def _let_go(self) -> None:
        if self.held:
            self.held = False
            self._gateway.let_go(self)

    def _caller_left(self) -> None:
        self.outcome = "gone"
        self._let_go()
        self._release()
        self.visit.leave()

    def _ended(self, outcome: Outcome) -> None:
        self.outcome = outcome.word
        if outcome.error is not None:
            self._gateway.metrics.upstream_error(outcome.word)
        self._release()
        self.visit.leave()

    def _release(self) -> None:
        if self._admitted:
            self._admitted = False
            self.key.release()

    def _say(self, problem: Problem) -> None:
        """Answer with an error, in the caller's dialect."""
        if self.streams:
            self.exchange.write(self.dialect.error_event(problem))
            self.exchange.abort()
            return
        body, content_type = self.dialect.error(problem)
        self.exchange.reply(problem.status, body, content_type, retry_headers(problem))
