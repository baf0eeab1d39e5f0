"""The listener as a whole: draining, closing, HTTPS, and what it can tell of itself."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from tests.http.conftest import Counter, Listen
from tests.http.memory import MemoryTransport, read_all
from tests.http.support import QUICK, Shop, Wire, until

from ssis_dispatcher.http import server as server_module
from ssis_dispatcher.http.connection import Connection
from ssis_dispatcher.http.server import Limits, Server

TLS = Path(__file__).parent / "tls"
"""A certificate for localhost that signs itself, and its key: for these tests only."""

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
HOLD = b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n"


class TestDrain:
    async def test_what_is_under_way_is_finished_and_told_to_close(self, counter: Counter, wire: Wire) -> None:
        idle = await counter.wire()
        await idle.ask(GET)
        await wire.send(HOLD)
        await until(lambda: counter.shop.held)
        draining = asyncio.get_running_loop().create_task(counter.server.drain(within=10))

        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await Wire.to(counter.port)
        counter.shop.held[0].reply(200, b"whole")
        reply = await wire.reply()
        assert reply.body == b"whole"
        assert reply.headers["connection"] == "close"
        assert await wire.rest() == b""
        assert await draining is True

    async def test_in_the_quiet_period_all_is_served_and_connections_run_out(
        self, counter: Counter, wire: Wire
    ) -> None:
        await wire.ask(GET)
        draining = asyncio.get_running_loop().create_task(counter.server.drain(quiet=0.2, within=10))
        await until(lambda: counter.server.draining)

        assert (await wire.ask(GET)).headers["connection"] == "close"
        late = await counter.wire()
        assert (await late.ask(GET)).headers["connection"] == "close"
        assert await draining is True

    async def test_what_does_not_finish_in_time_is_cut_off(self, counter: Counter, wire: Wire) -> None:
        await wire.send(HOLD)
        await until(lambda: counter.shop.held)

        assert await counter.server.drain(within=0.05) is False
        assert counter.shop.gone == counter.shop.held
        assert await wire.rest() == b""

    async def test_a_reply_that_streams_ends_in_its_own_time(self, counter: Counter, wire: Wire) -> None:
        await wire.send(HOLD)
        await until(lambda: counter.shop.held)
        exchange = counter.shop.held[0]
        exchange.start(200, [])
        exchange.write(b"a")
        draining = asyncio.get_running_loop().create_task(counter.server.drain(within=10))
        await until(lambda: counter.server.draining)
        exchange.write(b"b")
        exchange.finish()

        assert (await wire.reply()).body == b"ab"
        await wire.close()
        assert await draining is True

    async def test_an_empty_listener_drains_at_once(self, counter: Counter) -> None:
        assert await counter.server.drain(within=0) is True


async def test_close_cuts_everything_off(counter: Counter, wire: Wire) -> None:
    await wire.send(HOLD)
    await until(lambda: counter.shop.held)
    await counter.server.close()

    assert counter.connections == 0
    assert counter.shop.ended == counter.shop.held


async def test_several_sockets_may_serve_one_application() -> None:
    shop = Shop()
    server = Server(shop)
    ports = [await server.listen("127.0.0.1", 0), await server.listen("127.0.0.1", 0)]
    for port in ports:
        wire = await Wire.to(port)
        assert (await wire.ask(GET)).status == 200
        await wire.close()
    await server.close()

    assert len(set(ports)) == 2


async def test_a_taken_port_is_an_error_of_the_caller(counter: Counter) -> None:
    other = Server(Shop())
    with pytest.raises(OSError, match="in use"):
        await other.listen("127.0.0.1", counter.port)
    await other.close()


async def test_statistics_tell_the_situation(counter: Counter, wire: Wire) -> None:
    await wire.send(b"POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
    await until(lambda: counter.shop.held)
    other = await counter.wire()
    await other.ask(b"nonsense\r\n\r\n")

    assert counter.server.statistics() == {
        "connections": 2,
        "connections_accepted": 2,
        "inflight_bytes": 3,
        "requests": 2,
        "refused_501": 1,
    }
    assert "open" in repr(counter.server)
    counter.shop.held[0].reply(200, b"")
    assert counter.server.statistics()["inflight_bytes"] == 0


async def test_the_date_moves_with_the_sweep(listen: Listen) -> None:
    counter = await listen(Limits(tick=0.02))
    wire = await counter.wire()
    first = (await wire.ask(GET)).headers["date"]

    async def moved() -> None:
        while (await wire.ask(GET)).headers["date"] == first:  # noqa: ASYNC110 - the clock is the world's
            await asyncio.sleep(0.05)

    await asyncio.wait_for(moved(), 5)


async def test_request_ids_differ_between_requests_and_processes() -> None:
    made = set()
    for server in (Server(Shop()), Server(Shop())):
        connection, transport = Connection(server), MemoryTransport()
        connection.connection_made(transport)
        connection.data_received(GET * 100)
        server.outbox.flush()
        made |= {reply.headers["x-request-id"] for reply in await read_all(transport.written)}
        connection.connection_lost(None)

    assert len(made) == 200


def test_a_report_names_the_place_but_not_the_words(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise KeyError("secret prompt")
    except KeyError as error:
        server_module.report(error)

    assert "KeyError" in caplog.text
    assert "test_server.py" in caplog.text
    assert "secret" not in caplog.text


@pytest.fixture
def certificate() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "localhost.pem", TLS / "localhost.key.pem")
    return context


class TestHTTPS:
    async def connect(self, port: int) -> Wire:
        context = ssl.create_default_context(cafile=str(TLS / "localhost.pem"))
        return Wire(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost"))

    async def test_requests_and_streams(self, listen: Listen, certificate: ssl.SSLContext) -> None:
        counter = await listen(ssl=certificate)
        wire = await self.connect(counter.port)
        assert (await wire.ask(GET)).json["path"] == "/x"
        await wire.send(HOLD)
        await until(lambda: counter.shop.held)
        exchange = counter.shop.held[0]
        exchange.start(200, [])
        exchange.write(b"x" * 300_000)
        exchange.finish()

        assert len((await wire.reply()).body) == 300_000
        await wire.close()

    async def test_a_refusal_can_be_read(self, listen: Listen, certificate: ssl.SSLContext) -> None:
        counter = await listen(QUICK, ssl=certificate)
        wire = await self.connect(counter.port)
        await wire.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 100_000)

        assert (await wire.reply()).status == 413
        await until(lambda: not counter.connections)
        await wire.close()

    async def test_a_client_that_leaves_is_noticed(self, listen: Listen, certificate: ssl.SSLContext) -> None:
        counter = await listen(ssl=certificate)
        wire = await self.connect(counter.port)
        await wire.send(HOLD)
        await until(lambda: counter.shop.held)
        await wire.close()

        await until(lambda: counter.shop.gone)

    async def test_plain_http_is_turned_away(self, listen: Listen, certificate: ssl.SSLContext) -> None:
        counter = await listen(ssl=certificate)
        wire = await counter.wire()
        await wire.send(GET)

        assert b"200" not in await wire.rest()
