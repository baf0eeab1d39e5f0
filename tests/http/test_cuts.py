"""A message means the same however it is cut into pieces: requests on our side, replies on the other."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http.memory import Heard, Told, hear, serve
from tests.http.support import cut

from ssis_dispatcher.http.limits import Limits

CORPUS = Path(__file__).parent / "corpus"
REQUESTS = sorted((CORPUS / "requests").glob("*.raw"))
REPLIES = sorted((CORPUS / "replies").glob("*.raw"))


def expected_statuses(file: Path) -> list[int]:
    """The leading numbers of a corpus file's name: one status for each reply."""
    words = file.stem.split("-")
    count = next(place for place, word in enumerate(words) if not (word.isdigit() and len(word) == 3))
    return [int(word) for word in words[:count]]


@pytest.mark.parametrize("file", REQUESTS, ids=lambda file: file.stem)
def test_the_corpus_of_requests_cut_at_every_byte(file: Path) -> None:
    data = file.read_bytes()

    async def replay() -> None:
        whole = await serve([data])
        assert [status for status, _, _ in whole.replies] == expected_statuses(file)
        for place in range(1, len(data)):
            assert await serve(cut(data, place)) == whole
        assert await serve([data[place : place + 1] for place in range(len(data))]) == whole

    asyncio.run(replay())


@pytest.mark.parametrize("file", REPLIES, ids=lambda file: file.stem)
def test_the_corpus_of_replies_cut_at_every_byte(file: Path) -> None:
    data = file.read_bytes()
    outcome = file.stem.partition("-")[0]

    async def replay() -> None:
        whole = await hear([data] if data else [])
        assert outcome == (whole.code or whole.end)
        assert outcome != "ended" or whole.body in (b"", b"abcde", b"[1,2]")
        for place in range(1, len(data)):
            assert same(await hear(cut(data, place)), whole)
        assert same(await hear([data[place : place + 1] for place in range(len(data))]), whole)

    asyncio.run(replay())


def same(heard: Heard, whole: Heard) -> bool:
    """A complete reply may have been taken before bytes behind it were seen; those then end the connection all the same. A
    reply that fails may have been told of further or less far."""
    if whole.end == "ended":
        return (heard.end, heard.status, heard.headers, heard.body) == (
            whole.end,
            whole.status,
            whole.headers,
            whole.body,
        ) and heard.reusable == whole.reusable
    return (heard.end, heard.code, heard.reusable) == (whole.end, whole.code, False)


TOKENS = st.text("abcXYZ019-_.", min_size=1, max_size=12)
VALUES = st.text([chr(code) for code in range(0x20, 0x7F)], max_size=30).map(str.strip)
BODIES = st.binary(max_size=300)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Good requests of every kind of framing."""
    body = draw(BODIES)
    headers = [
        f"{name}: {value}" for name, value in draw(st.lists(st.tuples(TOKENS.map("X-{}".format), VALUES), max_size=5))
    ]
    lines = [f"{draw(st.sampled_from(['POST', 'GET', 'PUT']))} /p{draw(TOKENS)} HTTP/1.1", "Host: a", *headers]
    if draw(st.booleans()):
        payload = body
        lines.append(f"Content-Length: {len(body)}")
    else:
        payload = chunked(draw, body)
        lines.append("Transfer-Encoding: chunked")
    return "\r\n".join([*lines, "", ""]).encode() + payload


def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    places = draw(st.lists(st.integers(0, len(body)), max_size=4))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut(body, *places)) + b"0\r\n\r\n"


def pieces(data: bytes, places: list[int]) -> list[bytes]:
    return cut(data, *{place % len(data) for place in places} - {0}) if data else []


PLACES = st.lists(st.integers(0, 10_000), max_size=20)


@settings(max_examples=150, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=4).map(b"".join), PLACES)
def test_good_requests_are_understood_however_they_are_cut(data: bytes, places: list[int]) -> None:
    whole, in_pieces = asyncio.run(both(data, places))

    assert {status for status, _, _ in whole.replies} == {200}
    assert whole == in_pieces


async def both(data: bytes, places: list[int]) -> tuple[Told, Told]:
    return await serve([data]), await serve(pieces(data, places))


@settings(max_examples=300, deadline=None)
@given(requests(), PLACES, st.randoms(use_true_random=False))
def test_damaged_requests_are_understood_in_one_way_or_refused_in_one_way(
    data: bytes, places: list[int], chance: random.Random
) -> None:
    damaged = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(damaged))
        action = chance.randrange(3)
        if action == 0:
            damaged[place] = chance.choice(b"\r\n\0 \t:;,/.0a\xff")
        elif action == 1:
            del damaged[place]
        else:
            damaged[place:place] = chance.choice([b"\r", b"\n", b"\r\n", b" ", b"Content-Length: 3\r\n", b"\0"])
    whole, in_pieces = asyncio.run(both(bytes(damaged), places))

    assert whole == in_pieces
    assert all(status in (200, 400, 403, 413, 415, 417, 431, 501, 505) for status, _, _ in whole.replies)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), PLACES)
def test_noise_is_refused_or_waited_for(data: bytes, places: list[int]) -> None:
    whole, in_pieces = asyncio.run(both(data, places))

    assert whole == in_pieces
    assert not whole.requests or b"HTTP/1" in data


@st.composite
def replies(draw: st.DrawFn) -> tuple[bytes, int, bytes]:
    body = draw(BODIES)
    status = draw(st.sampled_from([200, 201, 400, 404, 500]))
    lines = [
        f"HTTP/1.1 {status} {draw(VALUES)}".rstrip() + " ",
        *[f"X-A: {value}" for value in draw(st.lists(VALUES, max_size=4))],
    ]
    if draw(st.booleans()):
        lines.append(f"Content-Length: {len(body)}")
        payload = body
    else:
        lines.append("Transfer-Encoding: chunked")
        payload = chunked(draw, body)
    informational = b"HTTP/1.1 100 Continue\r\n\r\n" * draw(st.integers(0, 3))
    return informational + "\r\n".join([*lines, "", ""]).encode() + payload, status, body


@settings(max_examples=150, deadline=None)
@given(replies(), PLACES)
def test_good_replies_are_heard_whole_however_they_are_cut(reply: tuple[bytes, int, bytes], places: list[int]) -> None:
    data, status, body = reply
    heard = asyncio.run(hear(pieces(data, places)))

    assert (heard.end, heard.status, heard.body, heard.reusable) == ("ended", status, body, True)


@settings(max_examples=150, deadline=None)
@given(replies(), st.integers(0, 10_000), st.booleans())
def test_a_reply_that_breaks_off_is_never_taken_for_whole(
    reply: tuple[bytes, int, bytes], place: int, reset: bool
) -> None:
    data = reply[0]
    error = ConnectionResetError() if reset else None
    heard = asyncio.run(hear([data[: place % len(data)]], error=error))

    assert heard.end == "failed"
    assert heard.code in ("upstream_truncated", "upstream_closed")


@settings(max_examples=50, deadline=None)
@given(requests(), PLACES)
def test_the_limits_do_not_depend_on_the_cuts(data: bytes, places: list[int]) -> None:
    async def run() -> tuple[Told, Told]:
        limits = Limits(max_body=100, max_headers=4, max_url=8)
        return await serve([data], limits), await serve(pieces(data, places), limits)

    whole, in_pieces = asyncio.run(run())
    assert whole == in_pieces
