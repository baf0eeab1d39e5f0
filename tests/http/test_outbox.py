"""What is written in one turn goes out at its end: in order, all of it, and not more of it than a turn should hold."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.http.conftest import Counter
from tests.http.support import Wire, until

from ssis_dispatcher.http.outbox import Outbox


class Desk:
    """An outbox in a loop that never turns by itself, and two transports' writes."""

    def __init__(self) -> None:
        self.later: list[object] = []
        self.outbox = Outbox(self)  # type: ignore[arg-type]
        self.written: list[bytes] = []
        self.others: list[bytes] = []

    def call_soon(self, call: object) -> None:
        self.later.append(call)

    def post(self, data: bytes) -> None:
        self.outbox.post(self.write, data)

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def write_other(self, data: bytes) -> None:
        self.others.append(data)


def test_small_writes_wait_for_the_end_of_the_turn() -> None:
    desk = Desk()
    desk.post(b"a")
    desk.post(b"b")
    assert desk.written == []
    assert desk.later == [desk.outbox.flush]
    desk.outbox.flush()
    assert desk.written == [b"a", b"b"]
    desk.outbox.flush()
    assert desk.written == [b"a", b"b"]


@given(st.lists(st.one_of(st.just(1), st.just(20_000), st.just(0)), max_size=600))
def test_whatever_is_posted_comes_out_in_order_and_little_waits(sizes: list[int]) -> None:
    desk = Desk()
    posted = []
    for number, size in enumerate(sizes):
        data = b"%d:" % number + b"x" * size
        posted.append(data)
        desk.post(data)
        waiting = posted[len(desk.written) :]
        assert len(waiting) < 256
        assert sum(map(len, waiting)) < 256 * 16_384
        assert size < 16_384 or not waiting
    desk.outbox.flush()
    assert desk.written == posted


def test_what_waits_for_a_closed_transport_is_lost_and_nothing_else() -> None:
    desk = Desk()
    desk.post(b"a")
    desk.outbox.post(desk.write_other, b"b")
    desk.post(b"c")
    desk.outbox.forget(desk.write)
    desk.outbox.flush()
    assert (desk.written, desk.others) == ([], [b"b"])


@pytest.mark.parametrize("size", [1000, 100_000])
async def test_a_handler_that_never_waits_is_told_when_its_client_does_not_read(
    counter: Counter, wire: Wire, size: int
) -> None:
    await wire.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    await until(lambda: counter.shop.held)
    [exchange] = counter.shop.held
    exchange.start(200, [])
    written = 0
    while not exchange.paused:
        exchange.write(b"x" * size)
        written += size
        assert written < 2**26
    exchange.abort()


async def test_nothing_is_lost_by_a_close_in_the_same_turn(counter: Counter, wire: Wire) -> None:
    await wire.send(b"GET /hold HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    await until(lambda: counter.shop.held)
    [exchange] = counter.shop.held
    exchange.start(200, [])
    for _ in range(10):
        exchange.write(b"piece")
    exchange.finish()
    reply = await asyncio.wait_for(wire.reply(), 5)
    assert (reply.body, reply.whole) == (b"piece" * 10, True)
    assert await wire.rest() == b""
