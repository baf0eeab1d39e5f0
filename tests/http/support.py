"""What the tests of the edge need: an application that remembers, a client of raw bytes, and a server of raw bytes.

Neither side uses the code that is tested, nor its parser: what goes over the wire is written and read here by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ssis_dispatcher.errors import Forbidden, UpstreamError
from ssis_dispatcher.http.client import Pool
from ssis_dispatcher.http.heads import Header
from ssis_dispatcher.http.limits import Limits
from ssis_dispatcher.http.server import Exchange, Handler, Server

PATIENCE = 10.0
"""Seconds after which a fact that was waited for will not come any more."""

QUICK = Limits(head_timeout=0.15, body_grace=0.15, idle_timeout=0.15, stall_timeout=0.3, linger=0.2, tick=0.02)
"""Limits that a test can wait for."""


async def until(fact: Callable[[], object]) -> None:
    """Wait for a fact, not for a while."""
    async with asyncio.timeout(PATIENCE):
        while not fact():  # noqa: ASYNC110 - a fact of sockets and kernels sets no event
            await asyncio.sleep(0.002)


def cut(data: bytes, *at: int) -> list[bytes]:
    """``data`` in pieces."""
    edges = [0, *sorted(at), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a != b]


class Shop:
    """An application. ``/hold…`` keeps its exchanges in ``held`` and lets the test answer; ``/break`` has a defect,
    ``/refuse`` is refused by `admit`; anything else is answered with what arrived, as JSON."""

    def __init__(self) -> None:
        self.admitted: list[Exchange] = []
        self.held: list[Exchange] = []
        self.ended: list[Exchange] = []
        self.errors: list[BaseException] = []
        self.gone: list[Exchange] = []

    def admit(self, exchange: Exchange) -> Handler:
        self.admitted.append(exchange)
        if exchange.path.startswith("/refuse"):
            raise Forbidden("Not for you.")
        if exchange.path.startswith("/hold"):
            return self._hold
        if exchange.path == "/break":
            return self._break
        if exchange.path == "/break-late":
            return self._break_late
        return self._tell

    def finished(self, exchange: Exchange) -> None:
        self.ended.append(exchange)

    def _hold(self, exchange: Exchange) -> None:
        exchange.on_gone = lambda: self.gone.append(exchange)
        self.held.append(exchange)

    def _break(self, exchange: Exchange) -> None:
        raise KeyError("a defect")

    def _break_late(self, exchange: Exchange) -> None:
        exchange.start(200, [])
        exchange.write(b"half")
        raise KeyError("a defect")

    def _tell(self, exchange: Exchange) -> None:
        exchange.reply(200, json.dumps(told(exchange)).encode())


def told(exchange: Exchange) -> dict[str, Any]:
    """A request as JSON can say it."""
    return {
        "method": exchange.method,
        "path": exchange.path,
        "query": exchange.query.decode("latin-1"),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in exchange.headers],
        "body": exchange.body.decode("latin-1"),
        "peer": exchange.peer,
    }


@dataclass
class Reply:
    """A reply as read from the wire. ``whole`` says whether its framing came to its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True
    chunks: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A client that speaks raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @staticmethod
    async def to(port: int, host: str = "127.0.0.1") -> Wire:
        return Wire(*await asyncio.open_connection(host, port))

    async def send(self, *pieces: bytes) -> None:
        """Send piece by piece; each has been taken by the kernel before the next."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0)

    async def reply(self, *, head: bool = False) -> Reply:
        """The next reply (``head``: to a HEAD request)."""
        async with asyncio.timeout(PATIENCE):
            return await read_message(self.reader, head=head)

    async def ask(self, *pieces: bytes) -> Reply:
        await self.send(*pieces)
        return await self.reply()

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def reset(self) -> None:
        """Leave with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def read_message(reader: asyncio.StreamReader, *, head: bool = False) -> Reply:
    """One reply, 1xx ones left out. Raises EOFError when there is none, AssertionError for bad framing."""
    while True:
        raw = await reader.readuntil(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        assert lines[0].startswith("HTTP/1.1 ")
        if status >= 200:
            break
    headers = {}
    for line in lines[1:-2]:
        name, _, value = line.partition(": ")
        assert name not in headers, f"{name} is there twice"
        headers[name] = value
    if head or status in (204, 304):
        return Reply(status, headers, b"")
    if headers.get("transfer-encoding") == "chunked":
        assert "content-length" not in headers
        return await _read_chunked(reader, status, headers)
    if "content-length" in headers:
        length = int(headers["content-length"])
        try:
            return Reply(status, headers, await reader.readexactly(length))
        except asyncio.IncompleteReadError as short:
            return Reply(status, headers, short.partial, whole=False)
    try:
        return Reply(status, headers, await reader.read())
    except ConnectionResetError:
        return Reply(status, headers, b"", whole=False)


async def _read_chunked(reader: asyncio.StreamReader, status: int, headers: dict[str, str]) -> Reply:
    chunks: list[bytes] = []
    try:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            chunks.append(await reader.readexactly(size))
            assert await reader.readexactly(2) == b"\r\n"
        assert await reader.readexactly(2) == b"\r\n"
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return Reply(status, headers, b"".join(chunks), False, chunks)
    return Reply(status, headers, b"".join(chunks), True, chunks)


Script = Callable[["OriginCall"], Awaitable[None]]


class OriginCall:
    """One request that has reached the origin, and its connection, for a script to answer."""

    def __init__(
        self, number: int, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ):
        self.number = number
        self.head = head
        self.body = body
        self.reader = reader
        self.writer = writer
        self.end = False

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:-2]
        return {name: value for name, _, value in (line.partition(": ") for line in lines)}

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.001)

    def close(self) -> None:
        """End the connection after what was said."""
        self.end = True

    def reset(self) -> None:
        """End the connection with RST."""
        self.end = True
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Origin:
    """An inference server of raw bytes: each request is answered by ``script``."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or plain
        self.calls: list[OriginCall] = []
        self.connections = 0
        self.open = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._is_open = False
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    async def start(self) -> None:
        self._is_open = True
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=2**22)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # All at once and not in the task: `stop` must also end what has been accepted a moment ago, and uvloop may tell of a
        # connection when its listener is closed already.
        if not self._is_open:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving[task] = writer
        self.connections += 1
        self.open += 1
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self.open -= 1
        self._serving.pop(task).close()
        if not task.cancelled():
            task.result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                call = OriginCall(len(self.calls), head, b"", reader, writer)
                call.body = await reader.readexactly(int(call.headers.get("content-length", "0")))
                self.calls.append(call)
                await self.script(call)
                if call.end:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    async def stop(self) -> None:
        if self._server is not None:
            self._is_open = False
            self._server.close()
            self._server = None
            tasks = list(self._serving)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def plain(call: OriginCall) -> None:
    """A small JSON reply."""
    body = b'{"number": %d}' % call.number
    await call.say(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def saying(*pieces: bytes, close: bool = False) -> Script:
    """A script that says this, and no more."""

    async def script(call: OriginCall) -> None:
        await call.say(*pieces)
        if close:
            call.close()

    return script


class Ear:
    """A receiver that remembers. ``end`` is ``ended``, ``failed`` or empty."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[Header] = []
        self.length: int | None = None
        self.pieces: list[bytes] = []
        self.end = ""
        self.error: UpstreamError | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def code(self) -> str:
        return "" if self.error is None else self.error.problem.code

    def on_reply(self, status: int, headers: list[Header], length: int | None, body: bytes) -> None:
        self.on_head(status, headers, length)
        if body:
            self.on_body(body)
        self.on_end()

    def on_head(self, status: int, headers: list[Header], length: int | None) -> None:
        assert not self.status, "two heads"
        assert not self.end, "a head after the end"
        self.status, self.headers, self.length = status, headers, length

    def on_body(self, data: bytes) -> None:
        assert self.status, "a body before the head"
        assert data, "an empty piece"
        assert not self.end, "a body after the end"
        self.pieces.append(data)

    def on_end(self) -> None:
        assert self.status, "an end before the head"
        assert not self.end, "two ends"
        self.end = "ended"

    def on_failed(self, error: UpstreamError) -> None:
        assert not self.end, "two ends"
        self.end, self.error = "failed", error

    async def wait(self) -> str:
        await until(lambda: self.end)
        return self.end


def ask(pool: Pool, origin: Origin, body: bytes = b"{}", method: str = "POST", **options: Any) -> Ear:
    """Send one request; who hears the answer."""
    ear = Ear()
    pool.send(origin.address, method, b"/generate", [(b"content-type", b"application/json")], body, ear, **options)
    return ear


__all__ = [
    "PATIENCE",
    "QUICK",
    "Ear",
    "Origin",
    "OriginCall",
    "Reply",
    "Script",
    "Server",
    "Shop",
    "Wire",
    "ask",
    "cut",
    "plain",
    "read_message",
    "saying",
    "told",
    "until",
]
