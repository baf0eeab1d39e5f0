"""C6. A packed body is refused and never unpacked, however small it is; nor is one ever asked of a server."""

from __future__ import annotations

import gzip
import zlib

import pytest
from tests.http.support import until
from tests.scorecard.support import CHAT, House, chat, chat_body, request, shape_of

BOMB = bytes(64 * 2**20)
PACKED = {
    b"gzip": gzip.compress(BOMB, 9),
    b"x-gzip": gzip.compress(chat_body()),
    b"deflate": zlib.compress(chat_body()),
    b"br": b"\x0b\x02\x80",
    b"identity, gzip": gzip.compress(chat_body()),
    b"GZIP": gzip.compress(chat_body()),
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/", "/models/demo/generate"])
async def test_every_coding_is_refused_with_415(house: House, path: str) -> None:
    for coding, body in PACKED.items():
        wire = await house.wire()
        reply = await wire.ask(request(path, body, b"Content-Encoding: " + coding))
        assert (reply.status, shape_of(reply, path)) == (415, "unsupported_encoding"), coding

    await until(lambda: not house.program.server.inflight)
    assert not house.platform.orders


async def test_a_body_that_says_it_is_not_packed_is_taken_and_no_packed_answer_is_asked_for(house: House) -> None:
    reply = await house.ask(chat("demo", b"Content-Encoding: identity", b"Accept-Encoding: gzip, br"))

    assert (reply.status, reply.body) == (200, CHAT)
    (call,) = house.origin.calls
    assert b"gzip" not in call.head
