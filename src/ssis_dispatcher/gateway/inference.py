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
from ssis_dispatcher.gateway.passages import Admitted
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
        "_counted",
        "_request",
        "_upstream",
        "admitted",
        "exchange",
        "gateway",
        "held",
        "model",
        "name",
        "outcome",
        "relay",
        "seated_at",
        "server",
        "streams",
        "visit",
    )

    visit: Visit
    _request: InferenceRequest
    _upstream: Upstream

    def __init__(self, gateway: Gateway, exchange: Exchange, admitted: Admitted) -> None:
        self.gateway = gateway
        self.exchange = exchange
        self.admitted = admitted
        self.model: Model | None = None
        self.relay: Relay | None = None
        self.seated_at: float | None = None
        self.server = self.name = ""
        self.outcome = "refused"
        self.held = self.streams = self._counted = False

    @property
    def dialect(self) -> Dialect:
        return self.admitted.dialect

    @property
    def key(self) -> Key:
        return self.admitted.key

    def begin(self, exchange: Exchange) -> None:
        """The body is there: read it, and ask for a seat."""
        head, admitted = exchange.head, self.admitted
        try:
            request = admitted.dialect.read(head.method, head.path, head.query, admitted.headers, exchange.body)
        except DispatchError as error:
            self._say(error.problem)
            return
        if request.wish.token is None or self.gateway.knows(request.wish):
            self._ask(request)
        else:
            exchange.on_gone = self._left_early
            self.gateway.dispatcher.tasks.start(self._ask_later(request), f"acquaint {exchange.id}")

    async def _ask_later(self, request: InferenceRequest) -> None:
        """The hub must be asked about the caller's token first: it decides who may share the server. No listener stands
        behind a task, so what breaks here is answered here."""
        try:
            await self.gateway.acquaint(request.wish)
            if not self.exchange.gone:
                self._ask(request)
        except Exception as error:
            report(error)
            self._say(DispatchError("The request could not be taken in: an internal error.").problem)

    def _left_early(self) -> None:
        self.outcome = "gone"

    def _ask(self, request: InferenceRequest) -> None:
        gateway, exchange, admitted = self.gateway, self.exchange, self.admitted
        try:
            passage = admitted.way.passage(request, exchange.started)
            if passage is not None:
                self.model = model = passage.model
                admitted.key.demand_model(model.id)
                upstream = Upstream(request.method, passage.path, request.body)
            else:
                self.model = model = gateway.identify(request.wish)
                admitted.key.demand_model(model.id)
                engine = gateway.engines[model.engine]
                if wants_info(request, engine):
                    self.outcome = "ok"
                    exchange.reply(200, gateway.info(model))
                    return
                upstream = admitted.dialect.adapt(request, engine, model.id)
                admitted.way.keep(request, model, upstream)
            admitted.key.admit(exchange.started)
        except DispatchError as error:
            self._say(error.problem)
            return
        self._upstream = upstream
        self._counted = True
        self._request = request
        self.held = True
        exchange.on_gone = self._caller_left
        gateway.enter(self, model, len(exchange.body) + _HOLDING_COSTS)
        if self.held and request.stream:
            gateway.hold(self)

    def seated(self, endpoint: Endpoint) -> None:
        """The dispatcher's word: go ahead."""
        gateway, request, admitted = self.gateway, self._request, self.admitted
        self.held = False
        if request.stream:
            gateway.let_go(self)
        self.seated_at = gateway.time()
        self.server = endpoint.server
        self.relay = relay = Relay(self.exchange, self._upstream, admitted.dialect, request.stream, self._ended)
        relay.send(gateway.pool, endpoint.address, endpoint.host, admitted.openings)

    def refused(self, problem: Problem) -> None:
        """The dispatcher's word: no, because."""
        self._let_go()
        self._release()
        if problem.code == LEADER_CHANGED and not self.streams and self.gateway.hand_over(self):
            self.outcome = "forwarded"
            return
        self._say(problem)

    def beat(self) -> None:
        """A streaming caller has waited long: say that we live, and what it waits for. The status is then decided."""
        view = self.gateway.dispatcher.outlook(self.visit.number)
        if not self.streams:
            self.streams = True
            self.exchange.start(200, list(_EVENT_STREAM))
        if view is not None:
            self.exchange.write(heartbeat(view.phase, view.position, view.expected_seconds))

    def _let_go(self) -> None:
        if self.held:
            self.held = False
            self.gateway.let_go(self)

    def _caller_left(self) -> None:
        self.outcome = "gone"
        self._let_go()
        self._release()
        self.visit.leave()

    def _ended(self, outcome: Outcome) -> None:
        self.outcome = outcome.word
        if outcome.error is not None:
            self.gateway.metrics.upstream_error(outcome.word)
        self._release()
        self.visit.leave()

    def _release(self) -> None:
        if self._counted:
            self._counted = False
            self.admitted.key.release()

    def _say(self, problem: Problem) -> None:
        """Answer with an error, in the caller's dialect."""
        if self.streams:
            self.exchange.write(self.dialect.error_event(problem))
            self.exchange.abort()
            return
        body, content_type = self.dialect.error(problem)
        self.exchange.reply(problem.status, body, content_type, retry_headers(problem))

    def __repr__(self) -> str:
        return f"<Inference {self.exchange.id}: {self.outcome}>"
