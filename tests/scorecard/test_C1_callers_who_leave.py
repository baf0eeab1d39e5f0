"""C1. A caller who leaves, wherever its request is, is noticed every time: the server stops what it was doing for it, and its
seat or its place in the line is another's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.http.support import OriginCall, Wire, until
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, EVENTS, House, answer, chat, chunk, generate, head, seed

CALLERS = 20


class Endless:
    """A server that begins a stream and says no more; ``stopped`` counts those whose other side has hung up."""

    def __init__(self) -> None:
        self.stopped = 0

    async def __call__(self, call: OriginCall) -> None:
        await call.say(head(EVENTS, b"Transfer-Encoding: chunked"), chunk(b'data: {"content":"a","stop":false}\n\n'))
        try:
            await call.reader.read()
        finally:
            self.stopped += 1
        call.close()


async def leave(number: int, wire: Wire) -> None:
    """Every second one with a reset."""
    if number % 2:
        wire.reset()
    else:
        await wire.close()


@pytest.mark.parametrize("make", [chat, seed, generate], ids=["openai", "ssis", "tgi"])
async def test_who_leaves_a_stream_stops_the_server(open_house: OpenHouse, make: Callable[..., bytes]) -> None:
    endless = Endless()
    house = await open_house(endless)
    for number in range(CALLERS):
        wire = await house.wire()
        await wire.send(make("solo", stream=True))
        await wire.reader.readuntil(b"\r\n\r\n")
        await leave(number, wire)
        await until(lambda: endless.stopped == number + 1)  # noqa: B023 - awaited within the round
        await until(lambda: not house.seated)

    assert len(house.origin.calls) == CALLERS
    house.origin.script = answer
    assert (await house.ask(chat("solo"))).body == CHAT


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_who_leaves_while_the_model_starts_asks_the_server_nothing(house: House, stream: bool) -> None:
    house.platform.open.clear()
    wires = await house.wires(CALLERS)
    for wire in wires:
        await wire.send(chat(stream=stream))
    await until(lambda: house.waiting == CALLERS)
    for number, wire in enumerate(wires):
        await leave(number, wire)
    await until(lambda: not house.waiting)
    house.platform.open.set()

    assert (await house.ask(chat())).body == CHAT
    assert len(house.origin.calls) == 1


async def test_who_leaves_the_line_of_a_busy_server_makes_room(open_house: OpenHouse) -> None:
    endless = Endless()
    house = await open_house(endless)
    busy = await house.wire()
    await busy.send(chat("solo", stream=True))
    await busy.reader.readuntil(b"\r\n\r\n")
    wires = await house.wires(CALLERS)
    for wire in wires:
        await wire.send(chat("solo"))
    await until(lambda: house.waiting == CALLERS)
    for number, wire in enumerate(wires):
        await leave(number, wire)
    await until(lambda: not house.waiting)

    house.origin.script = answer
    last = await house.wire()
    await last.send(chat("solo"))
    await until(lambda: house.waiting == 1)
    await busy.close()
    assert (await last.reply()).body == CHAT
    assert len(house.origin.calls) == 2
