"""C4. Too long a body, target or head is refused before it is in memory, in whichever form it comes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.http.support import Wire, until
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, House, chat, chat_body, chunk, request, shape_of

MIB = 2**20
LIMIT = 64 * 1024
PATHS = ("/v1/chat/completions", "/", "/models/demo/generate")


def begun(path: str, *headers: bytes) -> bytes:
    lines = (b"POST %b HTTP/1.1" % path.encode(), b"Host: localhost", b"Content-Type: application/json", *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n"


@pytest.mark.parametrize("path", PATHS)
async def test_a_length_beyond_the_limit_is_refused_by_the_head_alone(open_house: OpenHouse, path: str) -> None:
    house = await open_house(max_body=LIMIT)
    wire = await house.wire()

    reply = await wire.ask(begun(path, b"Content-Length: %d" % (LIMIT + 1)))

    assert (reply.status, shape_of(reply, path)) == (413, "request_too_large")
    assert house.program.server.inflight == 0
    assert not house.platform.orders


@pytest.mark.parametrize("path", PATHS)
async def test_an_endless_body_is_taken_no_further_than_the_limit(open_house: OpenHouse, path: str) -> None:
    house = await open_house(max_body=LIMIT)
    wire = await house.wire()
    held = []

    async def pour() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await wire.send(chunk(b"a" * 8192))
                held.append(house.program.server.inflight)
                await asyncio.sleep(0)

    await wire.send(begun(path, b"Transfer-Encoding: chunked"))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pour())
        reply = await wire.reply()

    assert (reply.status, shape_of(reply, path)) == (413, "request_too_large")
    assert max(held) <= 2 * LIMIT
    assert not house.platform.orders


async def test_all_bodies_together_are_bounded(open_house: OpenHouse) -> None:
    house = await open_house(inflight_bytes=MIB)
    wires = [await house.wire() for _ in range(8)]
    declared = begun("/v1/chat/completions", b"Content-Length: %d" % (MIB // 4))
    for wire in wires:
        await wire.send(declared)

    refused = [await wire.reply() for wire in wires[4:]]

    assert {(reply.status, reply.headers["retry-after"] >= "1") for reply in refused} == {(503, True)}
    assert house.program.server.inflight <= MIB
    for wire in wires:
        await wire.close()
    await until(lambda: not house.program.server.inflight)
    assert (await house.ask(chat())).body == CHAT


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/v1/chat/completions?" + "a" * 100_000, chat_body()), 414),
        (chat("demo", *(b"X-%d: a" % number for number in range(1000))), 431),
        (chat("demo", b"X-A: " + b"a" * 100_000), 431),
        (chat("demo", *(b"X-A: " + b"a" * 1000 for _ in range(90))), 431),
    ],
    ids=["target", "headers", "header", "all headers together"],
)
async def test_a_head_beyond_the_limits_is_refused(house: House, sent: bytes, status: int) -> None:
    wire: Wire = await house.wire()

    reply = await wire.ask(sent)

    assert reply.status == status
    assert await wire.rest() == b""
    assert not house.platform.orders
