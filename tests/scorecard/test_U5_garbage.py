"""U5. A server that answers garbage: the caller gets a 502, memory stays bounded, and the connection is not used again."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import tests.http
from tests.http.support import OriginCall, until
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, answer, chat, counted, shape_of

CORPUS = Path(tests.http.__path__[0], "corpus", "replies")
MIB = 2**20
GARBAGE = {file.stem: file.read_bytes() for file in sorted(CORPUS.glob("upstream_garbled-*.raw"))} | {
    "a gzip bomb": counted(gzip.compress(bytes(MIB))).replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1),
    "a length that is too long": counted(CHAT).replace(b"Length: ", b"Length: 9"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_is_a_502_and_its_connection_is_gone(open_house: OpenHouse, kind: str, stream: bool) -> None:
    async def garbles(call: OriginCall) -> None:
        await call.say(GARBAGE[kind])
        call.close()

    house = await open_house(garbles)
    reply = await house.ask(chat(stream=stream))

    if stream and reply.status == 200:  # a head that could be read, and then a stream that could not
        assert not reply.whole
    else:
        assert reply.status == 502
        assert shape_of(reply, "/v1/") in ("upstream_garbled", "upstream_truncated")
    assert len(house.origin.calls) == 1
    await until(lambda: not house.origin.open)
    house.origin.script = answer
    assert (await house.ask(chat())).body == CHAT


async def test_an_endless_head_is_read_no_further_than_its_limit(open_house: OpenHouse) -> None:
    sent = 0

    async def endless(call: OriginCall) -> None:
        nonlocal sent
        await call.say(b"HTTP/1.1 200 OK\r\nX-A: ")
        while True:  # until the dispatcher has hung up
            await call.say(b"a" * 65_536)
            sent += 65_536

    house = await open_house(endless)
    reply = await house.ask(chat())

    assert (reply.status, shape_of(reply, "/v1/")) == (502, "upstream_head_too_large")
    await until(lambda: not house.origin.open)
    assert sent < 16 * MIB  # which the kernel took


async def test_what_comes_behind_an_answer_is_nobodys(open_house: OpenHouse) -> None:
    async def goes_on(call: OriginCall) -> None:
        await call.say(counted(CHAT) + counted(b'{"stale":true}'))

    house = await open_house(goes_on)

    assert [(await house.ask(chat())).body for _ in range(3)] == [CHAT] * 3
    assert house.origin.connections == 3
