"""A server that keeps connections alive by its word, and closes each behind a stream (as llama.cpp's does)."""

from __future__ import annotations

import asyncio

from ssis_dispatcher.errors import UpstreamError
from ssis_dispatcher.http.client import Pool
from ssis_dispatcher.http.heads import Header

REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"Keep-Alive: timeout=5, max=100\r\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)


class Reply:
    """Receives one reply, then asks again on the same pool at once, as a line of waiting requests does."""

    def __init__(self, pool: Pool, address: tuple[str, int], left: int) -> None:
        self.pool, self.address, self.left = pool, address, left
        self.answered = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ask(self) -> None:
        self.left -= 1
        self.pool.send(self.address, "POST", b"/x", [], b"{}", self)

    def on_reply(self, status: int, headers: list[Header], length: int | None, body: bytes) -> None:
        self.on_end()

    def on_head(self, status: int, headers: list[Header], length: int | None) -> None:
        assert status == 200

    def on_body(self, data: bytes) -> None:
        pass

    def on_end(self) -> None:
        self.answered += 1
        if self.left:
            self.ask()
        else:
            self.over.set_result(None)

    def on_failed(self, error: UpstreamError) -> None:
        self.over.set_exception(error)


async def test_no_request_is_lost_however_many_streams_follow_each_other() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"{}")
            writer.write(REPLY)
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = Pool()
    reply = Reply(pool, server.sockets[0].getsockname()[:2], left=100)
    reply.ask()
    await reply.over

    assert reply.answered == 100
    assert pool.retries <= 1
    await pool.close()
    server.close()
    await server.wait_closed()
