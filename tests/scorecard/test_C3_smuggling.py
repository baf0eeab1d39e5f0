"""C3. A request whose end two readers could see in different places is refused, and what is hidden behind it is never read:
the server sees exactly the requests that were accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
import tests.http
from tests.http.support import Wire
from tests.scorecard.support import House, chat, chat_body, chunk, request

CORPUS = Path(tests.http.__path__[0], "corpus", "requests")
REFUSED = {file.stem: file.read_bytes() for file in sorted(CORPUS.glob("[45]*.raw")) if not file.stem.startswith("403")}

BODY = chat_body()
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = chunk(BODY) + b"0\r\n\r\n"


def post(*lines: bytes, target: bytes = b"/v1/chat/completions", host: bytes = b"Host: localhost\r\n") -> bytes:
    """A head; the lines end as they are."""
    return b"POST %b HTTP/1.1\r\n%bContent-Type: application/json\r\n%b\r\n\r\n" % (target, host, b"\r\n".join(lines))


CASES: dict[str, bytes] = {
    "length and chunked": post(LENGTH, CHUNKED) + CHUNKS,
    "unknown coding and length": post(b"Transfer-Encoding: xchunked", LENGTH) + BODY,
    "space before the colon": post(b"Transfer-Encoding : chunked", LENGTH) + BODY,
    "two lengths": post(LENGTH, b"Content-Length: 3") + BODY,
    "plus": post(b"Content-Length: +%d" % len(BODY)) + BODY,
    "hexadecimal": post(b"Content-Length: 0x%x" % len(BODY)) + BODY,
    "underscore": post(b"Content-Length: 1_0") + BODY,
    "negative": post(b"Content-Length: -1") + BODY,
    "folded": post(b"X-A: b\r\n c", LENGTH) + BODY,
    "bare line feeds": post(LENGTH).replace(b"\r\n", b"\n") + BODY,
    "bare carriage return": post(b"X-A: b\rc", LENGTH) + BODY,
    "NUL": post(b"X-A: b\0c", LENGTH) + BODY,
    "two hosts": post(b"Host: other", LENGTH) + BODY,
    "no host": post(LENGTH, host=b"") + BODY,
    "bad chunk size": post(CHUNKED) + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunks with line feeds": post(CHUNKED) + CHUNKS.replace(b"\r\n", b"\n"),
    "chunked twice": post(CHUNKED, CHUNKED) + CHUNKS,
    "long header": post(b"X-A: " + b"a" * 100_000, LENGTH) + BODY,
    "many headers": post(*(b"X-%d: a" % number for number in range(1000)), LENGTH) + BODY,
    "long target": post(LENGTH, target=b"/v1/chat/completions?" + b"a" * 100_000) + BODY,
    "another host": post(LENGTH, target=b"http://other/v1/chat/completions") + BODY,
}
HIDDEN = chat("solo")


async def status_and_end(wire: Wire, data: bytes) -> int:
    """The status of the only reply; then the connection must be closed."""
    await wire.send(data)
    reply = await wire.reply()
    assert await wire.rest() == b""
    return reply.status


@pytest.mark.parametrize("case", CASES)
async def test_the_twenty_one_cases_reach_no_server_nor_does_what_they_hide(house: House, case: str) -> None:
    status = await status_and_end(await house.wire(), CASES[case] + HIDDEN)

    assert status in (400, 414, 431, 501)
    assert not house.origin.calls
    assert not house.platform.orders


@pytest.mark.parametrize("name", REFUSED)
async def test_the_corpus_is_refused_by_the_whole_program_as_by_its_listener(house: House, name: str) -> None:
    wire = await house.wire()
    await wire.send(REFUSED[name] + HIDDEN)
    reply = await wire.reply()

    assert reply.status == int(name[:3])
    assert not house.platform.orders


async def test_the_server_sees_exactly_the_requests_that_were_accepted(house: House) -> None:
    """Well-formed ones in a row on one connection, counted and chunked, up to the one that is refused."""
    bodies = [chat_body(text=f"{number}") for number in range(4)]
    counted = [request("/v1/chat/completions", body) for body in bodies[:2]]
    chunked = [post(CHUNKED) + chunk(body[:9]) + chunk(body[9:]) + b"0\r\n\r\n" for body in bodies[2:]]
    wire = await house.wire()
    await wire.send(b"".join(counted + chunked) + CASES["length and chunked"] + HIDDEN)

    statuses = [(await wire.reply()).status for _ in range(len(bodies) + 1)]

    assert statuses == [200] * len(bodies) + [400]
    assert await wire.rest() == b""
    assert [call.body for call in house.origin.calls] == bodies
    assert all(b"chunked" not in call.head for call in house.origin.calls)
