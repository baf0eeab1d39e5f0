"""U3. A server that hangs, in whichever phase: its time is limited, the caller gets a 504, and its seat is free again."""

from __future__ import annotations

import asyncio
import socket

from tests.http.support import OriginCall, until
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, EVENTS, answer, chat, chunk, counted, head, marked_stream, shape_of

from ssis_dispatcher.launchers.fake import Outcome


async def hang(call: OriginCall) -> None:
    """Until the dispatcher has hung up."""
    assert await call.reader.read() == b""
    call.close()


async def test_a_connection_that_never_stands(open_house: OpenHouse) -> None:
    house = await open_house(upstream_connect_timeout=0.05)
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)  # one is let in, and nobody takes it: the next ones' greetings are dropped
        with socket.socket() as first, socket.socket() as second:
            for sock in (first, second):
                sock.setblocking(False)
            await loop.sock_connect(first, deaf.getsockname())
            second.connect_ex(deaf.getsockname())
            house.platform.outcome = Outcome(address=f"127.0.0.1:{deaf.getsockname()[1]}")
            reply = await house.ask(chat("solo"))

    assert (reply.status, shape_of(reply, "/v1/")) == (504, "upstream_connect_timeout")
    assert not house.seated


async def test_an_answer_that_never_begins(open_house: OpenHouse) -> None:
    house = await open_house(hang, upstream_first_byte_timeout=0.05)

    reply = await house.ask(chat("solo"))

    assert (reply.status, shape_of(reply, "/v1/")) == (504, "upstream_timeout")
    await until(lambda: not house.seated and not house.origin.open)
    house.origin.script = answer
    assert (await house.ask(chat("solo"))).body == CHAT


async def test_a_stream_that_stops(open_house: OpenHouse) -> None:
    async def stops(call: OriginCall) -> None:
        await call.say(head(EVENTS, b"Transfer-Encoding: chunked"), chunk(b'data: {"choices":[]}\n\n'))
        await hang(call)

    house = await open_house(stops, upstream_idle_timeout=0.05)

    reply = await house.ask(chat("solo", stream=True))

    assert marked_stream(reply)
    assert b'"code":"upstream_idle_timeout"' in reply.body
    await until(lambda: not house.seated and not house.origin.open)
    house.origin.script = answer
    assert (await house.ask(chat("solo"))).body == CHAT


async def test_a_whole_answer_that_stops(open_house: OpenHouse) -> None:
    async def stops(call: OriginCall) -> None:
        await call.say(counted(CHAT)[:-9])
        await hang(call)

    house = await open_house(stops, upstream_idle_timeout=0.05)

    reply = await house.ask(chat("solo"))

    assert (reply.status, shape_of(reply, "/v1/")) == (504, "upstream_idle_timeout")
    await until(lambda: not house.seated and not house.origin.open)
