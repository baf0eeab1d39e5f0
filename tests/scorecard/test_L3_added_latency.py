"""L3. Steady traffic: no errors, and the server sees every request once. (The milliseconds are the load form's.)"""

from __future__ import annotations

import asyncio

from tests.http.support import OriginCall, Wire
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, House, chat, proper_reply

CALLERS, EACH = 20, 15


async def test_every_request_of_steady_traffic_is_answered_once(house: House) -> None:
    await house.warm()

    async def caller(wire: Wire, name: int) -> list[tuple[int, bytes]]:
        replies = [await wire.ask(chat(text=f"{name}-{number}")) for number in range(EACH)]
        return [(reply.status, reply.body) for reply in replies]

    wires = await house.wires(CALLERS)
    answers = await asyncio.gather(*(caller(wire, name) for name, wire in enumerate(wires)))

    assert answers == [[(200, CHAT)] * EACH] * CALLERS
    bodies = [call.body for call in house.origin.calls]
    assert len(bodies) == len(set(bodies)) == CALLERS * EACH
    assert house.program.pool.retries == 0
    assert house.connections == (CALLERS, house.origin.open)


async def test_no_request_waits_while_a_seat_is_free(open_house: OpenHouse) -> None:
    seen = asyncio.Semaphore(0)
    go = asyncio.Event()

    async def slow(call: OriginCall) -> None:
        seen.release()
        await go.wait()
        await call.say(proper_reply(call))

    house = await open_house(slow)
    await house.warm()
    (server,) = house.program.dispatcher.statistics().servers
    wires = await house.wires(server.seats + 3)
    for wire in wires:
        await wire.send(chat())
    for _ in range(server.seats):
        async with asyncio.timeout(10):
            await seen.acquire()

    assert (house.seated, house.waiting) == (server.seats, 3)
    go.set()
    assert [(await wire.reply()).status for wire in wires] == [200] * len(wires)
