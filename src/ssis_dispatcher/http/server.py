"""The listener: connections, strict framing, limits, time-outs, keep-alive, drain.

INTERFACE (fixed; the insides are free):

An `Application` is asked twice about each request. `admit` is called when the head is complete and before any body byte
is buffered; it may raise `DispatchError` (answered at once, the connection closed where the body is unread) or return
the handler. The handler is called once with the `Exchange` when the whole body is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Exchange:
    """One request and its reply, on one connection.

    Reply either with one `reply`, or with `start`, any number of `write`, and `finish` (or `abort`, which closes the
    connection so that the client cannot take what it has for complete). All calls are synchronous and never block:
    when the client reads slowly, `on_pause` is called, later `on_resume`. After the client left, `on_gone` is called
    once, and every reply call is a no-op. Header names are lower-case bytes.
    """

    method: str
    target: bytes  # as sent, origin form, after checks
    path: str  # percent-decoded, normalised; no "..", no "//", no control characters
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    peer: str  # the client's address; from the forwarding headers when the peer is a trusted proxy
    id: str  # request id: the caller's X-Request-Id where it is well-formed, else made here; sent back on every reply
    started: float  # loop time when the head was complete
    status: int  # of the reply; 0 before it starts
    sent: int  # reply body bytes handed to the transport
    gone: bool

    on_gone: Callable[[], None] | None
    on_pause: Callable[[], None] | None
    on_resume: Callable[[], None] | None

    def header(self, name: bytes) -> bytes | None: ...

    def reply(
        self, status: int, body: bytes, content_type: bytes = b"application/json", headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None: ...

    def start(self, status: int, headers: list[tuple[bytes, bytes]], length: int | None = None) -> None:
        """Send the head. ``length`` None means chunked (or until close for HTTP/1.0)."""

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...


Handler = Callable[[Exchange], None]


class Application(Protocol):
    """What the listener serves."""

    def admit(self, exchange: Exchange) -> Handler:
        """The handler for this request; only method, target, path, query, headers and peer are set yet."""

    def finished(self, exchange: Exchange) -> None:
        """Called once when the reply has ended, however it ended: for the access log and the counters."""
