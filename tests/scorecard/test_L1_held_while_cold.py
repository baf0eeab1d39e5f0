"""L1. Whoever asks for a cold model is held, however many they are; one server is started, and all get their answer."""

from __future__ import annotations

import asyncio

from tests.http.support import Reply, until
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, House, chat, generate, request, seed

HELD = 200


async def test_two_hundred_are_held_for_one_launch_and_all_answered(house: House) -> None:
    house.platform.open.clear()
    wires = await house.wires(HELD)
    for wire in wires:
        await wire.send(chat())
    await until(lambda: house.waiting == HELD)
    await until(lambda: house.platform.orders)
    queue = (await house.ask(request("/api/queue", method="GET"))).json

    house.platform.open.set()
    replies: list[Reply] = await asyncio.gather(*(wire.reply() for wire in wires))

    assert queue["waiting"] == HELD
    assert [line["model"] for line in queue["lines"]] == ["demo"]
    assert {(reply.status, reply.body) for reply in replies} == {(200, CHAT)}
    assert len(house.origin.calls) == HELD
    assert len(house.platform.orders) == 1
    assert not house.waiting


async def test_callers_of_all_dialects_wait_for_the_same_server(house: House) -> None:
    house.platform.open.clear()
    asked = [make("demo", stream=stream) for make in (chat, seed, generate) for stream in (False, True)]
    wires = await house.wires(len(asked))
    for wire, sent in zip(wires, asked, strict=True):
        await wire.send(sent)
    await until(lambda: house.waiting == len(asked))

    house.platform.open.set()
    replies: list[Reply] = await asyncio.gather(*(wire.reply() for wire in wires))

    assert [reply.status for reply in replies] == [200] * len(asked)
    assert all(reply.whole and b"lo." in reply.body for reply in replies)
    assert len(house.platform.orders) == 1


async def test_a_held_stream_hears_what_it_waits_for_and_then_its_answer(open_house: OpenHouse) -> None:
    house = await open_house(heartbeat=0.02)
    house.platform.open.clear()
    for asked in (chat(stream=True), seed(stream=True), generate(stream=True)):
        wire = await house.wire()
        await wire.send(asked)
        head = await wire.reader.readuntil(b"\r\n\r\n")
        for _ in range(2):
            size = int(await wire.reader.readline(), 16)
            assert (await wire.reader.readexactly(size + 2)).startswith(b": waiting phase=")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"text/event-stream" in head

    house.platform.open.set()

    for wire in house.open_wires:
        rest = await wire.reader.readuntil(b"\r\n0\r\n\r\n")
        assert b"lo." in rest
        assert b'"error"' not in rest


async def test_a_held_request_can_be_asked_about(house: House) -> None:
    house.platform.open.clear()
    wire = await house.wire()
    await wire.send(chat("demo", b"X-Request-Id: mine-1"))
    await until(lambda: house.waiting)

    view = (await house.ask(request("/api/requests/mine-1", method="GET"))).json
    house.platform.open.set()

    assert (view["id"], view["model"], view["state"], view["position"]) == ("mine-1", "demo", "waiting", 1)
    assert (await wire.reply()).status == 200
