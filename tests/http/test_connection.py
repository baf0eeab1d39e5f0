"""One connection: requests in order, replies that do not lie, and clients that leave."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.http.conftest import Counter, Listen
from tests.http.support import QUICK, Wire, cut, until

from ssis_dispatcher.errors import Unavailable
from ssis_dispatcher.http.server import Exchange, Limits


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *headers, "", ""]).encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class TestOrder:
    async def test_pipelined_requests_are_answered_in_order_even_when_the_last_is_ready_first(
        self, counter: Counter, wire: Wire
    ) -> None:
        await wire.send(get("/hold/1") + post("/hold/2", b"two") + get("/3"))
        await until(lambda: counter.shop.held)
        counter.shop.held[0].reply(200, b"1")

        assert (await wire.reply()).body == b"1"
        await until(lambda: len(counter.shop.held) == 2)
        assert counter.shop.held[1].body == b"two"
        counter.shop.held[1].reply(200, b"2")
        assert (await wire.reply()).body == b"2"
        assert (await wire.reply()).json["path"] == "/3"

    async def test_the_next_request_is_not_handled_before_the_one_in_front_is_answered(
        self, counter: Counter, wire: Wire
    ) -> None:
        await wire.send(get("/hold/1") + get("/hold/2"))
        await until(lambda: len(counter.shop.admitted) == 2)

        assert len(counter.shop.held) == 1
        counter.shop.held[0].reply(200, b"")
        assert len(counter.shop.held) == 2
        counter.shop.held[1].reply(200, b"")

    async def test_a_long_pipeline_is_answered_whole_and_reading_stops_meanwhile(self, listen: Listen) -> None:
        counter = await listen(Limits(max_pipelined=8))
        wire = await counter.wire()
        await wire.send(get("/hold"), *[get(f"/{number}") for number in range(200)])
        await until(lambda: counter.shop.held)
        counter.shop.held[0].reply(200, b"")

        await wire.reply()
        assert [(await wire.reply()).json["path"] for _ in range(8)] == [f"/{number}" for number in range(8)]

    async def test_more_pipelined_requests_than_allowed_are_refused_in_their_turn(self, listen: Listen) -> None:
        counter = await listen(Limits(max_pipelined=4))
        wire = await counter.wire()
        await wire.send(get("/hold") + get("/x") * 20)
        await until(lambda: counter.shop.held)
        counter.shop.held[0].reply(200, b"")

        replies = [(await wire.reply()).status for _ in range(6)]
        assert replies == [200] * 5 + [503]
        assert await wire.rest() == b""
        assert len(counter.shop.admitted) == 5

    async def test_a_thousand_requests_in_one_piece_are_no_deep_stack(self, listen: Listen) -> None:
        counter = await listen(Limits(max_pipelined=5_000))
        wire = await counter.wire()
        await wire.send(get("/hold") + get("/x") * 2_000)
        await until(lambda: counter.shop.held)
        counter.shop.held[0].reply(200, b"")

        for _ in range(2_001):
            assert (await wire.reply()).status == 200
        assert counter.shop.errors == []

    async def test_a_bad_request_behind_a_held_one_waits_for_its_turn(self, counter: Counter, wire: Wire) -> None:
        await wire.send(get("/hold") + b"nonsense\r\n\r\n")
        await until(lambda: counter.shop.held)
        await until(lambda: counter.server.refused)
        counter.shop.held[0].reply(200, b"first")

        assert (await wire.reply()).body == b"first"
        assert (await wire.reply()).status == 501

    async def test_the_last_request_of_a_connection_says_so(self, listen: Listen) -> None:
        counter = await listen(Limits(keepalive_requests=3))
        wire = await counter.wire()
        await wire.send(get("/x") * 5)

        replies = [await wire.reply() for _ in range(3)]
        assert [reply.headers.get("connection") for reply in replies] == [None, None, "close"]
        assert await wire.rest() == b""
        assert len(counter.shop.admitted) == 3


class TestExpect:
    async def test_the_body_is_asked_for(self, counter: Counter, wire: Wire) -> None:
        await wire.send(b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n")
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"

        assert (await wire.ask(b"abc")).json["body"] == "abc"

    async def test_not_before_the_reply_in_front_is_out(self, counter: Counter, wire: Wire) -> None:
        await wire.send(
            get("/hold") + b"POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        )
        await until(lambda: len(counter.shop.admitted) == 2)
        held = counter.shop.held[0]
        held.start(200, [])
        held.write(b"a")
        held.finish()

        assert (await wire.reply()).body == b"a"
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await wire.ask(b"abc")).json["body"] == "abc"

    async def test_a_refusal_comes_instead_and_ends_the_connection(self, wire: Wire) -> None:
        reply = await wire.ask(b"POST /refuse HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")

        assert reply.status == 403
        assert await wire.rest() == b""

    async def test_a_client_that_does_not_wait_is_fine(self, wire: Wire) -> None:
        request = post("/x", b"abc", "Expect: 100-continue")

        assert (await wire.ask(request)).json["body"] == "abc"
        assert (await wire.ask(*cut(request, len(request) - 1))).json["body"] == "abc"


class TestRefusals:
    async def test_a_refused_request_with_a_small_body_leaves_the_connection_alive(self, wire: Wire) -> None:
        for sent in ([post("/refuse", b"abc")], cut(post("/refuse", b"abc" * 1000), 100, 500)):
            reply = await wire.ask(*sent)
            assert reply.status == 403
            assert reply.json["code"] == "forbidden"
            assert "connection" not in reply.headers
        assert (await wire.ask(post("/x", b"yes"))).json["body"] == "yes"

    async def test_a_refusal_comes_before_the_body(self, wire: Wire) -> None:
        await wire.send(post("/refuse", b"abc")[:-3])

        assert (await wire.reply()).status == 403
        assert (await wire.ask(b"abc" + get("/y"))).json["path"] == "/y"

    @pytest.mark.parametrize("framing", ["Content-Length: 4000000", "Transfer-Encoding: chunked"])
    async def test_one_with_a_large_or_unknown_body_ends_it_and_the_client_gets_to_read_why(
        self, wire: Wire, framing: str
    ) -> None:
        await wire.send(f"POST /refuse HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode())
        await wire.send(b"x" * 300_000)

        reply = await wire.reply()
        assert reply.status == 403
        assert reply.headers["connection"] == "close"

    async def test_retry_after_is_told_where_it_helps(self, counter: Counter, wire: Wire) -> None:
        def refuse(exchange: Exchange) -> None:
            raise Unavailable("Full.", retry_after=2.2)

        counter.shop.admit = refuse  # type: ignore[method-assign,assignment]
        reply = await wire.ask(get("/"))

        assert reply.status == 503
        assert reply.headers["retry-after"] == "3"

    async def test_the_application_may_word_refusals_itself(self, listen: Listen) -> None:
        def render(exchange: Exchange, problem: object) -> tuple[bytes, bytes]:
            return f"{exchange.path} no".encode(), b"text/plain"

        counter = await listen(render=render)
        wire = await counter.wire()

        assert (await wire.ask(get("/refuse"))).body == b"/refuse no"
        assert (await wire.ask(b"nonsense")).body == b" no"


class TestDefects:
    async def test_a_handler_that_fails_is_a_500_and_reported_once(self, counter: Counter, wire: Wire) -> None:
        reply = await wire.ask(get("/break"))

        assert reply.status == 500
        assert "defect" not in reply.body.decode()
        assert [type(error) for error in counter.shop.errors] == [KeyError]
        assert (await wire.ask(get("/x"))).status == 200

    async def test_one_that_fails_in_the_middle_of_a_reply_does_not_end_it_cleanly(
        self, counter: Counter, wire: Wire
    ) -> None:
        reply = await wire.ask(get("/break-late"))

        assert reply.body == b"half"
        assert not reply.whole
        assert len(counter.shop.errors) == 1

    async def test_an_admission_that_fails_is_a_500(self, counter: Counter, wire: Wire) -> None:
        def defect(exchange: Exchange) -> None:
            raise ZeroDivisionError

        counter.shop.admit = defect  # type: ignore[method-assign,assignment]

        assert (await wire.ask(get("/"))).status == 500
        assert len(counter.shop.errors) == 1


class TestReplies:
    async def held(self, counter: Counter, wire: Wire, request: bytes | None = None) -> Exchange:
        await wire.send(request or get("/hold"))
        await until(lambda: counter.shop.held)
        return counter.shop.held.pop()

    async def test_a_reply_of_unknown_length_is_chunked(self, counter: Counter, wire: Wire) -> None:
        exchange = await self.held(counter, wire)
        exchange.start(200, [(b"content-type", b"text/plain")])
        exchange.write(b"abc")
        exchange.write(b"")
        exchange.write(b"de")
        exchange.finish()

        reply = await wire.reply()
        assert reply.chunks == [b"abc", b"de"]
        assert reply.whole
        assert exchange.sent == 5

    async def test_until_close_for_http_1_0_and_an_abort_is_a_reset(self, counter: Counter) -> None:
        for abort in (False, True):
            wire = await counter.wire()
            exchange = await self.held(counter, wire, b"GET /hold HTTP/1.0\r\n\r\n")
            exchange.start(200, [])
            exchange.write(b"abc")
            await wire.reader.readuntil(b"abc")
            if abort:
                exchange.abort()
                with pytest.raises(ConnectionResetError):
                    await wire.reader.read()
            else:
                exchange.finish()
                assert await wire.rest() == b""

    async def test_an_aborted_reply_has_no_clean_end_but_all_that_was_written(
        self, counter: Counter, wire: Wire
    ) -> None:
        exchange = await self.held(counter, wire)
        exchange.start(200, [])
        exchange.write(b"x" * 1_000_000)
        exchange.write(b"event: error")
        exchange.abort()

        reply = await wire.reply()
        assert reply.body.endswith(b"event: error")
        assert len(reply.body) == 1_000_012
        assert not reply.whole

    async def test_a_reply_shorter_than_announced_is_no_whole_reply(self, counter: Counter, wire: Wire) -> None:
        exchange = await self.held(counter, wire)
        exchange.start(200, [], 10)
        exchange.write(b"abc")
        exchange.finish()

        reply = await wire.reply()
        assert not reply.whole
        assert reply.body == b"abc"

    async def test_one_longer_than_announced_is_a_defect(self, counter: Counter, wire: Wire) -> None:
        exchange = await self.held(counter, wire)
        exchange.start(200, [], 2)
        with pytest.raises(RuntimeError, match="longer"):
            exchange.write(b"abc")
        exchange.write(b"ab")
        exchange.finish()

        assert (await wire.reply()).body == b"ab"

    async def test_order_of_calls_is_checked(self, counter: Counter, wire: Wire) -> None:
        exchange = await self.held(counter, wire)
        with pytest.raises(RuntimeError):
            exchange.write(b"abc")
        with pytest.raises(RuntimeError):
            exchange.finish()
        exchange.start(200, [])
        with pytest.raises(RuntimeError):
            exchange.start(200, [])
        with pytest.raises(RuntimeError):
            exchange.reply(200, b"")
        exchange.finish()
        exchange.reply(200, b"too late")
        exchange.write(b"too late")
        exchange.finish()
        exchange.abort()

        assert (await wire.reply()).body == b""
        assert (await wire.ask(get("/x"))).status == 200

    async def test_the_head_of_a_reply_with_a_length_goes_out_with_its_body(self, counter: Counter, wire: Wire) -> None:
        exchange = await self.held(counter, wire)
        exchange.start(200, [], 100_003)
        exchange.write(b"abc")
        exchange.write(b"d" * 100_000)
        exchange.finish()

        assert (await wire.reply()).body == b"abc" + b"d" * 100_000

    @pytest.mark.parametrize("status", [204, 304])
    async def test_a_status_without_a_body_has_none(self, counter: Counter, wire: Wire, status: int) -> None:
        for start in (False, True):
            exchange = await self.held(counter, wire)
            if start:
                exchange.start(status, [])
                exchange.write(b"not this")
                exchange.finish()
            else:
                exchange.reply(status, b"not this")
            assert (await wire.reply()).status == status
        assert (await wire.ask(get("/x"))).status == 200

    async def test_extra_headers_and_the_request_id_are_on_every_reply(self, counter: Counter, wire: Wire) -> None:
        exchange = await self.held(counter, wire, get("/hold", "X-Request-Id: mine.1"))
        exchange.extra = ((b"x-extra", b"yes"),)
        exchange.reply(200, b"")

        reply = await wire.reply()
        assert reply.headers["x-request-id"] == "mine.1"
        assert reply.headers["x-extra"] == "yes"
        assert reply.headers["date"].endswith(" GMT")

    @pytest.mark.parametrize("sent", ["", "a b", "a\tb", "ü", "x" * 129, '"quoted"', "a,b"])
    async def test_a_request_id_that_is_none_is_replaced(self, wire: Wire, sent: str) -> None:
        first, second = [(await wire.ask(get("/", f"X-Request-Id: {sent}"))).headers["x-request-id"] for _ in "12"]

        assert first != second
        assert sent not in (first, second)


class TestLeaving:
    async def test_while_it_is_handled(self, counter: Counter) -> None:
        for leave in (Wire.reset, Wire.close):
            wire = await counter.wire()
            await wire.send(get("/hold"))
            await until(lambda: counter.shop.held)
            exchange = counter.shop.held.pop()
            left = leave(wire)
            if left is not None:
                await left

            await until(lambda: counter.shop.gone)
            assert counter.shop.gone.pop() is exchange
            exchange.reply(200, b"nobody hears this")
            exchange.abort()
            assert exchange.status == 0
            assert counter.shop.ended.count(exchange) == 1

    async def test_while_its_reply_streams(self, counter: Counter, wire: Wire) -> None:
        await wire.send(get("/hold"))
        await until(lambda: counter.shop.held)
        exchange = counter.shop.held[0]
        exchange.start(200, [])
        exchange.write(b"x")
        wire.reset()

        await until(lambda: counter.shop.gone)
        exchange.write(b"y")
        exchange.finish()
        assert exchange.sent == 1
        assert counter.shop.ended == [exchange]

    async def test_while_its_body_comes(self, counter: Counter, wire: Wire) -> None:
        await wire.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
        await until(lambda: counter.server.inflight == 1000)
        await wire.close()

        await until(lambda: counter.shop.ended)
        assert counter.server.inflight == 0
        assert counter.shop.held == []

    async def test_while_it_waits_behind_another(self, counter: Counter, wire: Wire) -> None:
        await wire.send(post("/hold/1", b"a") + post("/hold/2", b"b") + b"POST /hold/3 HTTP/1.1\r\nHost: a\r\n")
        await until(lambda: len(counter.shop.admitted) == 2)
        wire.reset()

        await until(lambda: len(counter.shop.ended) == 2)
        assert counter.shop.gone == counter.shop.held
        assert len(counter.shop.held) == 1

    async def test_in_the_middle_of_a_head(self, counter: Counter, wire: Wire) -> None:
        await wire.send(get("/x")[:-5])
        await until(lambda: counter.connections)
        await wire.close()

        await until(lambda: not counter.connections)
        assert counter.shop.ended == []

    async def test_a_listener_that_fails_when_told_hurts_nobody(self, counter: Counter, wire: Wire) -> None:
        await wire.send(get("/hold"))
        await until(lambda: counter.shop.held)

        def fail() -> None:
            raise KeyError

        counter.shop.held[0].on_gone = fail
        wire.reset()
        await until(lambda: counter.shop.ended)
        assert len(counter.shop.errors) == 1


class Source:
    """Puts down what it is told."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def pause(self) -> None:
        self._told.append("pause")

    def resume(self) -> None:
        self._told.append("resume")


class TestPressure:
    async def test_a_slow_reader_pauses_the_writer_and_resumes_it(self, counter: Counter, wire: Wire) -> None:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await wire.send(get("/hold"))
        await until(lambda: counter.shop.held)
        exchange = counter.shop.held[0]
        told: list[str] = []
        exchange.source = Source(told)
        exchange.start(200, [])
        assert not exchange.paused
        written = 0
        while not told:
            exchange.write(b"x" * 65_536)
            written += 65_536
            await asyncio.sleep(0)
            assert written < 64 * 2**20

        assert exchange.paused
        wire.writer.transport.resume_reading()
        reading = asyncio.get_running_loop().create_task(wire.reply())
        await until(lambda: told == ["pause", "resume"])
        exchange.finish()
        assert len((await reading).body) == written

    async def test_the_next_request_waits_until_the_reply_in_front_is_read(self, counter: Counter, wire: Wire) -> None:
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await wire.send(get("/hold/1") + get("/hold/2"))
        await until(lambda: counter.shop.held)
        counter.shop.held[0].reply(200, b"x" * 2**23)
        await asyncio.sleep(0)
        assert len(counter.shop.held) == 1

        wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await wire.reply()).body) == 2**23
        await until(lambda: len(counter.shop.held) == 2)
        assert not counter.shop.held[1].paused
        counter.shop.held[1].reply(200, b"2")
        assert (await wire.reply()).body == b"2"

    async def test_a_client_that_stops_reading_is_given_up(self, listen: Listen) -> None:
        counter = await listen(QUICK)
        wire = await counter.wire()
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await wire.send(get("/hold"))
        await until(lambda: counter.shop.held)
        exchange = counter.shop.held[0]
        exchange.start(200, [])
        exchange.write(b"x" * 2**24)

        await until(lambda: exchange.gone)
        assert counter.shop.gone == [exchange]

    async def test_one_that_leaves_a_finished_reply_unread_too(self, listen: Listen) -> None:
        counter = await listen(QUICK)
        wire = await counter.wire()
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await wire.send(get("/hold", "Connection: close"))
        await until(lambda: counter.shop.held)
        counter.shop.held[0].reply(200, b"x" * 2**24)

        await until(lambda: not counter.connections)

    async def test_one_that_reads_slowly_but_reads_gets_everything(self, listen: Listen) -> None:
        counter = await listen(Limits(stall_timeout=0.4, tick=0.02))
        wire = await counter.wire()
        await wire.send(get("/hold", "Connection: close"))
        await until(lambda: counter.shop.held)
        size = 2**24
        counter.shop.held[0].reply(200, b"x" * size)
        raw = await wire.reader.readuntil(b"\r\n\r\n")
        got = 0
        while got < size:  # takes three times the stall time
            got += len(await wire.reader.readexactly(min(size - got, 2**20)))
            await asyncio.sleep(0.08)

        assert b"200 OK" in raw


async def test_what_an_exchange_knows(listen: Listen) -> None:
    counter = await listen()
    wire = await counter.wire()
    await wire.send(post("/hold/a%20b?c=d", b"body", "X-Two: 1", "X-Two: 2", "X-Bytes: \xe4"))
    await until(lambda: counter.shop.held)
    exchange = counter.shop.held[0]

    assert exchange.method == "POST"
    assert exchange.target == b"/hold/a%20b?c=d"
    assert exchange.path == "/hold/a b"
    assert exchange.query == b"c=d"
    assert exchange.header(b"x-two") == b"2"
    assert exchange.headers.count((b"x-two", b"1")) == 1
    assert exchange.header(b"x-none") is None
    assert exchange.body == b"body"
    assert exchange.peer == "127.0.0.1"
    assert exchange.started <= asyncio.get_running_loop().time()
    exchange.reply(200, json.dumps({"ok": True}).encode())
    assert exchange.status == 200
    assert exchange.ended
    assert exchange.on_gone is None
    assert exchange.handler is None
    assert (await wire.reply()).json == {"ok": True}
