"""The tube: carries one request to an inference server, and its reply back to the caller. Used by `inference`.

`Relay` is the receiver of the upstream call. Where dialect and engine speak the same, bytes pass through untouched; where
they differ, the `Upstream`'s translator rewrites them. Either side may be slower, or leave: pausing and leaving go
through to the other.

A reply is believed to be complete only when it is. Engines and gateways on the way truncate with a clean end, so the last
4 KiB of a successful reply (all of a short one that does not say its length) are shown to the dialect, and one that it does
not find complete gets an error instead of an end: the status 502 where nothing was sent yet, else an error event (streams)
and an aborted connection. For that, a reply that is no stream is held until it is whole, up to 64 KiB; and of a longer one
the last piece is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from ssis_dispatcher.errors import DispatchError, UpstreamError
from ssis_dispatcher.gateway.dialects.base import Dialect, Translator, Upstream
from ssis_dispatcher.gateway.hops import of_a_hop
from ssis_dispatcher.http.addresses import Address
from ssis_dispatcher.http.client import Call, Pool
from ssis_dispatcher.http.heads import Header, Lines, block, comes_back, for_upstream, retry_headers
from ssis_dispatcher.http.server import Exchange, report

_EVENT_STREAM = b"text/event-stream"

_TAIL = 4096
"""How much of a reply's end a dialect sees."""

_HELD = 65_536
"""The longest reply that is held until it is whole."""

_PIECES = 16
"""How many small pieces are kept before they are boiled down to a tail."""


Openings = dict[tuple[Address, bytes | None, str], bytes]
"""Heads of requests to inference servers, as far as they are the same for one caller's head: by address, Host and path."""

_MOST_OPENINGS = 64


class Outcome(NamedTuple):
    """How a reply ended: ``word`` is ``ok``, ``gone`` (the caller left) or the error's code."""

    word: str
    error: DispatchError | None = None


_OK = Outcome("ok")
_GONE = Outcome("gone")


_SHORTLY = 0.2
"""Seconds until a gateway without a route is asked once more."""


class Relay(msgspec.Struct, eq=False):
    """One request's way there and back. ``done`` is called exactly once, just before the reply's last bytes go out: the
    upstream is free then, and what is counted at the reply's end can already see the outcome.

    ``streams``: the caller asked for a stream. Its reply may already have begun, as an event stream with heartbeats; an
    error of the upstream is then told as an event.
    """

    exchange: Exchange
    upstream: Upstream
    dialect: Dialect
    streams: bool
    done: Callable[[Outcome], None] | None
    status: int = 0
    """The reply's."""
    received: int = 0
    """Body bytes from upstream."""
    first_byte_at: float | None = None
    """Loop time of the reply's first body byte."""
    _clock: Callable[[], float] = time.monotonic
    _translator: Translator | None = None
    _by_gateway: bool = False
    """A gateway stands before the server, and may answer in its place."""
    _again: Callable[[], None] | None = None
    """Sends the request a second time, where that has not been done."""
    _call: Call | None = None
    _begun: bool = False
    """The caller has seen a head."""
    _events: bool = False
    """What the caller gets is an event stream."""
    _held: list[bytes] | None = None
    """The reply so far, while it is held."""
    _holds: int = 0
    """Bytes in it."""
    _doubtful: tuple[int, Lines, int | None] | None = None
    """The head of an error that may be the gateway's."""
    _holds_last: bool = False
    _last: bytes = b""
    _recent: list[bytes] = []
    _headers: list[Header] = []
    _content_type: bytes = b""
    _length: int | None = None

    def send(self, pool: Pool, address: Address, host: bytes | None = None, openings: Openings | None = None) -> None:
        """Begin; to be called once. ``openings`` keeps what is the same for all requests with this head."""
        exchange, upstream = self.exchange, self.upstream
        self._clock = pool.time
        self._translator = upstream.reply
        if exchange.status:
            self._begun = self._events = True
        place = (address, host, upstream.path)
        try:
            opening = None if openings is None else openings.get(place)
            if opening is None:
                headers = for_upstream(exchange.headers, exchange.header(b"connection"))
                opening = pool.opening(address, upstream.method, upstream.path.encode(), headers, host)
                opening += b"\r\nx-request-id: "
                if openings is not None and len(openings) < _MOST_OPENINGS:
                    openings[place] = opening
        except ValueError as error:  # a path or a header that cannot be sent: nobody should have let it come this far
            self._give_up(error)
            return
        opening += exchange.id.encode()
        if host is not None:
            self._by_gateway = True
            self._again = lambda: self._send_again(pool, address, opening)
        self._begin_call(pool, address, opening)

    def _begin_call(self, pool: Pool, address: Address, opening: bytes) -> None:
        exchange, upstream = self.exchange, self.upstream
        call = pool.begin(address, upstream.method, opening, upstream.body, self)
        self._call = call
        exchange.on_gone = self._caller_left
        exchange.source = call
        if self._begun and exchange.paused:
            call.pause()

    def _send_again(self, pool: Pool, address: Address, opening: bytes) -> None:
        if self.done is not None:  # else the caller has left meanwhile
            self._begin_call(pool, address, opening)

    # What comes from upstream

    def on_reply(self, status: int, headers: Lines, length: int | None, body: bytes) -> None:
        back = headers.note
        if not isinstance(back, _Back):
            headers.note = back = _Back(headers)
        if self._by_gateway:
            if len(body) <= _TAIL and self._was_a_hop(status, back.content_type, body):
                return
            self._by_gateway = False
        if self._begun or self._translator is not None or back.events:
            self.on_head(status, headers, length)
            self.on_body(body)
            self.on_end()
            return
        self._call = None
        self.status = status
        self.received = len(body)
        if body:
            self.first_byte_at = self._clock()
        if status < 300 and not self._whole(body, length, back.content_type):
            self._give_up(_broke_off())
        else:
            self._conclude(_OK)
            self.exchange.answer_with(status, back.lines, body)

    def _was_a_hop(self, status: int, content_type: bytes, body: bytes) -> bool:
        """Whether the gateway before the server has answered, not the server. A route that is not there yet, or a pod that is
        just not reached, is asked once more; then it is an error."""
        error = of_a_hop(status, content_type, body)
        if error is None:
            return False
        again, self._again = self._again, None
        self._call = None
        if again is not None and status in (404, 503) and not self.status:
            asyncio.get_running_loop().call_later(_SHORTLY, again)
        else:
            self._give_up(error)
        return True

    def on_head(self, status: int, headers: Lines, length: int | None) -> None:
        if self._by_gateway and status >= 400 and self.exchange.method != "HEAD":
            self._doubtful = (status, headers, length)  # who has answered is seen when all of it is there
            self._held = []
            return
        content_type = b""
        back = []
        for header in headers:
            if header[0] == b"content-type":
                content_type = header[1]
            elif comes_back[header[0]]:
                back.append(header)
        if self._translator is not None:
            length = None
            try:
                status, content_type = self._translator.head(status, content_type)
            except Exception as error:
                self._give_up(error)
                return
            if status == 503 and all(name != b"retry-after" for name, _ in back):
                back.append((b"retry-after", b"1"))  # a busy server's, which translators make of its own words for that
        back.append((b"content-type", content_type))
        self.status = status
        self._headers = back
        self._length = length
        self._content_type = content_type
        self._choose(status < 400 and content_type.startswith(_EVENT_STREAM))

    def _choose(self, events: bool) -> None:
        """Pass the reply on as it comes, or hold it, or hold its last piece?"""
        length = self._length
        if self._begun:
            if not events:
                self._held = []  # it becomes the text of an error
        elif events or (self.streams and length is None and self.status < 400):
            self._events = events
            self._begin(None)
        elif length is None or length <= _HELD or self.exchange.method == "HEAD":
            self._held = []
        else:
            self._holds_last = True
            self._begin(length)

    def _begin(self, length: int | None) -> None:
        self._begun = True
        self.exchange.start(self.status, self._headers, length)

    def on_body(self, data: bytes) -> None:
        if self._doubtful is not None:
            self._doubt(data)
            return
        if self.first_byte_at is None:
            self.first_byte_at = self._clock()
        self.received += len(data)
        if self._translator is not None:
            try:
                data = self._translator.feed(data)
            except Exception as error:
                self._give_up(error)
                return
        if self._held is None:
            self._pass(data)
        else:
            self._held.append(data)
            self._holds += len(data)
            if self._holds > _HELD:
                self._let_go_of(self._held)

    def _doubt(self, data: bytes) -> None:
        """More of an error that may be the gateway's; none says more than 4 KiB."""
        assert self._held is not None
        self._held.append(data)
        self._holds += len(data)
        if self._holds > _TAIL:
            status, headers, length, body = self._settled()
            self._by_gateway = False
            self.on_head(status, headers, length)
            self.on_body(body)

    def _settled(self) -> tuple[int, Lines, int | None, bytes]:
        """The error that was doubtful, as far as it has come; it is no more."""
        assert self._doubtful is not None
        settled = *self._doubtful, b"".join(self._held or ())
        self._doubtful, self._held, self._holds = None, None, 0
        return settled

    def _let_go_of(self, held: list[bytes]) -> None:
        """The reply is too long to be held."""
        if self._begun:
            self._give_up(_not_a_stream(self.status, b"".join(held)))
            return
        self._held = None
        self._holds_last = True
        self._begin(self._length)
        self._pass(b"".join(held))

    def _pass(self, data: bytes) -> None:
        recent = self._recent
        if len(data) >= _TAIL:
            self._recent = [data[-_TAIL:]]
        else:
            recent.append(data)
            if len(recent) > _PIECES:
                self._recent = [b"".join(recent)[-_TAIL:]]
        if self._holds_last:
            data, self._last = self._last, data
        self.exchange.write(data)

    def on_end(self) -> None:
        if self._doubtful is not None:
            self.on_reply(*self._settled())
            return
        self._call = None
        try:
            whole = _joined(self._recent if self._held is None else self._held)
            rest = self._checked_end(whole)
        except Exception as error:
            self._give_up(error)
            return
        exchange = self.exchange
        self._conclude(_OK)
        if self._held is None:
            exchange.write(self._last + rest)
            exchange.finish()
        elif exchange.method == "HEAD":
            exchange.start(self.status, self._headers, self._length)
            exchange.finish()
        else:
            exchange.answer(self.status, self._headers, whole + rest)

    def _checked_end(self, known: bytes) -> bytes:
        """What the translator has left. ``known`` is what is held, or else the tail. Raises `UpstreamError` when the reply
        is not complete, or not what can be given to this caller."""
        rest = b"" if self._translator is None else self._translator.end()
        if self._held is not None and self._begun:
            raise _not_a_stream(self.status, known + rest)
        if self._translator is None and not self._complete(known):
            raise _broke_off()
        return rest

    def _complete(self, known: bytes) -> bool:
        """Whether the dialect finds a reply that ends like this complete. Errors, and replies to HEAD, are."""
        if self.status >= 300 or self.exchange.method == "HEAD":
            return True
        if self._held is not None:
            return self._whole(known, self._length, self._content_type)
        return self.dialect.complete(known[-_TAIL:], self._events, self._content_type, whole=False)

    def _whole(self, body: bytes, length: int | None, content_type: bytes) -> bool:
        """The same of a body that is no stream, and that is here from its beginning. One that said its ``length`` was counted
        by HTTP: then its end tells enough, but for what is neither an object nor a list."""
        if length == 0:
            return True
        if length is None or body[:1] not in (b"{", b"["):
            return self.dialect.complete(body, False, content_type)
        return self.dialect.complete(body[-_TAIL:], False, content_type, whole=False)

    def on_failed(self, error: UpstreamError) -> None:
        self._call = None
        self._give_up(error)

    # What goes wrong

    def cut(self, error: DispatchError) -> None:
        """End it before its time, from this side. The caller is told why."""
        self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Tell the caller, in the way that is still open."""
        if not isinstance(error, DispatchError):
            report(error)
            error = UpstreamError("The inference server's reply could not be understood.", code="upstream_garbled")
        problem = error.problem
        exchange = self.exchange
        self._conclude(Outcome(problem.code, error))
        if not self._begun or (not self._events and exchange.take_back()):
            body, content_type = self.dialect.error(problem)
            exchange.reply(problem.status, body, content_type, retry_headers(problem))
            return
        if self._events:
            tail = _joined(self._recent)
            if tail and not tail.endswith((b"\n\n", b"\r\n\r\n")):
                exchange.write(b"\n\n")  # the event that broke off must not swallow this one
            exchange.write(self.dialect.error_event(problem))
        exchange.abort()

    def _caller_left(self) -> None:
        self._conclude(_GONE)

    def __repr__(self) -> str:
        return f"<Relay of {self.exchange!r}>"

    def _conclude(self, outcome: Outcome) -> None:
        """Nothing more is wanted from upstream, and the seat can go to somebody else."""
        call, self._call = self._call, None
        self._again = None  # it holds us, as we hold it
        if call is not None:
            call.cancel()
        done, self.done = self.done, None
        if done is not None:
            try:
                done(outcome)
            except Exception as error:  # the caller is to get the reply all the same
                report(error)


class _Back:
    """What goes back to the caller of a reply's headers."""

    __slots__ = ("content_type", "events", "lines")

    def __init__(self, headers: Lines) -> None:
        self.content_type = b""
        for name, value in headers:
            if name == b"content-type":
                self.content_type = value
        self.events = self.content_type.startswith(_EVENT_STREAM)
        self.lines = block(header for header in headers if comes_back[header[0]])


def _broke_off() -> UpstreamError:
    return UpstreamError("The inference server's reply broke off.", code="upstream_incomplete")


def _joined(pieces: list[bytes]) -> bytes:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _not_a_stream(status: int, body: bytes) -> UpstreamError:
    """The stream has begun with heartbeats, and now the server answers something else: what it says is for the caller."""
    text = body[:500].decode("utf-8", "replace")
    return UpstreamError(f"The inference server answered {status}: {text}", code="upstream_refused")
