"""C7. Requests that nobody would write: whatever comes, the process lives, no answer is an unplanned 5xx, and every error has
the documented form. (The hundred thousand are the load form's.)"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
import tests.http
from tests.http.support import Reply, Wire
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, House, chat, generate, request, seed, shape_of

CORPUS = [file.read_bytes() for file in sorted(Path(tests.http.__path__[0], "corpus", "requests").glob("*.raw"))]
WORDS = (
    *(b"\r\n", b"\n", b"\0", b" ", b"/", b"..", b"%2e", b"{", b"}", b"[", b'"', b":", b",", b"null", b"-1", b"1e999"),
    *(b"\xff", b"\\ud800", b"chunked", b"Content-Length: 1\r\n", b"Host: a\r\n", b"demo", b"stream", b"GET ", b"true"),
)
PLANNED = {501, 503, 505}
"""Not implemented, not now, not this version. (502 and 504 are a server's fault, and this one has none.)"""
REQUESTS = 150


def made_up(rng: random.Random) -> bytes:
    """A proper request, or one of the corpus, with a few pieces cut out, doubled, or replaced."""
    data = bytearray(
        rng.choice([chat(), seed(), generate(), request("/api/plan", b'{"model":"demo"}'), rng.choice(CORPUS)])
    )
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        length = rng.choice((0, 1, 1, 2, 8))
        piece = data[place : place + length]
        data[place : place + length] = rng.choice((b"", bytes(piece) * 2, rng.choice(WORDS)))
    return bytes(data)


async def answers(house: House, data: bytes) -> list[Reply]:
    """All replies, until the listener's patience is over."""
    wire = await Wire.to(house.port)
    replies = []
    try:
        await wire.send(data)
        while True:
            replies.append(await wire.reply())
    except (EOFError, ConnectionError):
        return replies
    finally:
        await wire.close()


@pytest.mark.parametrize("start", range(4))
async def test_whatever_comes_is_answered_in_form(open_house: OpenHouse, start: int) -> None:
    house = await open_house(head_timeout=0.1, idle_timeout=0.1, limits={"body_grace": 0.1})
    await house.warm()
    rng = random.Random(start)
    sent = [made_up(rng) for _ in range(REQUESTS)]
    replies = await asyncio.gather(*(answers(house, data) for data in sent))

    for data, reply in ((data, reply) for data, several in zip(sent, replies, strict=True) for reply in several):
        assert reply.status < 500 or reply.status in PLANNED, data
        if reply.status >= 400 and reply.body:
            openai = reply.headers["content-type"] == "application/json"
            assert shape_of(reply, "/v1/" if openai else "/"), data
    assert {200, 400, 404, 408} <= {reply.status for several in replies for reply in several}
    assert (await house.ask(chat())).body == CHAT
