"""Whether a server that cannot tell by itself answers yet."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from ssis_dispatcher.launchers.process import health


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server whose paths are what it answers: ``/200``, ``/503``, ``/nonsense``."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].removeprefix(b"/")
        writer.write(b"HTTP/1.1 %s Whatever\r\nContent-Length: 0\r\n\r\n" % path if path.isdigit() else b"SSH-2.0\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(("path", "expected"), [("/200", True), ("/204", True), ("/503", False), ("/nonsense", False)])
async def test_only_a_success_counts(port: int, path: str, expected: bool) -> None:
    assert await health.answers("127.0.0.1", port, path) is expected


async def test_nobody_listening_is_no_answer() -> None:
    assert not await health.answers("127.0.0.1", health.free_port("127.0.0.1"), "/")


async def test_a_port_is_taken_or_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert health.is_taken("127.0.0.1", port)
        assert health.free_port("127.0.0.1") != port
    assert not health.is_taken("127.0.0.1", port)
