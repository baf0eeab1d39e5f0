"""Heads that come again mean what they meant, and nothing but the very same head is taken for one.

What comes byte by byte always goes through the parser, so it is the measure for what comes in one piece.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http.memory import MemoryTransport, hear_in_turn, serve
from tests.http.support import Shop

from ssis_dispatcher.http.connection import Connection
from ssis_dispatcher.http.known import Memory
from ssis_dispatcher.http.limits import Limits
from ssis_dispatcher.http.server import Server

CORPUS = Path(__file__).parent / "corpus"
REQUESTS = sorted((CORPUS / "requests").glob("*.raw"))
REPLIES = sorted((CORPUS / "replies").glob("*.raw"))

NAMES = ("Content-Length", "content-length", "CONTENT-LENGTH")
SPACES = (" ", "", "  ", "\t")
OTHERS = ("X-A: 1", "User-Agent: me", "X-Length: 7", "Connection: keep-alive", "X-Request-Id: r-1", "Accept: */*")
BODIES = st.binary(max_size=120)
DAMAGE = (
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"0",
    b"9",
    b":",
    b"\0",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
)


@st.composite
def heads(draw: st.DrawFn, first: str, needed: tuple[str, ...]) -> tuple[bytes, bytes]:
    """What stands before the number behind Content-Length, and what behind it."""
    others = draw(st.lists(st.sampled_from(OTHERS), max_size=4, unique=True))
    before = draw(st.integers(0, len(others)))
    name = draw(st.sampled_from(NAMES)) + ":" + draw(st.sampled_from(SPACES))
    start = "\r\n".join([first, *needed, *others[:before], name])
    end = "\r\n".join(["", *others[before:], "", ""])
    return start.encode(), end.encode()


REQUEST_HEADS = heads("POST /p HTTP/1.1", ("Host: a",))
REPLY_HEADS = heads("HTTP/1.1 200 OK", ())


def message(head: tuple[bytes, bytes], body: bytes) -> bytes:
    return b"%b%d%b%b" % (head[0], len(body), head[1], body)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """``data`` with up to two bytes changed, left out or put in; more often in the head than in the body."""
    bad = bytearray(data)
    head = data.find(b"\r\n\r\n") + 4
    for _ in range(chance.randrange(3)):
        place = chance.randrange(min(len(bad), chance.choice((head, len(data)))))
        action = chance.randrange(3)
        if action == 0:
            bad[place] = chance.choice(b"\r\n\0 \t:;,/.0a9\xff")
        elif action == 1:
            del bad[place]
        else:
            bad[place:place] = chance.choice(DAMAGE)
    return bytes(bad)


def one_by_one(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


@settings(max_examples=300, deadline=None)
@given(REQUEST_HEADS, st.lists(BODIES, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_requests_with_a_known_head_mean_what_the_parser_says(
    head: tuple[bytes, bytes], bodies: list[bytes], chance: random.Random
) -> None:
    messages = [message(head, body) for body in bodies]
    messages[-1] = damaged(messages[-1], chance)

    async def both() -> None:
        limits = Limits(max_body=100)
        assert await serve(messages, limits) == await serve(one_by_one(b"".join(messages)), limits)

    asyncio.run(both())


@settings(max_examples=300, deadline=None)
@given(REPLY_HEADS, st.lists(BODIES, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_replies_with_a_known_head_mean_what_the_parser_says(
    head: tuple[bytes, bytes], bodies: list[bytes], chance: random.Random
) -> None:
    replies = [message(head, body) for body in bodies]
    replies[-1] = damaged(replies[-1], chance)

    async def both() -> None:
        whole = await hear_in_turn([[reply] for reply in replies])
        in_pieces = await hear_in_turn([one_by_one(reply) for reply in replies])
        assert [heard.reply for heard in whole] == [heard.reply for heard in in_pieces]

    asyncio.run(both())


@pytest.mark.parametrize("file", REQUESTS, ids=lambda file: file.stem)
def test_the_corpus_of_requests_said_twice(file: Path) -> None:
    data = file.read_bytes()

    async def both() -> None:
        assert await serve([data, data]) == await serve(one_by_one(data + data))

    asyncio.run(both())


@pytest.mark.parametrize("file", REPLIES, ids=lambda file: file.stem)
def test_the_corpus_of_replies_said_twice(file: Path) -> None:
    data = file.read_bytes()

    async def both() -> None:
        whole, in_pieces = await hear_in_turn([[data], [data]]), await hear_in_turn([one_by_one(data)] * 2)
        assert [heard.reply for heard in whole] == [heard.reply for heard in in_pieces]

    asyncio.run(both())


HEAD = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nX-A: 1\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "body_at"),
    [
        (HEAD % 3 + b"abc", len(HEAD % 3)),
        (HEAD % 12 + b"a" * 12, len(HEAD % 12)),
        (HEAD % 0, len(HEAD % 0)),
        (HEAD % 3 + b"ab", 0),
        (HEAD % 3 + b"abcd", 0),
        (HEAD % 3 + b"abcGET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (HEAD.replace(b"%d", b"+3") + b"abc", 0),
        (HEAD.replace(b"%d", b"3 ") + b"abc", 0),
        (HEAD.replace(b"%d", b"") + b"abc", 0),
        (HEAD.replace(b"%d", b"0x3") + b"abc", 0),
        (HEAD.replace(b"%d", b"\xb3") + b"abc", 0),
        (HEAD.replace(b"%d", b"0000000003") + b"abc", 0),
        (HEAD.replace(b"X-A: 1", b"X-A: 2") % 3 + b"abc", 0),
        (HEAD.replace(b"/p", b"/q") % 3 + b"abc", 0),
        (b"\r\n" + HEAD % 3 + b"abc", 0),
        (HEAD[: HEAD.index(b"%d")] + b"123", 0),
        (b"", 0),
    ],
)
def test_only_a_whole_message_with_this_head_is_known(data: bytes, body_at: int) -> None:
    known = Memory[str]().keep(HEAD % 5 + b"abcde", 5, "the head", None)

    assert known is not None
    assert known.body_at(data) == body_at


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (HEAD % 5 + b"abcd", 4),
        (HEAD % 5 + b"abcdef", 5),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 \r\n\r\nabc", 3),
        (b"POST / HTTP/1.1\r\nHost: a\r\nX-Content-Length: 3\r\n\r\nabc", 3),
        (b"POST / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 3000 + b"\r\nContent-Length: 3\r\n\r\nabc", 3),
        (b"no head", 0),
        (b"", 0),
    ],
)
def test_what_is_not_kept(data: bytes, length: int) -> None:
    assert Memory[str]().keep(data, length, "head", None) is None


def test_equal_heads_are_one_object_where_they_may_be() -> None:
    memory = Memory[str]()
    data = HEAD % 3 + b"abc"

    known = memory.keep(data, 3, "first", "alice")
    assert memory.keep(HEAD % 1 + b"x", 1, "second", "alice") is known
    assert memory.keep(data, 3, "third", "bob") is not known


def test_the_memory_is_bounded() -> None:
    memory = Memory[int]()
    for number in range(3000):
        memory.keep(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" % number, 0, number, None)

    assert len(memory) <= 1024


async def test_a_known_head_is_not_read_again() -> None:
    shop = Shop()
    connection = Connection(Server(shop))
    connection.connection_made(MemoryTransport())
    for _ in range(3):
        connection.data_received(HEAD % 3 + b"abc")

    first, *others = [exchange.head for exchange in shop.admitted]
    assert others == [first, first]
    assert [exchange.body for exchange in shop.admitted] == [b"abc"] * 3
    connection.connection_lost(None)
