"""L4. Traffic that doubles and trebles: callers wait their turn, and nobody gets an error."""

from __future__ import annotations

import asyncio

from tests.http.support import OriginCall, Wire
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, CHAT_EVENTS, chat, proper_reply

STEPS = (20, 40, 60)
EACH = 3


async def test_bursts_beyond_all_seats_are_served_without_errors(open_house: OpenHouse) -> None:
    async def busy(call: OriginCall) -> None:
        await asyncio.sleep(0.005)
        await call.say(proper_reply(call))

    house = await open_house(busy)

    async def caller(wire: Wire) -> list[tuple[int, bytes]]:
        replies = [await wire.ask(chat(stream=number % 2 == 1)) for number in range(EACH)]
        return [(reply.status, reply.body) for reply in replies]

    for callers in STEPS:
        answers = await asyncio.gather(*(caller(wire) for wire in await house.wires(callers)))
        expected = [(200, b"".join(CHAT_EVENTS) if number % 2 else CHAT) for number in range(EACH)]
        assert answers == [expected] * callers

    assert len(house.origin.calls) == sum(STEPS) * EACH
    assert house.program.pool.statistics()["retries"] == 0
    assert house.program.metrics.requests == {("openai", "2xx", "ok"): sum(STEPS) * EACH}
