"""One request and its reply, as handlers see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ssis_dispatcher.http.heads import Head, Header, block

if TYPE_CHECKING:
    from ssis_dispatcher.http.connection import Connection

Handler = Callable[["Exchange"], None]

_JOINED = 65_536
"""Up to this size head and body are copied into one piece, which is cheaper than two writes."""

_CHUNKED, _COUNTED, _UNTIL_CLOSE, _MUTE = range(4)

_BODILESS = (204, 304)


class Source(Protocol):
    """Where a reply comes from, as far as it can be slowed down."""

    def pause(self) -> None:
        """The client reads more slowly than is written."""

    def resume(self) -> None:
        """It has caught up."""


class Exchange:
    """One request and its reply, on one connection.

    Reply either with one `reply`, or with `start`, any number of `write`, and `finish` (or `abort`, which closes the
    connection so that the client cannot take what it has for complete). All calls are synchronous and never block:
    when the client reads slowly, its `source` is paused, and later resumed; an exchange begins unpaused. After the client
    left, `on_gone` is called once, and every reply call is a no-op. Header names are lower-case bytes.

    Made by the connection when the head is complete; ``body`` is there when the handler is called.
    """

    __slots__ = (
        "_framing",
        "_head",
        "_left",
        "body",
        "connection",
        "ended",
        "extra",
        "gone",
        "handler",
        "head",
        "id",
        "keep",
        "on_gone",
        "reserved",
        "sent",
        "source",
        "started",
        "status",
        "tag",
    )

    head: Head
    """What the request's head says."""
    body: bytes
    id: str
    """The caller's X-Request-Id where it is well-formed, else made here; sent back on every reply."""
    started: float
    """Loop time when the head was complete."""
    keep: bool
    """Whether the connection lives on, as far as the client lets it."""
    status: int
    """Of the reply; 0 before it starts."""
    sent: int
    """Reply body bytes handed to the transport."""
    gone: bool
    """The client left, or the connection was given up."""
    ended: bool
    """The reply has ended, or the client left before that."""
    reserved: int
    """Body bytes that count as in flight."""
    tag: object
    """The application's own, for whatever it wants to find again in `finished`."""
    extra: tuple[Header, ...]
    """Headers that go on every reply to this request, whoever writes it (set by the application)."""
    handler: Handler | None
    """Who answers; None until `Application.admit` has said it."""
    on_gone: Callable[[], None] | None
    source: Source | None
    _framing: int
    _left: int

    def __init__(self, connection: Connection, head: Head, id: str, started: float, keep: bool) -> None:
        self.connection = connection
        self.head = head
        self.id = id
        self.started = started
        self.keep = keep
        self.body = self._head = b""
        self.status = self.sent = self.reserved = 0
        self.gone = self.ended = False
        self.tag = self.handler = self.on_gone = self.source = None
        self.extra = ()

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def target(self) -> bytes:
        """Origin form, after checks."""
        return self.head.target

    @property
    def path(self) -> str:
        """Percent-decoded; no "..", no "//", no control characters."""
        return self.head.path

    @property
    def query(self) -> bytes:
        return self.head.query

    @property
    def headers(self) -> list[Header]:
        return self.head.headers

    @property
    def peer(self) -> str:
        """The client's address; from the forwarding headers when the peer is a trusted proxy."""
        return self.head.peer

    @property
    def old(self) -> bool:
        """HTTP/1.0."""
        return self.head.old

    def header(self, name: bytes) -> bytes | None:
        """The value of a header, by its lower-case name. Where a list header is repeated, this is its last line."""
        return self.head.index.get(name)

    @property
    def paused(self) -> bool:
        """The client reads more slowly than is written: its `source` will be told when to go on."""
        return self.connection.congested

    def reply(
        self,
        status: int,
        body: bytes,
        content_type: bytes = b"application/json",
        headers: tuple[Header, ...] = (),
    ) -> None:
        """The whole reply at once."""
        self.answer(status, [(b"content-type", content_type), *headers], body)

    def answer(self, status: int, headers: list[Header], body: bytes) -> None:
        """The whole reply at once, with any headers. Raises RuntimeError when it has already begun."""
        self.answer_with(status, block(headers), body)

    def answer_with(self, status: int, lines: bytes, body: bytes) -> None:
        """`answer` with headers that are written already (`heads.block`)."""
        if self.gone or self.ended:
            return
        connection, request = self.connection, self.head
        size = len(body)
        if (
            request.plain
            and self.keep
            and status == 200
            and size <= _JOINED
            and not (self.status or connection.last or self.extra)
        ):
            self.status = 200  # by far the most, in one breath; all others the long way, to the same bytes
            self.sent = size
            length = b"\r\ncontent-length: %d\r\n\r\n" % size
            pieces = (connection.openings[200], self.id.encode(), lines, length, body)
            connection.write(b"".join(pieces))
            connection.replied(self)
            return
        head = self._opening(status, lines, size)
        if self._framing == _COUNTED:
            self._left = 0
            self.sent = size
            connection.write(head)
            connection.write(body)
        else:
            connection.write(head)
        connection.replied(self)

    def start(self, status: int, headers: list[Header], length: int | None = None) -> None:
        """Begin the reply. ``length`` is the body's; its head then goes out with the first bytes of the body. None means
        chunked (or until close for HTTP/1.0). Raises RuntimeError when the reply has already begun."""
        if self.gone or self.ended:
            return
        head = self._opening(status, block(headers), length)
        if self._left and self._framing == _COUNTED:
            self._head = head
        else:
            self.connection.write(head)

    def take_back(self) -> bool:
        """Undo a `start` of which nothing has been sent yet; whether that could be done."""
        unsent = bool(self._head) and not (self.gone or self.ended)
        if unsent:
            self._head = b""
            self.status = 0
        return unsent

    def _opening(self, status: int, lines: bytes, length: int | None) -> bytes:
        """The reply's head. Decides how the body's end is told (RFC 9112 §6.3) and whether the connection lives on."""
        if self.status:
            raise RuntimeError("The reply has already begun.")
        self.status = status
        self._left = length or 0
        request, connection = self.head, self.connection
        if self.extra:
            lines += block(self.extra)
        mute = status in _BODILESS or request.method == "HEAD"
        if length is not None:
            self._framing = _MUTE if mute else _COUNTED
            if status != 204:
                lines += b"\r\ncontent-length: %d" % length
        elif mute:
            self._framing = _MUTE
        elif request.old:
            self._framing = _UNTIL_CLOSE
            self.keep = False
        else:
            self._framing = _CHUNKED
            lines += b"\r\ntransfer-encoding: chunked"
        if connection.last or not self.keep:
            self.keep = False
            lines += b"\r\nconnection: close"
        elif request.old:
            lines += b"\r\nconnection: keep-alive"
        return b"%b%b%b\r\n\r\n" % (connection.openings[status], self.id.encode(), lines)

    def write(self, data: bytes) -> None:
        """More of the body. Raises RuntimeError before `start`, and for more than the length that was announced."""
        if self.gone or self.ended or not data:
            return
        if not self.status:
            raise RuntimeError("The reply has not begun.")
        framing = self._framing
        if framing == _CHUNKED:
            self.sent += len(data)
            self.connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        elif framing == _COUNTED:
            self._write_counted(data)
        elif framing == _UNTIL_CLOSE:
            self.sent += len(data)
            self.connection.write(data)

    def _write_counted(self, data: bytes) -> None:
        size = len(data)
        if size > self._left:
            raise RuntimeError("The reply is longer than was announced.")
        self._left -= size
        self.sent += size
        head = self._head
        if head:
            self._head = b""
            if size > _JOINED:
                self.connection.write(head)
            else:
                data = head + data
        self.connection.write(data)

    def finish(self) -> None:
        """The reply is complete. One that is shorter than was announced is aborted."""
        if self.gone or self.ended:
            return
        if not self.status:
            raise RuntimeError("The reply has not begun.")
        if self._framing == _CHUNKED:
            self.connection.write(b"0\r\n\r\n")
        elif self._framing == _COUNTED and self._left:
            self.abort()
            return
        self.connection.replied(self)

    def abort(self) -> None:
        """Give the connection up, so that what the client has does not look complete; what was written still goes out."""
        if not self.gone and not self.ended:
            self.connection.give_up(self, hard=self.status != 0 and self._framing == _UNTIL_CLOSE)

    def __repr__(self) -> str:
        return f"<Exchange {self.id}: {self.head.method} {self.head.path}, {self.status}>"
