"""L5. Every chunk is passed on at once: the server sends the next one only after the caller has seen the one before."""

from __future__ import annotations

import asyncio

import pytest
from tests.http.support import OriginCall, Wire
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import EVENTS, chat, chunk, generate, head, seed

STREAMS, TOKENS = 30, 10


class Steps:
    """A server that takes one step for each that a caller has seen. The first word of the prompt tells the stream."""

    def __init__(self, event: bytes, last: bytes) -> None:
        self._event = event
        self._last = last
        self.seen = [asyncio.Semaphore(0) for _ in range(STREAMS)]

    async def __call__(self, call: OriginCall) -> None:
        stream = next(number for number in range(STREAMS) if b'"<%d>"' % number in call.body)
        await call.say(head(EVENTS, b"Transfer-Encoding: chunked"))
        for number in range(TOKENS):
            await call.say(chunk(self._event % number))
            async with asyncio.timeout(10):
                await self.seen[stream].acquire()
        await call.say(chunk(self._last), b"0\r\n\r\n")


async def read_chunk(wire: Wire) -> bytes:
    async with asyncio.timeout(10):
        size = int(await wire.reader.readuntil(b"\r\n"), 16)
        return (await wire.reader.readexactly(size + 2))[:-2]


OPENAI = (b'data: {"choices":[{"delta":{"content":"t%d"}}]}\n\n', b"data: [DONE]\n\n")
LLAMA = (
    b'data: {"content":"t%d","stop":false}\n\n',
    b'data: {"content":"","stop":true,"stop_type":"limit","tokens_predicted":9,"tokens_evaluated":1}\n\n',
)


@pytest.mark.parametrize(
    ("make", "events"), [(chat, OPENAI), (seed, LLAMA), (generate, LLAMA)], ids=["passed through", "ssis", "tgi"]
)
async def test_streams_in_lockstep_lose_and_join_nothing(
    open_house: OpenHouse, make: object, events: tuple[bytes, bytes]
) -> None:
    assert callable(make)
    steps = Steps(*events)
    house = await open_house(steps)

    async def caller(wire: Wire, name: int) -> list[bytes]:
        await wire.send(make(stream=True, text=f"<{name}>"))
        assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        chunks = []
        for _ in range(TOKENS):
            chunks.append(await read_chunk(wire))
            steps.seen[name].release()
        while last := await read_chunk(wire):
            assert last.endswith(b"\n\n")
        return chunks

    wires = await house.wires(STREAMS)
    for name, chunks in enumerate(await asyncio.gather(*map(caller, wires, range(STREAMS)))):
        assert len(chunks) == TOKENS, name
        for number, seen in enumerate(chunks):
            assert b'"t%d"' % number in seen
            assert seen.count(b"data:") == 1


async def test_half_an_event_is_passed_on_as_well(open_house: OpenHouse) -> None:
    seen = asyncio.Event()

    async def halting(call: OriginCall) -> None:
        await call.say(head(EVENTS, b"Transfer-Encoding: chunked"), chunk(b'data: {"a"'))
        async with asyncio.timeout(10):
            await seen.wait()
        await call.say(chunk(b":1}\n\ndata: [DONE]\n\n"), b"0\r\n\r\n")

    house = await open_house(halting)
    wire = await house.wire()
    await wire.send(chat(stream=True))
    await wire.reader.readuntil(b"\r\n\r\n")

    assert await read_chunk(wire) == b'data: {"a"'
    seen.set()
    assert await read_chunk(wire) == b":1}\n\ndata: [DONE]\n\n"
