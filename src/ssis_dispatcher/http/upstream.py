"""One connection to an inference server, and one request on it: how replies are read. Used by `client.Pool` alone.

The parser's callbacks only collect; the receiver is told when the parser has returned. So whatever the receiver does
(cancel, pause, send the next request on this very connection) meets a connection at rest, and the chunks that came in
one read are passed on as one piece.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import httptools
import msgspec

from ssis_dispatcher.errors import UpstreamError, UpstreamTimeout
from ssis_dispatcher.http.heads import Lines, lower
from ssis_dispatcher.http.known import Known

if TYPE_CHECKING:
    from ssis_dispatcher.http.client import Pool, Upstream

_SILENT, _SPOKEN, _HEADED, _DONE = range(4)
"""How far the reply has come: not a byte, some bytes, its head, all of it."""

_BODILESS = (204, 304)

_JOINED = 65_536
"""Up to this size head and body go out in one piece."""

_OURS = frozenset(
    (
        *(b"content-length", b"transfer-encoding", b"content-encoding"),
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
    )
)
"""Headers that are read here and not passed on."""


class Receiver(Protocol):
    """Who gets the reply. Calls come in the order head, body…, then exactly one of end and failed; or there is the one call
    of `on_reply`, when all of it has come in one piece."""

    def on_reply(self, status: int, headers: Lines, length: int | None, body: bytes) -> None:
        """The same as head, body and end: the usual case where a reply is small. The reply to HEAD never comes this way."""

    def on_head(self, status: int, headers: Lines, length: int | None) -> None:
        """Names are lower-case, hop-by-hop and framing headers are left out. ``length`` is that of the body, None when
        it is chunked or ends with the connection."""

    def on_body(self, data: bytes) -> None:
        """Body bytes, framing removed."""

    def on_end(self) -> None:
        """The reply is complete as far as HTTP can tell."""

    def on_failed(self, error: UpstreamError) -> None:
        """Refused, broken, garbled, too late. Nothing follows."""


class ReplyHead(NamedTuple):
    """What a reply's head says that may come again. ``keep``: the connection can be used again."""

    status: int
    headers: Lines
    keep: bool


class Call(msgspec.Struct, eq=False):
    """One request under way."""

    upstream: Upstream
    receiver: Receiver | None
    head: bytes
    body: bytes
    is_head: bool
    connection: UpstreamConnection | None = None
    first_byte_timeout: float | None = None
    timer: asyncio.TimerHandle | None = None
    retried: bool = False
    paused: bool = False
    waited: float = 0.0
    """Seconds spent waiting for a connection."""

    def cancel(self) -> None:
        """Close the upstream connection, which stops the generation; nothing is called after this."""
        self.receiver = None
        if self.timer is not None:
            self.timer.cancel()
        if self.connection is not None:
            self.connection.drop()
        elif self in self.upstream.waiting:
            self.upstream.waiting.remove(self)

    def pause(self) -> None:
        """Stop reading from upstream."""
        if not self.paused:
            self.paused = True
            if self.connection is not None:
                self.connection.pause()

    def resume(self) -> None:
        """Read on."""
        if self.paused:
            self.paused = False
            if self.connection is not None:
                self.connection.resume()

    def fail(self, error: UpstreamError) -> None:
        """Tell the receiver; it hears nothing more."""
        receiver, self.receiver = self.receiver, None
        self.connection = None
        if receiver is not None:
            self.upstream.count(error)
            receiver.on_failed(error)

    def __repr__(self) -> str:
        return f"<Call to {self.upstream.address}>"


class UpstreamConnection(asyncio.Protocol):
    """One connection; serves one call at a time."""

    __slots__ = (
        "_call",
        "_chunked",
        "_fed",
        "_fresh",
        "_headers",
        "_informational",
        "_keep",
        "_known",
        "_length",
        "_parser",
        "_parts",
        "_pending",
        "_pool",
        "_progress",
        "_quiet",
        "_stage",
        "_status",
        "_streamed",
        "_told",
        "_transport",
        "_upstream",
        "_write",
    )

    def __init__(self, pool: Pool, upstream: Upstream) -> None:
        self._pool = pool
        self._upstream = upstream
        self._call: Call | None = None
        self._fresh = True  # has not served a call yet
        self._quiet = 0.0  # seconds without a byte
        self._streamed = False  # a chunked reply has ended, less than a tick ago
        self._parts: list[bytes] = []
        self._stage = _SILENT
        self._pending = 0  # bytes since the parser last got anywhere
        self._expect()
        self._known: Known[ReplyHead] | None = None  # the head of the reply before, which may come again

    # The pool's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        self._parser = httptools.HttpResponseParser(self)
        self._pool.connections.add(self)
        self._upstream.connected(self)

    def begin(self, call: Call) -> None:
        """Send the request. Nothing is reported before the loop's next turn."""
        self._call = call
        call.connection = self
        self._stage = _SILENT
        self._quiet = 0.0
        if len(call.body) < _JOINED:
            self._pool.outbox.post(self._write, call.head + call.body)
        else:
            self._pool.outbox.flush()
            self._transport.writelines((call.head, call.body))
        if call.paused:
            self._transport.pause_reading()

    def pause(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._transport.is_closing():
            self._quiet = 0.0
            self._transport.resume_reading()

    def drop(self) -> None:
        """Close at once; the call under way is not told."""
        self._call = None
        self._shut()

    def abort(self) -> None:
        """Close at once; the call under way fails."""
        self._fail(UpstreamError("The dispatcher is shutting down.", code="shutting_down"))

    def _shut(self) -> None:
        self._pool.outbox.flush()
        self._transport.abort()

    def look(self, seconds: float) -> None:
        """Called by the sweep, ``seconds`` after the last time."""
        call, limits = self._call, self._pool.limits
        if call is not None and call.paused:
            return  # the silence is ours
        self._quiet += seconds
        self._streamed = False
        if call is None:
            if self._quiet > limits.keep_timeout:
                self._upstream.idle.pop(self, None)
                self._pool.outbox.flush()
                self._transport.close()
        elif self._stage == _SILENT:
            limit = call.first_byte_timeout or limits.first_byte_timeout
            if limit is not None and self._quiet > limit:
                self._fail(UpstreamTimeout(f"The inference server did not answer within {limit:g} seconds."))
        elif limits.idle_timeout is not None and self._quiet > limits.idle_timeout:
            self._fail(
                UpstreamTimeout(
                    f"The inference server fell silent for {limits.idle_timeout:g} seconds in the middle of its reply.",
                    code="upstream_idle_timeout",
                )
            )

    # The transport's side

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None:  # bytes that nobody asked for
            self._upstream.idle.pop(self, None)
            self._shut()
            return
        silent = self._stage == _SILENT
        if silent:
            known = self._known
            if known is not None and not call.is_head:
                at = known.body_at(data)
                if at:
                    self._streamed = False
                    status, headers, keep = known.head
                    receiver = self._free(call, keep)
                    if receiver is not None:
                        receiver.on_reply(status, headers, len(data) - at, data[at:])
                    return
            self._expect()
            self._stage = _SPOKEN
        self._quiet = 0.0
        self._fed = len(data)
        self._progress = False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep = False
            if self._stage != _DONE:  # else: bytes behind a complete reply
                self._deliver(call)
                if self._call is call:
                    self._fail(_reason(error))
                return
        if self._stage == _DONE and not self._told and not call.is_head:
            if silent and self._length is not None:
                self._remember(data, self._length)
            self._finish(call)
            return
        self._pending = 0 if self._progress else self._pending + self._fed
        if self._pending > self._pool.limits.max_head:
            self._fail(_head_too_large())
        else:
            self._deliver(call)

    def _remember(self, data: bytes, length: int) -> None:
        """The head of a whole reply that came in one piece."""
        if self._status not in _BODILESS and not self._informational:
            head = ReplyHead(self._status, self._headers, self._keep)
            self._known = self._pool.memory.keep(data, length, head, None)

    def _expect(self) -> None:
        """Forget the reply before: the parser begins with the next one."""
        self._headers = Lines()
        self._length: int | None = None
        self._chunked = self._told = False
        self._informational = self._pending = 0

    def _free(self, call: Call, keep: bool) -> Receiver | None:
        """The reply is complete: free the connection, so that what the receiver sends next can use it."""
        receiver = call.receiver
        call.receiver = call.connection = self._call = None
        self._fresh = False
        if not keep or self._transport.get_write_buffer_size():  # the server did not want all of the request
            self._shut()
        else:
            if call.paused:
                self._transport.resume_reading()
            self._upstream.release(self)
        return receiver

    def _deliver(self, call: Call) -> None:
        """Tell the receiver what has been collected. It may cancel at any point."""
        receiver = call.receiver
        if receiver is None:
            return
        if self._stage >= _HEADED and not self._told:
            self._told = True
            receiver.on_head(self._status, self._headers, self._length)
        parts = self._parts
        if parts:
            self._parts = []
            if self._call is call:
                receiver.on_body(parts[0] if len(parts) == 1 else b"".join(parts))
        if self._stage == _DONE and self._call is call:
            self._finish(call)

    def _finish(self, call: Call) -> None:
        """The reply is complete."""
        told, status, headers, length = self._told, self._status, self._headers, self._length
        parts, self._parts = self._parts, []
        self._streamed = self._chunked
        receiver = self._free(call, self._keep and not (self._chunked and self._upstream.hangs_up))
        if receiver is None:
            return
        if told:
            receiver.on_end()
        else:
            receiver.on_reply(status, headers, length, parts[0] if len(parts) == 1 else b"".join(parts))

    def eof_received(self) -> None:
        """The server has closed its side; `connection_lost` says what that means."""

    def connection_lost(self, exc: BaseException | None) -> None:
        self._pool.outbox.forget(self._write)
        self._pool.lost(self)
        self._upstream.idle.pop(self, None)
        call, self._call = self._call, None
        if self._streamed and (call is None or self._stage == _SILENT):
            self._upstream.hangs_up = True
        if call is not None and call.receiver is not None:
            self._left_early(call, exc)
        self._headers, self._parts, self._known = Lines(), [], None
        del self._parser  # holds us, as we hold it

    def _left_early(self, call: Call, exc: BaseException | None) -> None:
        """The connection went away in the middle of a call: is that the reply's end, its ruin, or worth another try?"""
        if self._stage == _SILENT:
            if not self._fresh and self._upstream.may_retry(call):
                call.connection = None
                self._upstream.dial(call)
            else:
                call.fail(
                    UpstreamError(
                        "The inference server closed the connection without an answer.", code="upstream_closed"
                    )
                )
        elif self._stage == _HEADED and self._length is None and not self._chunked and exc is None:
            receiver, call.receiver, call.connection = call.receiver, None, None
            if receiver is not None:
                receiver.on_end()
        else:
            call.fail(UpstreamError("The inference server's reply broke off.", code="upstream_truncated"))

    def _fail(self, error: UpstreamError) -> None:
        """Give the call up, and the connection with it."""
        call, self._call = self._call, None
        self._parts = []
        self._shut()
        if call is not None:
            call.fail(error)

    # The parser's side

    def on_message_begin(self) -> None:
        if self._stage == _DONE:
            raise _Surplus

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage >= _HEADED:  # a trailer
            return
        name = lower[name]
        if name in _OURS:
            self._take_note(name, value)
        else:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._stage == _DONE:
            raise _Surplus
        self._progress = True
        parser, limits, call = self._parser, self._pool.limits, self._call
        status = self._status = parser.get_status_code()
        if len(self._headers) > limits.max_headers or self._fed + self._pending > limits.max_head:
            self._check_size()
        if status < 200:
            self._skip_informational(status)
            return
        assert call is not None
        self._stage = _HEADED
        self._keep = parser.should_keep_alive()
        if call.is_head or status in _BODILESS:
            self._length = self._length or 0
            if call.is_head:
                self._stage = _DONE  # llhttp would wait for the body whose length is announced
                self._keep = False
        elif self._length is None and not self._chunked:
            self._keep = False

    def _check_size(self) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in self._headers)
        if len(self._headers) > self._pool.limits.max_headers or size > self._pool.limits.max_head:
            raise _head_too_large()

    def _skip_informational(self, status: int) -> None:
        """A 1xx reply: the real one is still to come. Raises `UpstreamError` for one that is none."""
        self._informational += 1
        if status in (0, 101) or self._informational > self._pool.limits.max_informational:
            raise _garbled("it sent too many or unasked-for 1xx replies")
        self._headers = Lines()
        self._length = None
        self._chunked = False

    def _take_note(self, name: bytes, value: bytes) -> None:
        """Framing ends here, and so does what else is for one hop."""
        if name == b"content-length":
            self._length = int(value)
        elif name == b"transfer-encoding":
            self._chunked = True
            if value.strip().lower() != b"chunked":
                raise _garbled("its Transfer-Encoding is not 'chunked'")
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise _garbled("it compressed its reply although it was told not to")

    def on_body(self, data: bytes) -> None:
        if self._stage == _DONE:  # a HEAD request has no reply body
            raise _Surplus
        self._progress = True
        self._parts.append(data)

    def on_message_complete(self) -> None:
        if self._stage == _HEADED:  # else: a 1xx reply
            self._stage = _DONE


class _Surplus(Exception):
    """Bytes behind a complete reply."""


def _reason(error: Exception) -> UpstreamError:
    """Our own refusal, raised in a callback, or what llhttp found."""
    cause = error.__context__
    if isinstance(cause, UpstreamError):
        return cause
    return _garbled("it was no valid HTTP")


def _garbled(what: str) -> UpstreamError:
    return UpstreamError(f"The inference server's reply could not be read: {what}.", code="upstream_garbled")


def _head_too_large() -> UpstreamError:
    return UpstreamError("The head of the inference server's reply is too large.", code="upstream_head_too_large")
