"""The edge without sockets: one transport in memory, for tests that try thousands of ways to cut a message."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.http.support import Ear, Reply, Shop, read_message, told

from ssis_dispatcher.http.client import Pool
from ssis_dispatcher.http.connection import Connection
from ssis_dispatcher.http.limits import Limits, UpstreamLimits
from ssis_dispatcher.http.server import Server
from ssis_dispatcher.http.upstream import UpstreamConnection


class MemoryTransport(asyncio.Transport):
    """Takes everything at once; closing is told to the protocol by `settle`."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written = bytearray()
        self.closing = False
        self.wrote_eof = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.closing, "written after the close"
        assert not self.wrote_eof, "written after the end"
        self.written += data

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        for data in list_of_data:
            self.write(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.wrote_eof = True

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@dataclass(frozen=True)
class Told:
    """What came of a message: replies (status, JSON without what differs each time), requests as the application saw
    them, and whether the connection was ended."""

    replies: tuple[tuple[int, str, bytes], ...]
    requests: tuple[str, ...]
    closed: bool


async def serve(pieces: Iterable[bytes], limits: Limits | None = None) -> Told:
    """Feed a listener's connection; every request is answered at once, and at the end the client leaves."""
    shop = Shop()
    server = Server(shop, limits, on_error=shop.errors.append)
    connection, transport = Connection(server), MemoryTransport()
    connection.connection_made(transport)
    for piece in pieces:
        if not transport.closing:
            connection.data_received(piece)
            server.outbox.flush()
    closed = transport.closing or transport.wrote_eof
    connection.connection_lost(None)
    assert server.inflight == 0
    assert server.statistics()["connections"] == 0
    assert not shop.errors
    assert all(shop.ended.count(exchange) == 1 for exchange in shop.admitted)
    replies = [(reply.status, reply.headers["content-type"], reply.body) for reply in await read_all(transport.written)]
    return Told(tuple(replies), tuple(str(told(exchange)) for exchange in shop.admitted), closed)


async def read_all(written: bytes | bytearray) -> list[Reply]:
    reader = asyncio.StreamReader(limit=2**22)
    reader.feed_data(bytes(written))
    reader.feed_eof()
    replies = []
    while not reader.at_eof():
        replies.append(await read_message(reader))
    return replies


@dataclass(frozen=True)
class Heard:
    """What came of a reply: how it ended, what was read of it, and whether the connection can be used again."""

    end: str
    code: str
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    reusable: bool


async def hear(
    pieces: Iterable[bytes], method: str = "POST", limits: UpstreamLimits | None = None, error: Exception | None = None
) -> Heard:
    """Feed an upstream connection with the reply to one request, and end it (by ``error``, else cleanly)."""
    pool = Pool(limits)
    upstream = pool.upstream(("127.0.0.1", 1))
    connection, transport = UpstreamConnection(pool, upstream), MemoryTransport()
    connection.connection_made(transport)
    ear = Ear()
    pool.send(("127.0.0.1", 1), method, b"/", [], b"", ear)
    for piece in pieces:
        if not transport.closing:
            connection.data_received(piece)
    reusable = connection in upstream.idle and not transport.closing
    connection.connection_lost(error)
    assert connection not in upstream.idle
    assert not upstream.waiting
    await pool.close()
    return Heard(ear.end, ear.code, ear.status, tuple(ear.headers), ear.body, reusable)


@dataclass(frozen=True)
class HeardInTurn:
    """One of several replies on a connection, and whether that could be used after it."""

    reply: tuple[str, str, int, tuple[tuple[bytes, bytes], ...], bytes]
    reusable: bool


async def hear_in_turn(replies: Iterable[Iterable[bytes]]) -> list[HeardInTurn]:
    """Feed one upstream connection with the replies to one request after the other, as long as it can be used."""
    pool = Pool()
    upstream = pool.upstream(("127.0.0.1", 1))
    connection, transport = UpstreamConnection(pool, upstream), MemoryTransport()
    connection.connection_made(transport)
    heard = []
    for pieces in replies:
        ear = Ear()
        pool.send(("127.0.0.1", 1), "POST", b"/", [], b"", ear)
        for piece in pieces:
            if piece and not transport.closing:
                connection.data_received(piece)
        if not ear.end:
            connection.connection_lost(None)
        reusable = connection in upstream.idle and not transport.closing
        heard.append(HeardInTurn((ear.end, ear.code, ear.status, tuple(ear.headers), ear.body), reusable))
        if not reusable:
            break
    if connection in pool.connections:
        connection.connection_lost(None)
    await pool.close()
    return heard


__all__ = ["Heard", "MemoryTransport", "Told", "hear", "hear_in_turn", "read_all", "serve"]
