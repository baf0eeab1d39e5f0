"""A replica that does not keep the book: it hands each request to the one that does, one hop, and holds what arrives while
there is none.

Where one dispatcher runs beside another (two replicas, or the old and the new one of a rollout), one of them leads. Every
other answers through it: the request goes over as it came, the caller's credentials with it, because the leader judges
them; the reply comes back as it is. `HOP` marks it, so that a replica that has just lost the lead does not hand it on.

Inference has no side effects. So a request whose leader goes away before the first byte of an answer is held, and goes to
the next leader; after the first byte it breaks off, and is never presented as complete. A leader whose node was lost, or
that stands still, goes away without a word: when another leads, it is asked whether it is there (`_Former`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ssis_dispatcher.errors import Problem, UpstreamError
from ssis_dispatcher.http.addresses import Address
from ssis_dispatcher.http.client import Call, Pool
from ssis_dispatcher.http.heads import Header, for_next_hop, retry_headers
from ssis_dispatcher.http.server import Exchange, Handler

Render = Callable[[Exchange, Problem], tuple[bytes, bytes]]

HOP = b"x-ssis-hop"
"""Header of a request that another replica has handed over."""

_MOVED = (b"x-ssis-moved", b"1")
"""Header of the answer to such a request by a replica that does not lead (any more)."""

LEADER_CHANGED = "leader_changed"
"""Code of the refusal of who waited when the lead changed hands: they go to the next leader, if they have heard nothing."""

_AGAIN = 1.0
"""Seconds until a request whose leader did not answer is tried once more, if nobody else takes the lead before."""

_SILENT = 3.0
"""Seconds in which a replica that led must say that it is there."""

_ASKED_EVERY = 5.0
"""Seconds between two times that it is asked, while it has requests of ours."""


class Following:
    """Requests on their way to the leader, and those that wait for one.

    ``leads`` tells whether this replica leads now; ``leader`` is the other one's address, None while there is none (or
    nobody knows). At most ``most`` requests are held, each for ``patience`` seconds. `moved` must be called whenever the
    lead may have changed hands.
    """

    def __init__(
        self,
        pool: Pool,
        leads: Callable[[], bool],
        leader: Callable[[], Address | None],
        *,
        most: int = 10_000,
        patience: float = 60.0,
    ) -> None:
        self.pool = pool
        self.forwarded = 0
        """Requests handed to a leader so far."""
        self._leads = leads
        self._leader = leader
        self._most = most
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._held: dict[_Forwarded, asyncio.TimerHandle] = {}
        self._former: dict[Address, _Former] = {}
        self.under_way: set[_Forwarded] = set()
        """Requests that a leader has now."""

    @property
    def held(self) -> int:
        """How many requests wait for a leader."""
        return len(self._held)

    @property
    def leads(self) -> bool:
        """Whether this replica leads: then requests are its own."""
        return self._leads()

    def handler(self, own: Handler, render: Render) -> Handler:
        """Who handles a request that is not for this replica to decide; ``own`` does, should it come to lead while it
        waits. ``render`` writes errors in the caller's form."""
        return lambda exchange: self.begin(_Forwarded(self, exchange, own, render))

    def begin(self, request: _Forwarded) -> None:
        """Send it where it belongs now, or hold it."""
        if request.exchange.gone:
            return
        address = self._leader()
        if self._leads():
            request.hand_back()
        elif request.exchange.header(HOP) is not None:
            problem = Problem(503, "no_leader", "The leading dispatcher is changing; send it again.", 1.0)
            request.refuse(problem, (_MOVED,))
        elif address is not None:
            self.forwarded += 1
            request.send(address)
        else:
            self._hold(request)

    def moved(self) -> None:
        """There may be a leader now: look at everything that waits for one."""
        for request in self._no_longer_held():
            self.begin(request)
        for address in {request.address for request in self.under_way}:
            if address not in self._former and self.has_left(address):
                self._former[address] = _Former(self, address)

    def has_left(self, address: Address) -> bool:
        """Whether a replica leads no more and has requests of ours."""
        elsewhere = self._leads() or self._leader() != address
        return elsewhere and any(request.address == address for request in self.under_way)

    def done_with(self, address: Address, *, silent: bool) -> None:
        """A replica that led has no request of ours any more; or it is silent, and they are taken back."""
        self._former.pop(address, None)
        for request in [request for request in self.under_way if silent and request.address == address]:
            request.take_back()

    def cut_off(self, problem: Problem) -> None:
        """End every request that is held or under way; its caller is told why."""
        for request in [*self._no_longer_held(), *self.under_way]:
            request.cut(problem)

    def _no_longer_held(self) -> list[_Forwarded]:
        held, self._held = self._held, {}
        for timer in held.values():
            timer.cancel()
        return [*held]

    def forget(self, request: _Forwarded) -> None:
        """Its caller left."""
        timer = self._held.pop(request, None)
        if timer is not None:
            timer.cancel()

    def again(self, request: _Forwarded) -> None:
        """Its leader did not answer."""
        self._hold(request)
        self._loop.call_later(_AGAIN, self.moved)

    def _hold(self, request: _Forwarded) -> None:
        if len(self._held) >= self._most:
            message = f"{len(self._held)} requests wait for a leading dispatcher; there is room for no more."
            request.refuse(Problem(503, "waiting_room_full", message, 5.0))
            return
        exchange = request.exchange
        exchange.on_gone = lambda: self.forget(request)
        self._held[request] = self._loop.call_at(exchange.started + self._patience, self._too_long, request)

    def _too_long(self, request: _Forwarded) -> None:
        self._held.pop(request, None)
        message = f"No dispatcher has taken the lead within {self._patience:.0f} s."
        request.refuse(Problem(503, "no_leader", message, 5.0))


class _Former:
    """A replica that led when it was handed requests: it may be finishing them, or be gone. An `http.client.Receiver`."""

    def __init__(self, following: Following, address: Address) -> None:
        self._following = following
        self._address = address
        self._ask()

    def _ask(self) -> None:
        if self._following.has_left(self._address):
            self._following.pool.send(self._address, "GET", b"/healthz", [], b"", self, first_byte_timeout=_SILENT)
        else:
            self._following.done_with(self._address, silent=False)

    def on_reply(self, status: int, headers: list[Header], length: int | None, body: bytes) -> None:
        self.on_end()

    def on_head(self, status: int, headers: list[Header], length: int | None) -> None: ...

    def on_body(self, data: bytes) -> None: ...

    def on_end(self) -> None:
        asyncio.get_running_loop().call_later(_ASKED_EVERY, self._ask)

    def on_failed(self, error: UpstreamError) -> None:
        self._following.done_with(self._address, silent=True)


class _Forwarded:
    """One request and its reply, passed through; an `http.client.Receiver`. ``address`` is who has it now, or had it last."""

    def __init__(
        self,
        following: Following,
        exchange: Exchange,
        own: Handler,
        render: Render,
    ) -> None:
        self.exchange = exchange
        self._following = following
        self._own = own
        self._render = render
        self._call: Call | None = None
        self.address: Address = ("", 0)

    def send(self, address: Address) -> None:
        exchange, pool = self.exchange, self._following.pool
        self.address = address
        headers = for_next_hop(exchange.headers, exchange.header(b"connection"))
        headers += [(HOP, b"1"), (b"x-request-id", exchange.id.encode()), (b"x-forwarded-for", exchange.peer.encode())]
        host = exchange.header(b"host") or None
        call = pool.send(address, exchange.method, exchange.target, headers, exchange.body, self, host)
        self._call = call
        self._following.under_way.add(self)
        exchange.on_gone = self._caller_left
        exchange.source = call

    def hand_back(self) -> None:
        """This replica leads now: the request is its own."""
        self._detach()
        self._own(self.exchange)

    def _detach(self) -> None:
        """What the caller does is no leader's business."""
        exchange = self.exchange
        exchange.on_gone = exchange.source = None

    def _has_not_begun(self) -> bool:
        """Whether the caller can still be answered by somebody else; else its answer has broken off now."""
        self._detach()
        if self.exchange.status:
            self.exchange.abort()
            return False
        return True

    def refuse(self, problem: Problem, headers: tuple[Header, ...] = ()) -> None:
        body, content_type = self._render(self.exchange, problem)
        self.exchange.reply(problem.status, body, content_type, retry_headers(problem) + headers)

    def cut(self, problem: Problem) -> None:
        """Give it up; an answer that has begun breaks off."""
        self._caller_left()
        if self._has_not_begun():
            self.refuse(problem)

    def take_back(self) -> None:
        """Its leader is silent: an answer that has begun breaks off, and what has not goes where it belongs now."""
        self._caller_left()
        if self._has_not_begun():
            self._following.begin(self)

    def _caller_left(self) -> None:
        call = self._over()
        if call is not None:
            call.cancel()

    def _over(self) -> Call | None:
        """No leader has it any more."""
        self._following.under_way.discard(self)
        call, self._call = self._call, None
        return call

    # What comes from the leader

    def on_reply(self, status: int, headers: list[Header], length: int | None, body: bytes) -> None:
        self._over()
        if status == 503 and _MOVED in headers:  # it has just laid the lead down
            self._following.again(self)
            return
        self.exchange.answer(status, _back(headers), body)

    def on_head(self, status: int, headers: list[Header], length: int | None) -> None:
        self.exchange.start(status, _back(headers), length)

    def on_body(self, data: bytes) -> None:
        self.exchange.write(data)

    def on_end(self) -> None:
        self._over()
        self.exchange.finish()

    def on_failed(self, error: UpstreamError) -> None:
        self._over()
        if self._has_not_begun():
            self._following.again(self)


def _back(headers: list[Header]) -> list[Header]:
    """What the listener writes itself is left out; the leader has already left out everything else."""
    return [header for header in headers if header[0] not in _WRITTEN_HERE]


_WRITTEN_HERE = frozenset((b"date", b"server", b"x-request-id", _MOVED[0]))
