"""HTTP/1.1 on a loopback socket, on the test's own loop: requests come in whole, responses go out whole or in chunks.

There are no tasks here, only callbacks, so nothing has to be waited for when a test ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from http import HTTPStatus

import httptools


class Exchange:
    """One request and what is answered."""

    def __init__(self, connection: Connection, method: str, target: str, headers: dict[str, str]) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = b""
        self.on_gone: Callable[[], None] = lambda: None
        """Called when the caller leaves before the end of the answer."""
        self.over = False
        self._connection = connection

    def answer(self, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        """The whole response."""
        extra = {"content-type": content_type} if content_type else {}
        self._head(status, extra | {"content-length": str(len(body))} | (headers or {}), body)
        self._over()

    def start(self, status: int, content_type: str, headers: dict[str, str] | None = None) -> None:
        """The head of a response whose pieces follow by `send`."""
        extra = {"content-type": content_type, "transfer-encoding": "chunked"}
        self._head(status, extra | (headers or {}), b"")

    def send(self, data: bytes) -> None:
        if not self.over:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        if not self.over:
            self._connection.write(b"0\r\n\r\n")
            self._over()

    def cut(self) -> None:
        """The connection breaks off."""
        self.over = True
        self._connection.abort()

    def _head(self, status: int, headers: dict[str, str], body: bytes) -> None:
        if self.over:
            return
        phrase = HTTPStatus(status).phrase
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        self._connection.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def _over(self) -> None:
        self.over = True
        self._connection.next()


class Connection(asyncio.Protocol):
    """One caller's connection: one exchange at a time."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._early: list[bytes] = []
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._listener.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._listener.connections.discard(self)
        if self._exchange is not None and not self._exchange.over:
            self._exchange.over = True
            self._exchange.on_gone()

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None:
            self._early.append(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            self.abort()
            raise  # a defect of the fake: let the loop tell of it
        except httptools.HttpParserError:
            self.abort()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._closing = not self._parser.should_keep_alive()
        method = self._parser.get_method().decode()
        exchange = Exchange(self, method, self._target.decode("latin-1"), self._headers)
        exchange.body = b"".join(self._body)
        self._exchange = exchange
        self._listener.handle(exchange)

    # What exchanges ask for

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def next(self) -> None:
        self._exchange = None
        if self._closing and self._transport is not None:
            self._transport.close()
        elif self._early:
            asyncio.get_running_loop().call_soon(self._feed_early)

    def _feed_early(self) -> None:
        data, self._early = b"".join(self._early), []
        if data:
            self.data_received(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Listener:
    """A port on the loopback interface. It can stop listening for a while and keeps its port."""

    def __init__(self, handle: Callable[[Exchange], None]) -> None:
        self.handle = handle
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._place = socket.socket()
        """Bound and never listening: it holds the port while nobody listens."""
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._place.bind(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        port: int = self._place.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), "127.0.0.1", self.port, reuse_port=True, backlog=1024
        )

    async def close(self) -> None:
        """Refuse new connections, and cut those there are."""
        if self._server is not None:
            self._server.close()
            for connection in list(self.connections):
                connection.abort()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while self.connections:  # noqa: ASYNC110 - the transports set no event when they are gone
                        await asyncio.sleep(0)
            self._server = None

    async def leave(self) -> None:
        await self.close()
        self._place.close()
