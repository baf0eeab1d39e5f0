"""The tube: both ends may be slow, leave or lie, and the caller always learns the truth."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable

import pytest
from tests.http.support import Origin, OriginCall, Reply, Script, Wire, plain, saying, until

from ssis_dispatcher.errors import UpstreamError
from ssis_dispatcher.gateway.dialects.base import Translator, Upstream
from ssis_dispatcher.gateway.dialects.openai import OpenAI
from ssis_dispatcher.gateway.relay import Outcome, Relay
from ssis_dispatcher.http.client import Pool, UpstreamLimits
from ssis_dispatcher.http.server import Exchange, Handler, Limits, Server

OK = b"HTTP/1.1 200 OK\r\n"
JSON = OK + b"Content-Type: application/json\r\n"
SSE = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class House:
    """A listener whose every request goes to the origin. ``stream`` and ``reply`` say how; ``/cold`` first waits for
    `warm`, with a heartbeat already sent."""

    def __init__(self, origin: Origin, limits: UpstreamLimits | None) -> None:
        self.origin = origin
        self.pool = Pool(limits)
        self.dialect = OpenAI()
        self.translator: Callable[[], Translator] | None = None
        self.relays: list[Relay] = []
        self.outcomes: list[Outcome] = []
        self.order: list[str] = []
        self.errors: list[BaseException] = []
        self.cold: list[Exchange] = []
        self.fails_when_done = False
        self.server = Server(self, Limits(), on_error=self.errors.append)
        self.port = 0

    def admit(self, exchange: Exchange) -> Handler:
        return self.hold if exchange.path == "/cold" else self.pass_on

    def finished(self, exchange: Exchange) -> None:
        self.order.append("finished")

    def hold(self, exchange: Exchange) -> None:
        exchange.start(200, [(b"content-type", b"text/event-stream")])
        exchange.write(b": waiting\n\n")
        self.cold.append(exchange)

    def pass_on(self, exchange: Exchange) -> None:
        reply = None if self.translator is None else self.translator()
        upstream = Upstream(exchange.method, exchange.path, exchange.body, reply)
        relay = Relay(exchange, upstream, self.dialect, streams=b"stream" in exchange.body, done=self.done)
        self.relays.append(relay)
        relay.send(self.pool, self.origin.address, b"model.example")

    def done(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.order.append("done")
        if self.fails_when_done:
            raise KeyError("a defect")

    async def wire(self) -> Wire:
        return await Wire.to(self.port)

    @property
    def words(self) -> list[str]:
        return [outcome.word for outcome in self.outcomes]


@contextlib.asynccontextmanager
async def house(script: Script = plain, limits: UpstreamLimits | None = None) -> AsyncIterator[tuple[House, Wire]]:
    origin = Origin(script)
    await origin.start()
    made = House(origin, limits)
    made.port = await made.server.listen("127.0.0.1", 0)
    wire = await made.wire()
    try:
        yield made, wire
        assert made.errors == []
        assert len(made.outcomes) == len(made.relays), "each relay is done exactly once"
    finally:
        await wire.close()
        await made.server.close()
        await made.pool.close()
        await origin.stop()


def post(body: bytes = b"{}", *headers: str, path: str = "/v1/chat/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


STREAM = post(b'{"stream": true}')


def events(reply: Reply) -> list[str]:
    return [event.strip() for event in reply.body.decode().split("\n\n") if event.strip()]


class TestPassingThrough:
    async def test_a_small_reply_comes_as_it_is_with_its_length(self) -> None:
        body = b'{"a":  [1, 2]}'
        head = JSON + b"X-Compute: 7\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n" % len(body)
        async with house(saying(head + body)) as (home, wire):
            reply = await wire.ask(post())

            assert reply.body == body
            assert reply.headers["content-type"] == "application/json"
            assert reply.headers["x-compute"] == "7"
            assert reply.headers["cache-control"] == "no-store"
            assert reply.headers["content-length"] == str(len(body))
            assert home.words == ["ok"]
            assert home.order == ["done", "finished"]
            assert home.relays[0].received == len(body)
            assert home.relays[0].first_byte_at is not None

    @pytest.mark.parametrize("size", [10, 70_000, 300_000], ids=["small", "over 64 KiB", "several reads"])
    @pytest.mark.parametrize("framing", ["counted", "chunked", "until close"])
    async def test_replies_of_every_size_and_framing(self, size: int, framing: str) -> None:
        body = b'{"a": "' + b"x" * size + b'"}'
        half = len(body) // 2

        async def script(call: OriginCall) -> None:
            if framing == "counted":
                await call.say(JSON + b"Content-Length: %d\r\n\r\n" % len(body), body[:half], body[half:])
            elif framing == "chunked":
                await call.say(JSON + b"Transfer-Encoding: chunked\r\n\r\n", chunk(body[:half]), chunk(body[half:]))
                await call.say(b"0\r\n\r\n")
            else:
                await call.say(JSON + b"\r\n", body[:half], body[half:])
                call.close()

        async with house(script) as (home, wire):
            for _ in range(2):
                reply = await wire.ask(post())
                assert reply.whole
                assert reply.body == body
            assert home.words == ["ok", "ok"]

    async def test_headers_on_the_way_there(self) -> None:
        async with house() as (home, wire):
            await wire.ask(
                post(
                    b"{}",
                    "Authorization: Bearer secret",
                    "X-Api-Key: secret",
                    "Cookie: secret",
                    "X-SSIS-HF-Token: secret",
                    "X-Forwarded-For: 1.2.3.4",
                    "X_Under: 1",
                    "Connection: X-Hop",
                    "X-Hop: 1",
                    "TE: trailers",
                    "traceparent: 00-1-2-01",
                    "tracestate: a=b",
                    "X-Request-Id: mine",
                    "X-Own: 1",
                )
            )
            call = home.origin.calls[0]

            assert b"secret" not in call.head
            assert call.headers == {
                "host": "model.example",
                "accept-encoding": "identity",
                "content-type": "application/json",
                "traceparent": "00-1-2-01",
                "tracestate": "a=b",
                "x-own": "1",
                "x-request-id": "mine",
                "content-length": "2",
            }

    async def test_headers_on_the_way_back(self) -> None:
        head = JSON + b"Set-Cookie: a\r\nServer: x\r\nAccess-Control-Allow-Origin: *\r\nX-Request-Id: theirs\r\n"
        async with house(saying(head + b"X-SSIS-A: b\r\nContent-Length: 2\r\n\r\n{}")) as (_, wire):
            reply = await wire.ask(post(b"{}", "X-Request-Id: mine"))

            assert reply.headers["x-request-id"] == "mine"
            assert not {"set-cookie", "server", "access-control-allow-origin", "x-ssis-a"} & set(reply.headers)

    async def test_errors_of_the_engine_are_passed_on(self) -> None:
        body = b'{"error": {"message": "too long"}'  # not even whole JSON: it is an error anyway
        head = b"HTTP/1.1 400 No\r\nContent-Type: application/json\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n"
        async with house(saying(head % len(body) + body)) as (home, wire):
            reply = await wire.ask(STREAM)

            assert (reply.status, reply.body) == (400, body)
            assert reply.headers["retry-after"] == "7"
            assert home.words == ["ok"]

    async def test_head_requests_and_empty_replies(self) -> None:
        async with house(saying(JSON + b"Content-Length: 1000\r\n\r\n")) as (_, wire):
            await wire.send(b"HEAD /models/a/b/info HTTP/1.1\r\nHost: a\r\n\r\n")
            reply = await wire.reply(head=True)
            assert reply.headers["content-length"] == "1000"
        async with house(saying(JSON + b"Content-Length: 0\r\n\r\n")) as (_, wire):
            assert (await wire.ask(post())).body == b""
        async with house(saying(b"HTTP/1.1 204 No Content\r\n\r\n")) as (_, wire):
            assert (await wire.ask(post())).status == 204

    async def test_a_stream_is_passed_on_event_by_event(self) -> None:
        go = asyncio.Event()

        async def script(call: OriginCall) -> None:
            await call.say(SSE)
            for _ in range(3):
                await call.say(chunk(EVENT))
                await go.wait()
                go.clear()
            await call.say(chunk(DONE) + b"0\r\n\r\n")

        async with house(script) as (home, wire):
            await wire.send(STREAM)
            await wire.reader.readuntil(b"\r\n\r\n")
            for _ in range(3):
                assert EVENT in await wire.reader.readuntil(b"\n\n\r\n")
                go.set()
            assert (await wire.reader.readuntil(b"0\r\n\r\n")).endswith(chunk(DONE) + b"0\r\n\r\n")
            assert home.words == ["ok"]
            assert home.relays[0].received == 3 * len(EVENT) + len(DONE)

    async def test_other_streams_are_not_held_either(self) -> None:
        go = asyncio.Event()

        async def script(call: OriginCall) -> None:
            await call.say(
                OK + b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"{}\n")
            )
            await go.wait()
            await call.say(chunk(b"{}\n") + b"0\r\n\r\n")

        async with house(script) as (_, wire):
            await wire.send(STREAM)
            await wire.reader.readuntil(b"{}\n")
            go.set()
            await wire.reader.readuntil(b"0\r\n\r\n")

    async def test_many_small_pieces_are_checked_by_their_end(self) -> None:
        async def script(call: OriginCall) -> None:
            await call.say(SSE)
            for byte in EVENT * 20 + DONE:
                await call.say(b"1\r\n%c\r\n" % byte)
            await call.say(b"0\r\n\r\n")

        async with house(script) as (_, wire):
            reply = await wire.ask(STREAM)
            assert reply.whole
            assert reply.body == EVENT * 20 + DONE


class TestBreakingOff:
    """Engines truncate, sometimes with a clean end. Nobody may take the half for the whole."""

    @pytest.mark.parametrize("clean", [True, False], ids=["clean end", "broken"])
    @pytest.mark.parametrize("cut", range(0, 2 * len(EVENT) + 5, 3))
    async def test_a_stream_cut_at_any_byte_gets_an_error_event_and_no_end(self, cut: int, clean: bool) -> None:
        said = (EVENT * 2 + DONE)[:cut]

        async def script(call: OriginCall) -> None:
            await call.say(SSE + (chunk(said) if said else b"") + (b"0\r\n\r\n" if clean else b""))
            if not clean:
                await until(lambda: home.relays and home.relays[0].received == cut)
                call.reset()

        async with house(script) as (home, wire):
            reply = await wire.ask(STREAM)

            assert reply.status == 200
            assert not reply.whole
            assert reply.body.startswith(said)
            last = events(reply)[-1]
            assert json.loads(last.removeprefix("data:"))["error"]["message"]
            assert "[DONE]" not in last
            assert home.words == ["upstream_incomplete" if clean else "upstream_truncated"]
            assert await wire.rest() == b""

    @pytest.mark.parametrize("framing", ["counted", "chunked"])
    async def test_a_small_reply_that_is_no_whole_json_is_a_502(self, framing: str) -> None:
        body = b'{"choices": ['
        if framing == "counted":
            said = JSON + b"Content-Length: %d\r\n\r\n" % len(body) + body
        else:
            said = JSON + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(body) + b"0\r\n\r\n"
        async with house(saying(said)) as (home, wire):
            reply = await wire.ask(post())

            assert reply.status == 502
            assert reply.json["error"]["code"] == "upstream_incomplete"
            assert home.words == ["upstream_incomplete"]
            assert home.outcomes[0].error is not None

    @pytest.mark.parametrize("framing", ["counted", "chunked"])
    async def test_a_long_one_is_aborted_before_its_last_piece(self, framing: str) -> None:
        body = b'{"a": "' + b"x" * 200_000

        async def script(call: OriginCall) -> None:
            if framing == "counted":
                await call.say(JSON + b"Content-Length: %d\r\n\r\n" % len(body), body[:100_000], body[100_000:])
            else:
                await call.say(
                    JSON + b"Transfer-Encoding: chunked\r\n\r\n", chunk(body[:100_000]), chunk(body[100_000:])
                )
                await call.say(b"0\r\n\r\n")

        async with house(script) as (home, wire):
            reply = await wire.ask(post())

            assert reply.status == 200
            assert not reply.whole
            assert len(reply.body) < len(body)
            assert home.words == ["upstream_incomplete"]

    @pytest.mark.parametrize("reads", [1, 2])
    async def test_json_that_is_empty_is_a_502_however_it_comes(self, reads: int) -> None:
        head, end = JSON + b"Transfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n"

        async def script(call: OriginCall) -> None:
            await call.say(*((head, end) if reads == 2 else (head + end,)))

        async with house(script) as (home, wire):
            assert (await wire.ask(post())).status == 502
            assert home.words == ["upstream_incomplete"]

    async def test_a_reply_that_says_it_is_empty_is(self) -> None:
        async with house(saying(JSON + b"Content-Length: 0\r\n\r\n")) as (home, wire):
            reply = await wire.ask(post())
            assert (reply.status, reply.body, home.words) == (200, b"", ["ok"])
            assert home.relays[0].first_byte_at is None

    async def test_a_stream_that_says_it_is_empty_is_no_stream(self) -> None:
        async with house(saying(OK + b"Content-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n")) as (home, wire):
            reply = await wire.ask(STREAM)
            assert "error" in events(reply)[-1]
            assert home.words == ["upstream_incomplete"]

    @pytest.mark.parametrize("body", [b'"text"', b"true", b"17", b" null"])
    @pytest.mark.parametrize("counted", [True, False], ids=["counted", "chunked"])
    async def test_json_need_be_no_object(self, body: bytes, counted: bool) -> None:
        chunked = b"Transfer-Encoding: chunked\r\n\r\n" + chunk(body) + b"0\r\n\r\n"
        async with house(
            saying(JSON + (b"Content-Length: %d\r\n\r\n%b" % (len(body), body) if counted else chunked))
        ) as (
            home,
            wire,
        ):
            assert (await wire.ask(post())).body == body
            assert home.words == ["ok"]

    async def test_json_of_some_kilobytes_without_a_length_is_read_through(self) -> None:
        body = b'{"choices": [{"text": "' + b"a" * 10_000 + b'"}'
        said = JSON + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(body) + b"0\r\n\r\n"
        async with house(saying(said)) as (home, wire):
            assert (await wire.ask(post())).status == 502
            assert home.words == ["upstream_incomplete"]

    async def test_a_long_one_that_breaks_before_anything_was_passed_on_is_a_502(self) -> None:
        said = JSON + b'Content-Length: 100000\r\n\r\n{"a": '
        async with house(saying(said, close=True)) as (_, wire):
            reply = await wire.ask(post())
            assert (reply.status, reply.json["error"]["code"]) == (502, "upstream_truncated")
            assert (await wire.ask(post())).status == 502  # the caller's connection lives on

    async def test_no_answer_and_garbage_are_502(self) -> None:
        async with house(saying(close=True)) as (home, wire):
            reply = await wire.ask(post())
            assert reply.status == 502
            assert reply.json["error"]["code"] == "upstream_closed"
            assert (await wire.ask(post())).status == 502  # the caller's connection lives on
            assert home.words == ["upstream_closed"] * 2
        async with house(saying(b"garbage\r\n\r\n")) as (_, wire):
            assert (await wire.ask(STREAM)).json["error"]["code"] == "upstream_garbled"

    async def test_silence_is_a_504(self) -> None:
        async def script(call: OriginCall) -> None:
            await call.reader.read()

        async with house(script, UpstreamLimits(first_byte_timeout=0.05, tick=0.01)) as (home, wire):
            assert (await wire.ask(post())).status == 504
            assert home.words == ["upstream_timeout"]

    async def test_an_unreachable_server_is_a_502(self) -> None:
        async with house() as (home, wire):
            await home.origin.stop()
            reply = await wire.ask(post())
            assert reply.status == 502
            assert home.words == ["upstream_unreachable"]

    async def test_a_path_that_cannot_be_sent_is_a_502_and_no_crash(self) -> None:
        async with house() as (home, wire):
            reply = await wire.ask(post(path="/a%20b"))
            assert reply.status == 502
            assert home.origin.calls == []

    async def test_a_defect_in_giving_back_the_seat_does_not_cost_the_reply(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with house() as (home, wire):
            home.fails_when_done = True
            assert (await wire.ask(post())).status == 200
        assert "KeyError" in caplog.text


class TestHeartbeats:
    """The caller has seen the head of an event stream before the relay begins."""

    async def ask(self, home: House, wire: Wire) -> Reply:
        await wire.send(post(b'{"stream": true}', path="/cold"))
        await until(lambda: home.cold)
        home.pass_on(home.cold[0])
        return await wire.reply()

    async def test_the_stream_follows(self) -> None:
        async with house(saying(SSE + chunk(EVENT) + chunk(DONE) + b"0\r\n\r\n")) as (home, wire):
            reply = await self.ask(home, wire)
            assert reply.whole
            assert reply.body == b": waiting\n\n" + EVENT + DONE

    async def test_an_error_of_the_engine_becomes_an_event_with_its_words(self) -> None:
        said = b"HTTP/1.1 422 No\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"
        async with house(saying(said + b'{"error":"too long"}')) as (home, wire):
            reply = await self.ask(home, wire)
            assert not reply.whole
            message = json.loads(events(reply)[-1].removeprefix("data:"))["error"]["message"]
            assert "422" in message
            assert "too long" in message
            assert home.words == ["upstream_refused"]

    async def test_so_does_a_reply_that_is_no_stream(self) -> None:
        async with house() as (home, wire):
            assert not (await self.ask(home, wire)).whole
            assert home.words == ["upstream_refused"]

    async def test_even_a_very_long_one(self) -> None:
        said = JSON + b"Content-Length: 1000000\r\n\r\n" + b"x" * 200_000
        async with house(saying(said)) as (home, wire):
            reply = await self.ask(home, wire)
            assert not reply.whole
            assert len(reply.body) < 2_000
            assert home.words == ["upstream_refused"]

    async def test_and_a_failure(self) -> None:
        async with house(saying(close=True)) as (home, wire):
            reply = await self.ask(home, wire)
            assert not reply.whole
            assert "error" in events(reply)[-1]

    async def test_a_caller_that_has_stopped_reading_meanwhile_holds_the_server_back(self) -> None:
        async with house(saying(SSE)) as (home, wire):
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await wire.send(post(b'{"stream": true}', path="/cold"))
            await until(lambda: home.cold)
            while not home.cold[0].paused:
                home.cold[0].write(b":" + b"x" * 100_000 + b"\n\n")
            home.pass_on(home.cold[0])
            assert home.relays[0]._call is not None
            assert home.relays[0]._call.paused
            wire.reset()
            await until(lambda: home.outcomes)


class TestLeaving:
    @pytest.mark.parametrize("phase", ["before the head", "in the stream"])
    async def test_the_call_upstream_ends_at_once(self, phase: str) -> None:
        left = asyncio.Event()

        async def script(call: OriginCall) -> None:
            if phase == "in the stream":
                await call.say(SSE + chunk(EVENT))
            await call.reader.read()
            left.set()

        async with house(script) as (home, wire):
            await wire.send(STREAM)
            await until(lambda: home.origin.calls)
            if phase == "in the stream":
                await wire.reader.readuntil(b"\n\n")
            wire.reset()
            await asyncio.wait_for(left.wait(), 1)
            assert home.words == ["gone"]
            await until(lambda: not home.pool.connections)
            assert home.order == ["done", "finished"]

    async def test_a_slow_reader_holds_the_server_back_and_memory_stays_small(self) -> None:
        said = 0

        async def script(call: OriginCall) -> None:
            nonlocal said
            await call.say(SSE)
            for _ in range(200):
                await call.say(chunk(b"data: " + b"x" * 2**20 + b"\n\n"))
                said += 1
            await call.say(chunk(DONE) + b"0\r\n\r\n")

        async with house(script) as (home, wire):
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await wire.send(STREAM)
            before = -1
            while before != said or not home.relays or not home.relays[0].received:
                before = said
                await asyncio.sleep(0.1)
            assert said < 40  # what kernels hold, twice
            (connection,) = home.server._connections
            assert connection._transport.get_write_buffer_size() < 2**20
            assert home.relays[0]._call is not None
            assert home.relays[0]._call.paused
            wire.writer.transport.resume_reading()  # type: ignore[attr-defined]
            total = len((await wire.reply()).body)
            assert total == 200 * (2**20 + 8) + len(DONE)
            assert home.words == ["ok"]


class Loud:
    """A translator that shouts, and fails on order."""

    def __init__(self, fails: str = "", error: Exception | None = None) -> None:
        self.fails = fails
        self.error = error or UpstreamError("The engine reported an error.")

    def head(self, status: int, content_type: bytes) -> tuple[int, bytes]:
        self.at("head")
        return status, content_type

    def feed(self, data: bytes) -> bytes:
        self.at("feed")
        return data.upper()

    def end(self) -> bytes:
        self.at("end")
        return b"!"

    def at(self, place: str) -> None:
        if self.fails == place:
            raise self.error


class Quiet(Loud):
    """Says nothing before the end."""

    def feed(self, data: bytes) -> bytes:
        self.at("feed")
        return b""


class Busy(Loud):
    """Makes every reply one of a busy server."""

    def head(self, status: int, content_type: bytes) -> tuple[int, bytes]:
        return 503, b"application/problem+json"


class TestTranslating:
    async def test_a_busy_server_says_when_to_come_back(self) -> None:
        async with house(
            saying(b"HTTP/1.1 429 X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        ) as (
            home,
            wire,
        ):
            home.translator = Busy
            reply = await wire.ask(post())
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")

    async def test_a_long_reply_that_fails_before_anything_came_of_it_is_a_502(self) -> None:
        body = b'"' + b"a" * 300_000 + b'"'
        async with house(saying(JSON + b"Content-Length: %d\r\n\r\n" % len(body), body)) as (home, wire):
            home.translator = lambda: Quiet("end")
            assert (await wire.ask(post())).status == 502
            home.translator = Quiet
            assert (await wire.ask(post())).body == b"!"

    async def test_small_and_streamed_replies(self) -> None:
        async with house(saying(JSON + b"Content-Length: 5\r\n\r\n", b'"ab', b'c"')) as (home, wire):
            home.translator = Loud
            reply = await wire.ask(post())
            assert reply.body == b'"ABC"!'
            assert reply.headers["content-length"] == "6"
        async with house(saying(JSON + b"Content-Length: 5\r\n\r\n" + b'"abc"')) as (home, wire):
            home.translator = Loud
            assert (await wire.ask(post())).body == b'"ABC"!'
        async with house(saying(SSE + chunk(b"data: a\n\n") + b"0\r\n\r\n")) as (home, wire):
            home.translator = Loud
            assert (await wire.ask(STREAM)).body == b"DATA: A\n\n!"
            assert home.words == ["ok"]

    @pytest.mark.parametrize("place", ["head", "feed", "end"])
    async def test_what_it_cannot_translate_is_an_error_in_the_way_that_is_open(self, place: str) -> None:
        async with house(saying(JSON + b"Content-Length: 2\r\n\r\n{}")) as (home, wire):
            home.translator = lambda: Loud(place)
            assert (await wire.ask(post())).json["error"]["code"] == "upstream_error"
        async with house(saying(SSE + chunk(b"data: a\n\n") + b"0\r\n\r\n")) as (home, wire):
            home.translator = lambda: Loud(place)
            reply = await wire.ask(STREAM)
            assert reply.status == (502 if place == "head" else 200)
            assert b"The engine reported an error." in reply.body
            assert reply.whole == (place == "head")

    async def test_a_defect_in_it_is_reported_without_the_words_of_the_reply(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with house(saying(JSON + b"Content-Length: 2\r\n\r\n{}")) as (home, wire):
            home.translator = lambda: Loud("feed", KeyError("a secret"))
            reply = await wire.ask(post())
            assert reply.json["error"]["code"] == "upstream_garbled"
            assert home.words == ["upstream_garbled"]
        assert "KeyError" in caplog.text
        assert "secret" not in caplog.text


async def test_connections_return_to_where_they_were() -> None:
    async with house() as (home, wire):
        wires = [await home.wire() for _ in range(20)]
        for other in wires:
            await other.send(post() * 3)
        for other in wires:
            for _ in range(3):
                assert (await other.reply()).status == 200
            await other.close()
        await wire.ask(post())
        await until(lambda: home.server.statistics()["connections"] == 1)

        assert home.pool.statistics()["idle"] == home.pool.statistics()["connections"] <= 20
        assert home.server.inflight == 0
        assert home.words == ["ok"] * 61


class TestGateways:
    """Answers of the gateway between us and the server."""

    HOP = b"HTTP/1.1 503 X\r\nContent-Type: text/plain\r\nContent-Length: 19\r\n\r\n"
    WORDS = b"no healthy upstream"

    @pytest.mark.parametrize("reads", [1, 2, 3])
    async def test_they_are_known_however_they_come(self, reads: int) -> None:
        pieces = {1: (self.HOP + self.WORDS,), 2: (self.HOP, self.WORDS), 3: (self.HOP, self.WORDS[:5], self.WORDS[5:])}
        asked = 0

        async def script(call: OriginCall) -> None:
            nonlocal asked
            asked += 1
            said = b""
            for piece in pieces[reads]:
                if said:  # each is a read of its own
                    await until(lambda: home.relays[0]._doubtful is not None)
                await call.say(piece)
                said += piece
                if 0 < len(said) - len(self.HOP) < len(self.WORDS):
                    await until(lambda: home.relays[0]._holds)

        async with house(script) as (home, wire):
            reply = await wire.ask(post())
            assert (reply.status, asked, home.words) == (502, 2, ["upstream_unreachable"])

    async def test_a_server_that_says_more_than_a_gateway_would_is_passed_on(self) -> None:
        text = b"a long story " * 1_000
        head = b"HTTP/1.1 503 X\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(text)

        async def script(call: OriginCall) -> None:
            await call.say(head, text[:3_000])
            await until(lambda: home.relays[0]._holds == 3_000)
            await call.say(text[3_000:])

        async with house(script) as (home, wire):
            reply = await wire.ask(post())
            assert (reply.status, reply.body, home.words) == (503, text, ["ok"])

    async def test_an_error_of_the_server_in_two_reads_is_its_own(self) -> None:
        body = b'{"error": "no"}'

        async def script(call: OriginCall) -> None:
            await call.say(
                b"HTTP/1.1 503 X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            await until(lambda: home.relays[0]._doubtful is not None)
            await call.say(body)

        async with house(script) as (home, wire):
            reply = await wire.ask(post())
            assert (reply.status, reply.body, home.words) == (503, body, ["ok"])
