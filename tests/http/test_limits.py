"""Each limit of the listener has its test: the slow, the many and the large."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from tests.http.conftest import Listen
from tests.http.support import QUICK, Wire, until

from ssis_dispatcher.http.server import Limits

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"


async def drip(wire: Wire, data: bytes) -> None:
    """One byte at a time, until the server has had enough."""
    for byte in data:
        if wire.reader.at_eof():
            return
        wire.writer.write(bytes((byte,)))
        await asyncio.sleep(0.01)


class TestSlow:
    async def test_a_head_that_drips_in_is_answered_408(self, listen: Listen) -> None:
        counter = await listen(QUICK)
        wire = await counter.wire()
        dripping = asyncio.get_running_loop().create_task(
            drip(wire, b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 10_000)
        )

        reply = await wire.reply()
        dripping.cancel()
        assert reply.status == 408
        assert reply.json["code"] == "head_timeout"

    async def test_a_connection_on_which_nothing_comes_is_closed_silently(self, listen: Listen) -> None:
        counter = await listen(QUICK)
        wire = await counter.wire()

        assert await wire.rest() == b""
        assert counter.shop.ended == []

    async def test_an_idle_one_after_a_request_too(self, listen: Listen) -> None:
        counter = await listen(QUICK)
        wire = await counter.wire()
        await wire.ask(GET)

        assert await wire.rest() == b""

    async def test_one_that_sends_only_line_breaks_too(self, listen: Listen) -> None:
        counter = await listen(QUICK)
        wire = await counter.wire()
        dripping = asyncio.get_running_loop().create_task(drip(wire, b"\r\n" * 5_000))

        assert await wire.rest() == b""
        dripping.cancel()

    async def test_a_request_that_is_being_answered_has_all_the_time(self, listen: Listen) -> None:
        counter = await listen(QUICK)
        wire = await counter.wire()
        other = await counter.wire()
        await wire.send(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: counter.shop.held)
        assert await other.rest() == b""  # by then every deadline has passed
        counter.shop.held[0].reply(200, b"late")

        assert (await wire.reply()).body == b"late"

    @pytest.mark.parametrize(
        ("framing", "body"),
        [("Content-Length: 100000", b"x" * 10_000), ("Transfer-Encoding: chunked", b"1\r\nx\r\n" * 1_000)],
        ids=["counted", "chunked"],
    )
    async def test_a_body_that_drips_in_is_answered_408(self, listen: Listen, framing: str, body: bytes) -> None:
        counter = await listen(QUICK)
        wire = await counter.wire()
        await wire.send(f"POST /x HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode())
        dripping = asyncio.get_running_loop().create_task(drip(wire, body))

        reply = await wire.reply()
        dripping.cancel()
        assert reply.status == 408
        assert reply.json["code"] == "body_timeout"
        assert counter.server.inflight == 0

    async def test_a_body_that_stalls_is_answered_408(self, listen: Listen) -> None:
        counter = await listen(QUICK)
        wire = await counter.wire()
        await wire.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")

        assert (await wire.reply()).status == 408

    async def test_a_slow_body_that_keeps_its_pace_is_read_to_the_end(self, listen: Listen) -> None:
        counter = await listen(QUICK)
        wire = await counter.wire()
        await wire.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n")
        for _ in range(40):  # 0.4 s, twice what is granted, but at 100 KB/s
            await wire.send(b"x" * 1_000)
            await asyncio.sleep(0.01)

        assert (await wire.reply()).status == 200

    async def test_the_small_body_of_a_refused_request_has_to_come_too(self, listen: Listen) -> None:
        counter = await listen(QUICK)
        wire = await counter.wire()
        await wire.send(b"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")

        assert (await wire.reply()).status == 403
        assert (await wire.reply()).status == 408

    async def test_after_a_refusal_the_connection_ends_even_if_the_client_never_closes(self, listen: Listen) -> None:
        counter = await listen(QUICK)
        wire = await counter.wire()
        await wire.send(b"nonsense\r\n\r\n")
        assert (await wire.reply()).status == 501

        await until(lambda: not counter.connections)

    async def test_a_thousand_slow_clients_hurt_nobody_else(self, listen: Listen) -> None:
        counter = await listen(QUICK)
        slow = []
        for _ in range(100):
            wire = await counter.wire()
            await wire.send(b"GET / HT")
            slow.append(asyncio.get_running_loop().create_task(wire.reply()))  # who reads late may be cut off
        quick = await counter.wire()
        for _ in range(20):
            assert (await quick.ask(GET)).status == 200
        for reply in slow:
            assert (await reply).status == 408


class TestMany:
    async def test_connections_in_all(self, listen: Listen) -> None:
        counter = await listen(Limits(max_connections=2))
        first, second = await counter.wire(), await counter.wire()
        await first.ask(GET)
        await second.ask(GET)
        third = await counter.wire()

        reply = await third.reply()
        assert reply.status == 503
        assert reply.headers["retry-after"] == "1"
        assert (await first.ask(GET)).status == 200
        await third.close()
        await first.close()
        await until(lambda: counter.connections == 1)
        fourth = await counter.wire()
        assert (await fourth.ask(GET)).status == 200

    async def test_connections_of_one_address(self, listen: Listen) -> None:
        counter = await listen(dataclasses.replace(QUICK, max_connections_per_address=1))
        here = await counter.wire()
        await here.ask(GET)
        there = Wire(*await asyncio.open_connection("127.0.0.1", counter.port, local_addr=("127.0.0.2", 0)))
        assert (await there.ask(GET)).status == 200
        also = Wire(*await asyncio.open_connection("127.0.0.1", counter.port, local_addr=("127.0.0.2", 0)))

        assert (await also.reply()).status == 503
        await there.close()
        await also.close()
        await until(lambda: counter.connections <= 1)
        again = Wire(*await asyncio.open_connection("127.0.0.1", counter.port, local_addr=("127.0.0.2", 0)))
        assert (await again.ask(GET)).status == 200
        await again.close()

    @pytest.mark.parametrize("trusted", [[], ["127.0.0.2"]], ids=["loopback", "proxy"])
    async def test_loopback_and_trusted_proxies_stand_for_many(self, listen: Listen, trusted: list[str]) -> None:
        source = ("127.0.0.2", 0) if trusted else ("127.0.0.1", 0)
        counter = await listen(Limits(max_connections_per_address=1), trusted=trusted)
        wires = [Wire(*await asyncio.open_connection("127.0.0.1", counter.port, local_addr=source)) for _ in range(3)]

        assert [(await wire.ask(GET)).status for wire in wires] == [200] * 3
        for wire in wires:
            await wire.close()


class TestLarge:
    async def test_a_head_over_the_limit_is_refused_before_it_is_complete(self, listen: Listen) -> None:
        counter = await listen(Limits(max_head=1024))
        wire = await counter.wire()
        await wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        await wire.send(*[b"A: b\r\n"] * 400)

        assert (await wire.reply()).status == 431

    async def test_one_that_just_fits_is_served_however_it_comes(self, listen: Listen) -> None:
        counter = await listen(Limits(max_head=1024))
        head = b"GET /x HTTP/1.1\r\nHost: a\r\nA: "
        request = head + b"b" * (1024 - len(head) - 4) + b"\r\n\r\n"
        wire = await counter.wire()

        assert (await wire.ask(request)).status == 200
        assert (await wire.ask(request[:500], request[500:])).status == 200

    async def test_header_lines(self, listen: Listen) -> None:
        counter = await listen(Limits(max_headers=5))
        wire = await counter.wire()

        assert (await wire.ask(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 4 + b"\r\n")).status == 200
        assert (await wire.ask(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 5 + b"\r\n")).status == 431

    async def test_the_target(self, listen: Listen) -> None:
        counter = await listen(Limits(max_url=10))
        wire = await counter.wire()

        assert (await wire.ask(b"GET /123456789 HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200
        assert (await wire.ask(b"GET /1234567890 HTTP/1.1\r\nHost: a\r\n\r\n")).status == 414

    async def test_a_body_of_known_length_is_refused_by_its_head(self, listen: Listen) -> None:
        counter = await listen(Limits(max_body=10))
        wire = await counter.wire()

        ten = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789"
        assert (await wire.ask(ten)).status == 200
        reply = await wire.ask(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n")
        assert reply.status == 413
        assert len(counter.shop.admitted) == 1

    async def test_a_chunked_body_when_it_grows_too_large(self, listen: Listen) -> None:
        counter = await listen(Limits(max_body=10))
        head = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire = await counter.wire()

        assert (await wire.ask(head + b"a\r\n0123456789\r\n0\r\n\r\n")).status == 200
        assert (await wire.ask(head + b"6\r\n012345\r\n5\r\n01234\r\n0\r\n\r\n")).status == 413
        assert counter.server.inflight == 0

    @pytest.mark.parametrize("endless", [b"T: v\r\n", b"v"], ids=["many trailers", "one long trailer"])
    async def test_endless_trailers(self, listen: Listen, endless: bytes) -> None:
        counter = await listen(Limits(max_head=1024))
        wire = await counter.wire()
        await wire.send(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nT: ")
        for _ in range(30):
            await wire.send(endless * 100)
            await asyncio.sleep(0.001)

        assert (await wire.reply()).status == 431

    async def test_an_endless_chunk_extension(self, listen: Listen) -> None:
        counter = await listen(Limits(max_head=1024))
        wire = await counter.wire()
        await wire.send(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;")
        for _ in range(30):
            await wire.send(b"a" * 100)
            await asyncio.sleep(0.001)

        assert (await wire.reply()).status == 431

    async def test_all_bodies_together(self, listen: Listen) -> None:
        counter = await listen(Limits(inflight_bytes=1000))
        held, other = await counter.wire(), await counter.wire()
        await held.send(b"POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 600\r\n\r\n" + b"x" * 600)
        await until(lambda: counter.shop.held)
        request = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n"

        reply = await other.ask(request)
        assert reply.status == 503
        assert reply.headers["retry-after"] == "1"
        counter.shop.held[0].reply(200, b"")
        again = await counter.wire()
        assert (await again.ask(request + b"x" * 500)).status == 200
        assert counter.server.inflight == 0


def test_the_defaults_are_those_of_the_acceptance_list() -> None:
    limits = Limits()

    assert limits.max_body == 4 * 2**20
    assert limits.head_timeout <= 10
    assert limits.body_rate >= 1024
    assert limits.body_grace <= 10
