"""L2. When the waiting room is full the next one is told so, and when to come back; those who wait lose nothing by it."""

from __future__ import annotations

import asyncio

import pytest
from tests.http.support import until
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, chat, request, seed, shape_of

BOUND = 20


@pytest.mark.parametrize("bound", ["waiting_per_model", "waiting_total"])
async def test_as_many_again_are_refused_and_the_held_ones_answered(open_house: OpenHouse, bound: str) -> None:
    house = await open_house(**{bound: BOUND})
    house.platform.open.clear()
    held = await house.wires(BOUND)
    for wire in held:
        await wire.send(chat())
    await until(lambda: house.waiting == BOUND)

    refused = [await house.ask(chat() if number % 2 else seed()) for number in range(BOUND)]
    still = house.waiting
    house.platform.open.set()
    answered = await asyncio.gather(*(wire.reply() for wire in held))

    assert {reply.status for reply in refused} == {503}
    codes = {shape_of(reply, "/v1/" if number % 2 else "/") for number, reply in enumerate(refused)}
    assert codes == {"waiting_room_full"}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
    assert still == BOUND
    assert {(reply.status, reply.body) for reply in answered} == {(200, CHAT)}


async def test_the_bytes_of_held_requests_are_bounded_too(open_house: OpenHouse) -> None:
    house = await open_house(waiting_bytes=64 * 1024)
    house.platform.open.clear()
    held = await house.wire()
    await held.send(chat(text="a" * 50_000))
    await until(lambda: house.waiting)

    refused = await house.ask(chat(text="a" * 50_000))
    house.platform.open.set()

    assert (refused.status, shape_of(refused, "/v1/")) == (503, "waiting_room_full")
    assert (await held.reply()).status == 200


async def test_another_model_and_the_operations_are_served_meanwhile(open_house: OpenHouse) -> None:
    house = await open_house(waiting_per_model=2)
    await house.warm()
    house.platform.open.clear()
    for wire in await house.wires(2):
        await wire.send(chat("solo"))
    await until(lambda: house.waiting == 2)

    assert (await house.ask(chat("solo"))).status == 503
    assert (await house.ask(chat("demo"))).status == 200
    assert (await house.ask(request("/api/queue", method="GET"))).json["waiting"] == 2
