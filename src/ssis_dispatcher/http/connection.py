"""One client connection: reads requests, keeps their order, writes replies. Made by `Server` for each connection.

Theory of operation
-------------------
llhttp calls back while it is fed. A request is read by `on_message_begin`, `on_url`, `on_header`… until
`on_headers_complete`, where it becomes an `Exchange`: everything that can be refused by the head alone is refused there,
before a byte of body is kept, and the application says who will handle it. `on_body` collects, `on_message_complete`
hands over. One exchange at a time is *current*; those that were read behind it wait in ``_queue``, and reading stops
when there are many.

What goes wrong while reading is raised as a `DispatchError` inside a callback, comes out of ``feed_data``, and ends the
reading for good: after a framing error nobody knows where the next request begins. Its answer is an exchange like any
other, at the end of the queue, so that replies keep their order. Only a refusal by the application leaves the
connection alive, when what is left of the body is small enough to be thrown away.

Deadlines belong to the reading side. There is one for each connection, looked at by the server's sweep; each phase sets
it: none has a timer of its own.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, cast

import httptools

from ssis_dispatcher.errors import DispatchError, Problem
from ssis_dispatcher.http import heads
from ssis_dispatcher.http.exchange import Exchange
from ssis_dispatcher.http.heads import Head, Lines, lower, refusal
from ssis_dispatcher.http.known import Known

if TYPE_CHECKING:
    from ssis_dispatcher.http.server import Server

_NEVER = float("inf")
_IDLE, _HEAD, _BODY, _DEAF = range(4)
"""What the reading side waits for: a request, the rest of a head, the rest of a body, nothing any more."""

_SWALLOWED = 65_536
"""The largest body that is read and thrown away after the application has refused its head."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: on, zero seconds. Closing then sends RST instead of FIN."""

_MISSES = 4
"""Heads that are remembered in vain before that is left alone until the next sweep: who says another trace id with
every request need not pay for it."""

_NEEDS_A_LOOK = frozenset((b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"))


class Connection(asyncio.Protocol):
    """One client. ``peer`` is its address, ``trusted`` whether it is a proxy whose word counts."""

    __slots__ = (
        "_between",
        "_body",
        "_continue",
        "_current",
        "_deadline",
        "_fed",
        "_headers",
        "_incoming",
        "_known",
        "_lingers",
        "_misses",
        "_parsed",
        "_parser",
        "_paused_reading",
        "_pending",
        "_phase",
        "_progress",
        "_queue",
        "_received",
        "_requests",
        "_resumes_with",
        "_server",
        "_since",
        "_stalled",
        "_starting",
        "_transport",
        "_unsent",
        "_url",
        "_write",
        "last",
        "openings",
        "peer",
        "trusted",
        "write",
    )

    def __init__(self, server: Server) -> None:
        self._server = server
        self.openings = server.openings
        self._queue: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._incoming: Exchange | None = None
        self._known: Known[Head] | None = None  # the head of the request before, which may come again
        self._misses = 0  # how often another head came instead, since the last sweep
        self._between = True  # the parser is between two requests
        self._parsed: Head | None = None  # the head that the parser has read last, if it may be remembered
        self._headers = Lines()
        self._body: list[bytes] = []
        self._url = b""
        self._fed = 0  # size of what the parser is being fed
        self._pending = 0  # bytes fed since the parser last got anywhere
        self._progress = False
        self._received = 0  # body bytes of the request that is being read
        self._requests = 0
        self.last = server.draining  # the next reply to be written is to be the last one
        self._resumes_with = b""  # framing of the body behind an ignored Upgrade
        self._continue: Exchange | None = None  # whose 100 Continue is owed
        self._starting = self._paused_reading = self._lingers = False
        self._stalled = _NEVER  # since when the client leaves what we wrote unread
        self._unsent = 0  # how much that is
        self._phase = _IDLE
        self._deadline = self._since = _NEVER

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        self.write = partial(self._server.outbox.post, self._write)
        self._parser = httptools.HttpRequestParser(self)
        name = transport.get_extra_info("peername")
        self.peer: str = name[0] if name else ""
        self.trusted = self._server.trusts(self.peer)
        self._deadline = self._server.now + self._server.limits.head_timeout
        problem = self._server.entered(self)
        if problem is not None:
            self._refuse(problem)

    def data_received(self, data: bytes) -> None:
        known = self._known
        if known is not None and self._between and self._current is None and self._phase == _IDLE:
            at = known.body_at(data)
            if at and self._again(known.head, data[at:]):
                return
            self._misses += 1
        if self._phase == _DEAF:
            return
        between = self._between
        self._progress = False
        self._fed = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._after_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            if self._phase != _DEAF:  # else: more data behind a request that was to be the last
                self._refuse(self._reason(error))
            return
        if between and self._between and self._parsed is not None and self._misses < _MISSES:
            self._known = self._server.memory.keep(data, self._received, self._parsed, self.peer)
        if self._progress or self._phase == _IDLE:
            self._pending = 0
        else:
            self._pending += len(data)
            if self._pending > self._server.limits.max_head:
                self._refuse(_head_too_large(self._server.limits.max_head).problem)

    def _again(self, head: Head, body: bytes) -> bool:
        """A request whose head was read before, with all of its body. False where it needs a closer look."""
        server = self._server
        limits = server.limits
        size = len(body)
        inflight = server.inflight + size
        if size > limits.max_body or inflight > limits.inflight_bytes or self._stalled != _NEVER:
            return False
        self._current = exchange = self._exchange(head)
        exchange.body = body
        exchange.reserved = size
        server.inflight = inflight
        self._deadline = _NEVER
        if not exchange.keep:
            self._phase = _DEAF
        try:
            exchange.handler = server.application.admit(exchange)
        except Exception as error:
            self._current = None
            self._release(exchange)
            self._answer(exchange, self._problem(error))
        else:
            self._run(exchange)
        return True

    def _exchange(self, head: Head) -> Exchange:
        """The next request of this connection."""
        server = self._server
        self._requests = count = self._requests + 1
        id = head.id
        if id is None:
            server.numbers = number = server.numbers + 1
            id = f"{server.prefix}{number}"
        return Exchange(self, head, id, server.time(), head.keep and count < server.limits.keepalive_requests)

    def _problem(self, error: Exception) -> Problem:
        """What to answer when the application does not admit a request; anything but a refusal is a defect."""
        if isinstance(error, DispatchError):
            return error.problem
        self._server.failed(error)
        return DispatchError("The dispatcher failed on this request.").problem

    def _reason(self, error: httptools.HttpParserError) -> Problem:
        """What to answer to a request that cannot be read: our own refusal, raised in a callback, or llhttp's."""
        cause = error.__context__
        if isinstance(error, httptools.HttpParserCallbackError) and cause is not None:
            if isinstance(cause, DispatchError):
                return cause.problem
            self._server.failed(cause)
            return DispatchError("The dispatcher could not read this request.").problem
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            return heads.unknown_method().problem
        return Problem(400, "invalid_request", f"This is not HTTP/1.1: {error}.")

    def eof_received(self) -> None:
        """The client has closed its side, which is how clients leave: the transport closes."""

    def connection_lost(self, exc: BaseException | None) -> None:
        self._phase = _DEAF
        self._server.outbox.forget(self._write)
        self._server.left(self)
        gone, self._queue = [*self._queue], deque()
        if self._current is not None:
            gone.insert(0, self._current)
        if self._incoming is not None and self._incoming not in gone:
            gone.append(self._incoming)
        self._current = self._incoming = self._continue = None
        for exchange in gone:
            self._abandon(exchange)
        self._known = self._parsed = None
        self._headers, self._body = Lines(), []
        del self._parser  # holds us, as we hold it

    def _abandon(self, exchange: Exchange) -> None:
        exchange.gone = True
        told = exchange.on_gone
        try:
            if told is not None:
                told()
        except Exception as error:
            self._server.failed(error)
        self._end(exchange)

    def pause_writing(self) -> None:
        self._stalled = self._server.now
        self._unsent = self._transport.get_write_buffer_size()
        if self._current is not None and self._current.source is not None:
            self._current.source.pause()

    def resume_writing(self) -> None:
        self._stalled = _NEVER
        if self._current is None:
            self._advance()
        elif self._current.source is not None:
            self._current.source.resume()

    # The parser's side

    def on_message_begin(self) -> None:
        self._between = False

    def on_url(self, url: bytes) -> None:
        if self._phase != _HEAD:
            self._begin()
        self._url += url
        if len(self._url) > self._server.limits.max_url:
            raise refusal(
                414, "uri_too_long", f"The request target is longer than {self._server.limits.max_url} bytes."
            )

    def _begin(self) -> None:
        """The first bytes of a request. Raises `DispatchError` (503) when too many wait before it."""
        limits = self._server.limits
        if self._phase == _DEAF:  # the request before this one was the last
            raise _last_was_last()
        if self._queue and len(self._queue) >= limits.max_pipelined:
            raise refusal(503, "too_many_pipelined", "Too many requests wait on this connection. Use more connections.")
        self._url = b""
        self._headers = Lines()
        self._phase = _HEAD
        self._deadline = self._server.now + limits.head_timeout

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((lower[name], value))

    def on_headers_complete(self) -> None:
        self._progress = True
        if self._resumes_with:  # our own words, not the client's
            self._phase = _BODY
            return
        server = self._server
        limits = server.limits
        headers = self._headers
        if self._fed + self._pending > limits.max_head or len(headers) > limits.max_headers:
            self._check_size()
        index = dict(headers)
        parser = self._parser
        old = False
        keep = parser.should_keep_alive()
        if not keep or b"connection" in index:  # HTTP/1.1 without a word about it stays alive
            old = _is_old(parser.get_http_version())
        if len(index) != len(headers):
            heads.check_repeated(headers)
        host = index.get(b"host")
        if host is None and not old:
            raise refusal(400, "missing_host", "The request has no Host header.")
        announced = index.pop(b"content-length", None)  # framing ends here; the head may come again with another length
        if announced is not None:
            headers.remove((b"content-length", announced))
        method, target, path, query = heads.parse_target(parser.get_method(), self._url, host)
        peer = heads.forwarded_peer(headers, self.peer, server.trusted) if self.trusted else self.peer
        self._parsed = head = Head(method, target, path, query, headers, index, peer, keep, old)
        head.id = heads.request_id(index.get(b"x-request-id"))
        exchange = self._exchange(head)
        self._incoming = exchange
        self._headers = Lines()  # what comes now are trailers, which nobody sees
        self._received = 0
        self._phase = _BODY
        length = int(announced or 0)
        if not _NEEDS_A_LOOK.isdisjoint(index):
            self._look(exchange, index, length)
        if length:
            self._announce(exchange, length)
        self._admit(exchange, length)

    def _check_size(self) -> None:
        limits = self._server.limits
        if len(self._headers) > limits.max_headers:
            raise refusal(431, "too_many_headers", f"The request has more than {limits.max_headers} header lines.")
        size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
        if size > limits.max_head:
            raise _head_too_large(limits.max_head)

    def _announce(self, exchange: Exchange, length: int) -> None:
        """A body of ``length`` bytes (more) is coming: is there room for it? Raises `DispatchError`: 413, 503."""
        server = self._server
        limits = server.limits
        exchange.reserved += length
        server.inflight += length
        if exchange.reserved > limits.max_body:
            raise refusal(413, "request_too_large", f"The body is larger than {limits.max_body} bytes.")
        if server.inflight > limits.inflight_bytes:
            raise refusal(
                503, "too_much_in_flight", "The bodies of all requests together fill the memory set aside.", 1.0
            )
        self._since = now = server.now
        self._deadline = now + limits.body_grace

    def _look(self, exchange: Exchange, index: dict[bytes, bytes], length: int) -> None:
        """At the headers that few requests have. Raises `DispatchError`: 400, 415, 417, 501."""
        self._parsed = None
        chunked = heads.check_coding(index, exchange.old)
        if chunked:
            self._announce(exchange, 0)
        if b"upgrade" in index and self._parser.should_upgrade():
            # Ignoring an Upgrade is allowed, and Java's client sends one with every first request. llhttp however skips
            # the body and wants the connection handed over; see `_after_upgrade`.
            self._resumes_with = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % length
        expected = index.get(b"expect")
        if expected is not None and not exchange.old:
            if expected.strip().lower() != b"100-continue":
                raise refusal(417, "expectation_failed", "The only expectation that is understood is '100-continue'.")
            if chunked or length:
                self._continue = exchange

    def _admit(self, exchange: Exchange, length: int) -> None:
        """Ask the application who handles this. When it refuses, it is answered at once; the body is thrown away where
        that is cheap, else the connection ends."""
        try:
            exchange.handler = self._server.application.admit(exchange)
        except Exception as error:
            problem = self._problem(error)
            chunked = exchange.header(b"transfer-encoding") is not None
            if chunked or length > _SWALLOWED or self._continue is exchange:
                raise DispatchError.of(problem) from None
            self._incoming = None
            self._release(exchange)
            self._answer(exchange, problem)
            return
        if self._continue is exchange and self._current is None:
            self._say_continue()

    def on_body(self, data: bytes) -> None:
        self._progress = True
        self._received += len(data)
        exchange = self._incoming
        if exchange is None:  # refused: what is left of its body
            return
        if self._received > exchange.reserved:
            self._announce_more(exchange)
        self._body.append(data)

    def _announce_more(self, exchange: Exchange) -> None:
        """A chunked body has outgrown what was reserved for it."""
        since, deadline = self._since, self._deadline
        self._announce(exchange, self._received - exchange.reserved)
        self._since, self._deadline = since, deadline  # the pace is that of the whole body

    def on_message_complete(self) -> None:
        if self._phase == _DEAF:
            return
        if self._resumes_with and self._parser.should_upgrade():
            return  # llhttp has skipped the body; `_after_upgrade` reads it
        self._resumes_with = b""
        self._between = True
        self._phase = _IDLE
        self._deadline = _NEVER
        exchange = self._incoming
        if exchange is None:
            if self._current is None:
                self._deadline = self._server.now + self._server.limits.idle_timeout
            return
        self._incoming = None
        if self._continue is exchange:
            self._continue = None
        body = self._body
        if body:
            exchange.body = body[0] if len(body) == 1 else b"".join(body)
            self._body = []
        if not exchange.keep:
            self._phase = _DEAF
        if self._current is None and self._stalled == _NEVER:
            self._run(exchange)
        else:
            self._enqueue(exchange)

    def _after_upgrade(self, rest: bytes) -> None:
        """Go on behind a head whose Upgrade is ignored: a new parser, told of the body's framing in words of ours."""
        if self._phase == _DEAF:
            return
        self._parser = httptools.HttpRequestParser(self)
        deadline = self._deadline
        self.data_received(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % self._resumes_with)
        self._deadline = min(deadline, self._deadline)
        if rest:
            self.data_received(rest)

    # Requests, in order

    def _enqueue(self, exchange: Exchange) -> None:
        self._queue.append(exchange)
        if not self._paused_reading and len(self._queue) * 4 >= self._server.limits.max_pipelined:
            self._paused_reading = True
            self._transport.pause_reading()

    def _run(self, exchange: Exchange) -> None:
        """Let the handler answer. An error that it lets out is a defect, answered 500 and reported."""
        self._current = exchange
        handler = exchange.handler
        assert handler is not None
        try:
            handler(exchange)
        except Exception as error:
            self._server.failed(error)
            if exchange.status:
                exchange.abort()
            elif not exchange.ended:
                exchange.reply(500, *self._server.render(exchange, DispatchError("The dispatcher failed.").problem))

    def replied(self, exchange: Exchange) -> None:
        """The reply is written, as far as the transport takes it; whose turn is it?"""
        self._current = None
        self._end(exchange)
        if not exchange.keep:
            self.close()
        elif self._queue:
            self._advance()
        elif self._phase == _IDLE:
            self._deadline = self._server.now + self._server.limits.idle_timeout
        elif self._continue is not None:
            self._say_continue()

    def _advance(self) -> None:
        """Run what waits, until something has to wait again. Never from within itself: a long queue is no deep stack."""
        if self._starting:
            return
        self._starting = True
        while self._queue and self._current is None and self._stalled == _NEVER:
            self._run(self._queue.popleft())
        self._starting = False
        if self._paused_reading and not self._queue and self._phase != _DEAF:
            self._paused_reading = False
            if self._phase != _IDLE:  # the pause was ours: the client's time begins anew
                self._deadline = self._server.now + self._server.limits.head_timeout
                self._since = self._server.now
            self._transport.resume_reading()

    def _say_continue(self) -> None:
        self._continue = None
        self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _end(self, exchange: Exchange) -> None:
        """The exchange is over, however it ended."""
        server = self._server
        server.inflight -= exchange.reserved
        exchange.reserved = 0
        exchange.ended = True
        # no cycle may keep it alive until the garbage collector comes
        exchange.on_gone = exchange.source = exchange.handler = None
        try:
            server.application.finished(exchange)
        except Exception as error:
            server.failed(error)

    def _release(self, exchange: Exchange) -> None:
        self._server.inflight -= exchange.reserved
        exchange.reserved = 0

    # Refusing, closing

    def _refuse(self, problem: Problem) -> None:
        """Answer in turn that the request cannot be read, or may not be; nothing is read after it."""
        self._phase = _DEAF
        self._deadline = _NEVER
        exchange, self._incoming = self._incoming, None
        if exchange is None:
            nothing = Head("", b"", "", b"", Lines(), {}, self.peer)
            exchange = self._exchange(nothing)
        self._body = []
        self._continue = None
        self._release(exchange)
        exchange.keep = False
        self._answer(exchange, problem)

    def _answer(self, exchange: Exchange, problem: Problem) -> None:
        """Reply with an error when the exchange's turn comes."""
        server = self._server
        self._lingers = True
        server.refused[problem.status] = server.refused.get(problem.status, 0) + 1

        def handler(exchange: Exchange) -> None:
            body, content_type = server.render(exchange, problem)
            exchange.reply(problem.status, body, content_type, heads.retry_headers(problem))

        exchange.handler = handler
        if self._current is None and self._stalled == _NEVER:
            self._run(exchange)
        else:
            self._queue.append(exchange)

    def give_up(self, exchange: Exchange, hard: bool) -> None:
        """End the connection without a clean end of the reply. ``hard``: by RST, where only the close tells the end."""
        self._phase = _DEAF
        if hard:
            self._reset()
        else:
            self._leave()
        self._abandon_others(exchange)

    def _abandon_others(self, exchange: Exchange) -> None:
        """The current exchange was given up by its own handler, which needs no telling; those behind it are gone too."""
        self._current = None
        exchange.gone = True
        self._end(exchange)
        while self._queue:
            self._abandon(self._queue.popleft())

    def _reset(self) -> None:
        self._server.outbox.flush()
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def close(self) -> None:
        """Close when everything is written. After a refusal the client may still be sending, and a close over unread bytes
        would be an RST that destroys the answer: so its side is awaited for a while."""
        self._phase = _DEAF
        while self._queue:
            self._abandon(self._queue.popleft())
        if self._paused_reading:
            self._paused_reading = False
            self._transport.resume_reading()
        if self._lingers:
            self._server.outbox.flush()
            if self._transport.can_write_eof():
                self._transport.write_eof()
            self._deadline = self._server.now + self._server.limits.linger
        else:
            self._leave()

    def _leave(self) -> None:
        """Close when everything is written; `_overdue` watches that it gets on."""
        self._server.outbox.flush()
        self._transport.close()
        self._unsent = self._transport.get_write_buffer_size()
        self._stalled = _NEVER
        self._deadline = self._server.now + self._server.limits.stall_timeout

    # The server's side

    @property
    def congested(self) -> bool:
        """The transport holds more than it wants to."""
        return self._stalled != _NEVER

    @property
    def idle(self) -> bool:
        """Nothing is being read, answered or waiting."""
        return self._phase == _IDLE and self._current is None and not self._queue

    def look(self, now: float) -> None:
        """Called by the sweep."""
        self._misses = 0
        if now >= self._deadline and not self._paused_reading:
            self._overdue(now)
        elif now - self._stalled > self._server.limits.stall_timeout:
            if self._drains():
                self._stalled = now
            else:
                self.shut()

    def _overdue(self, now: float) -> None:
        limits = self._server.limits
        if self._phase == _BODY:
            if self._received >= limits.body_rate * (now - self._since):
                self._deadline = now
                return
            self._refuse(
                Problem(408, "body_timeout", f"The body came at less than {limits.body_rate} bytes per second.")
            )
        elif self._phase == _HEAD:
            self._refuse(
                Problem(408, "head_timeout", f"The head was not complete after {limits.head_timeout:g} seconds.")
            )
        elif self._phase == _DEAF and self._drains():
            self._deadline = now + limits.stall_timeout
        elif self._phase == _DEAF:
            self.shut()
        elif self.idle:
            self.close()
        else:
            self._deadline = _NEVER

    def _drains(self) -> bool:
        """Whether the client has taken anything of what is written to it since the last look."""
        unsent, self._unsent = self._unsent, self._transport.get_write_buffer_size()
        return self._unsent < unsent

    def shut(self) -> None:
        """Close at once, whatever is going on."""
        self._server.outbox.flush()
        self._transport.abort()


def _head_too_large(most: int) -> DispatchError:
    return refusal(431, "head_too_large", f"The request head is larger than {most} bytes.")


def _last_was_last() -> DispatchError:
    return refusal(400, "connection_closed", "The connection ends with the reply to the request before this one.")


def _is_old(version: str) -> bool:
    """Whether this is HTTP/1.0. Raises `DispatchError` (505) for anything but 1.0 and 1.1."""
    if version not in ("1.0", "1.1"):
        raise refusal(505, "unsupported_version", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
    return version == "1.0"
