"""C2. Callers who drip their head, their body, or do not read: each is seen off in its time, and the others are served."""

from __future__ import annotations

import asyncio
import contextlib

from tests.http.support import OriginCall, Reply, Wire, until
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, EVENTS, House, answer, chat, chat_body, chunk, head

SLOW = 50
PIECE = b"data: " + b"x" * 65_536 + b"\n\n"


async def drip(wire: Wire, start: bytes, more: bytes) -> Reply:
    """Say ``start``, then ``more`` again and again until there is an answer."""
    await wire.send(start)
    async with asyncio.TaskGroup() as tasks:
        answered = tasks.create_task(wire.reply())
        with contextlib.suppress(ConnectionError):
            while not answered.done():
                await wire.send(more)
                await asyncio.sleep(0.01)
    return answered.result()


async def against(house: House, start: bytes, more: bytes) -> None:
    """Many drip at once, and others ask meanwhile."""
    wires = await house.wires(SLOW)
    async with asyncio.TaskGroup() as tasks:
        dripping = [tasks.create_task(drip(wire, start, more)) for wire in wires]
        served = [(await house.ask(chat())).body for _ in range(10)]

    assert served == [CHAT] * 10
    assert {task.result().status for task in dripping} == {408}
    await until(lambda: house.connections[0] == 0 and not house.program.server.inflight)


async def test_who_drips_a_head_is_refused_and_the_others_served(open_house: OpenHouse) -> None:
    house = await open_house(head_timeout=0.15)
    await house.warm()
    await against(house, b"POST / HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"a")


async def test_who_drips_a_body_is_refused_and_the_others_served(open_house: OpenHouse) -> None:
    house = await open_house(limits={"body_grace": 0.15})
    await house.warm()
    start = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100000\r\n\r\n" + chat_body()[:-1]
    )
    await against(house, start, b" ")


async def test_who_says_nothing_at_all_is_not_kept(open_house: OpenHouse) -> None:
    house = await open_house(head_timeout=0.15, idle_timeout=0.15)
    await house.wires(SLOW)
    await until(lambda: house.connections[0] == SLOW)
    await until(lambda: house.connections[0] == 0)


async def test_who_does_not_read_is_cut_off_and_its_seat_given_on(open_house: OpenHouse) -> None:
    async def pours(call: OriginCall) -> None:
        await call.say(head(EVENTS, b"Transfer-Encoding: chunked"))
        while True:  # until the dispatcher has hung up
            await call.say(chunk(PIECE))

    house = await open_house(pours, limits={"stall_timeout": 0.15})
    wire = Wire(*await asyncio.open_connection("127.0.0.1", house.port, limit=1024))
    house.open_wires.append(wire)
    await wire.send(chat("solo", stream=True))
    await until(lambda: house.seated)
    await until(lambda: not house.seated and not house.origin.open)

    house.origin.script = answer
    assert (await house.ask(chat("solo"))).body == CHAT
