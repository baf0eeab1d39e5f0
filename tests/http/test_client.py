"""The pool: connections are reused where that is safe, and a server that misbehaves hurts nobody but its own call."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

import pytest
from tests.http.conftest import Open
from tests.http.support import Ear, Origin, OriginCall, ask, plain, saying, until

from ssis_dispatcher.http.client import Call, Pool, UpstreamLimits

Pools = Callable[..., Pool]


def _has_pieces(ear: Ear, count: int) -> bool:
    return len(ear.pieces) == count


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
QUICK = UpstreamLimits(
    connect_timeout=0.2, first_byte_timeout=0.1, idle_timeout=0.1, keep_timeout=0.1, tick=0.02, retry_pause=0.001
)


async def free_port() -> int:
    """A port on which nobody listens."""
    origin = Origin()
    await origin.start()
    await origin.stop()
    return origin.port


class TestRequests:
    async def test_what_is_sent(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of()
        ear = ask(pool_of(), origin, b'{"a": 1}')

        assert await ear.wait() == "ended"
        call = origin.calls[0]
        assert call.head.startswith(b"POST /generate HTTP/1.1\r\n")
        assert call.body == b'{"a": 1}'
        assert call.headers == {
            "host": f"127.0.0.1:{origin.port}",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "content-length": "8",
        }

    async def test_another_host_and_no_body(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of()
        pool = pool_of()
        await ask(pool, origin, b"", "GET", host=b"model.ns.example").wait()
        await ask(pool, origin, b"", "POST").wait()

        assert origin.calls[0].headers["host"] == "model.ns.example"
        assert "content-length" not in origin.calls[0].headers
        assert origin.calls[1].headers["content-length"] == "0"

    async def test_a_large_body(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of()
        ear = ask(pool_of(), origin, b"x" * 3_000_000)

        assert await ear.wait() == "ended"
        assert origin.calls[0].body == b"x" * 3_000_000

    @pytest.mark.parametrize(
        ("method", "target", "headers", "host"),
        [
            ("POST", b"/a b", [], None),
            ("POST", b"/a\r\nX: y", [], None),
            ("POST", b"a", [], None),
            ("POST", b"/\xff", [], None),
            ("PO ST", b"/", [], None),
            ("POST", b"/", [], b"a\r\nX: y"),
            ("POST", b"/", [(b"a", b"b\r\nX: y")], None),
            ("POST", b"/", [(b"a\n", b"b")], None),
        ],
    )
    async def test_what_would_break_the_framing_is_not_sent(
        self,
        origin_of: Open,
        pool_of: Pools,
        method: str,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        host: bytes | None,
    ) -> None:
        origin = await origin_of()
        with pytest.raises(ValueError, match=r"not a|line break"):
            pool_of().send(origin.address, method, target, headers, b"", Ear(), host)

        assert origin.connections == 0

    async def test_names_are_resolved(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of()
        ear = Ear()
        pool_of().send(("localhost", origin.port), "GET", b"/", [], b"", ear)

        assert await ear.wait() == "ended"

    @pytest.mark.parametrize("name", ["no.such.name.invalid", "x" * 300, "a..b"])
    async def test_names_that_do_not_resolve(self, pool_of: Pools, name: str) -> None:
        ear = Ear()
        pool_of().send((name, 80), "GET", b"/", [], b"", ear)

        assert await ear.wait() == "failed"
        assert ear.code in ("upstream_unreachable", "upstream_connect_timeout")


class TestReuse:
    async def test_one_connection_serves_many_calls_one_after_the_other(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of()
        pool = pool_of()
        for _ in range(5):
            assert await ask(pool, origin).wait() == "ended"

        assert origin.connections == 1
        assert pool.statistics() == {
            "connections": 1,
            "idle": 1,
            "waiting": 0,
            "opened": 1,
            "sent": 5,
            "retries": 0,
        }

    async def test_calls_at_the_same_time_have_connections_of_their_own(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of()
        pool = pool_of()
        ears = [ask(pool, origin) for _ in range(10)]
        for ear in ears:
            assert await ear.wait() == "ended"

        assert {ear.body for ear in ears} == {b'{"number": %d}' % number for number in range(10)}
        assert 1 <= origin.connections <= 10

    async def test_many_calls_open_few_connections_at_a_time(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of()
        pool = pool_of(UpstreamLimits(max_connecting=4))
        ears = [ask(pool, origin) for _ in range(100)]
        assert len(pool._dialling) <= 4
        for ear in ears:
            assert await ear.wait() == "ended"

    async def test_a_receiver_may_send_the_next_call_on_the_same_connection(
        self, origin_of: Open, pool_of: Pools
    ) -> None:
        origin = await origin_of()
        pool = pool_of()
        second: list[Ear] = []

        class Chain(Ear):
            def on_end(self) -> None:
                super().on_end()
                second.append(ask(pool, origin))

        pool.send(origin.address, "GET", b"/", [], b"", Chain())
        await until(lambda: second)
        assert await second[0].wait() == "ended"
        assert origin.connections == 1

    @pytest.mark.parametrize(
        ("said", "method"),
        [
            (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", "POST"),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", "POST"),
            (OK + b"more", "POST"),
            (OK + OK, "POST"),
            (OK + OK[:20], "POST"),
            (OK + b"H", "POST"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD"),
        ],
        ids=["close", "http 1.0", "bytes behind", "a reply behind", "half a head behind", "a byte behind", "head"],
    )
    async def test_a_connection_is_not_reused_after_anything_odd(
        self, origin_of: Open, pool_of: Pools, said: bytes, method: str
    ) -> None:
        origin = await origin_of(saying(said))
        pool = pool_of()
        for _ in range(2):
            ear = ask(pool, origin, b"", method)
            assert await ear.wait() == "ended"
            assert ear.body == (b"{}" if method == "POST" else b"")

        assert origin.connections == 2
        await until(lambda: pool.statistics()["connections"] == 0)

    async def test_nor_after_bytes_that_nobody_asked_for(self, origin_of: Open, pool_of: Pools) -> None:
        async def script(call: OriginCall) -> None:
            await call.say(OK)
            await asyncio.sleep(0.02)
            await call.say(b"HTTP/1.1 408 Request Timeout\r\n\r\n")

        origin = await origin_of(script)
        pool = pool_of()
        await ask(pool, origin).wait()
        await until(lambda: pool.statistics()["connections"] == 0)
        assert await ask(pool, origin).wait() == "ended"

    async def test_nor_when_the_reply_came_before_the_request_was_taken(self, origin_of: Open, pool_of: Pools) -> None:
        """The server answers 413 on seeing the head; most of the body is still with us."""
        release = asyncio.Event()

        async def hasty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
            await release.wait()
            writer.close()

        server = await asyncio.start_server(hasty, "127.0.0.1", 0, limit=2**10)
        pool = pool_of()
        ear = Ear()
        pool.send(server.sockets[0].getsockname(), "POST", b"/", [], b"x" * 2**25, ear)

        assert await ear.wait() == "ended"
        assert ear.status == 413
        await until(lambda: pool.statistics()["connections"] == 0)
        release.set()
        server.close()

    async def test_unused_connections_are_closed_after_a_while(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of()
        pool = pool_of(QUICK)
        await ask(pool, origin).wait()

        await until(lambda: pool.statistics()["connections"] == 0)
        await until(lambda: origin.open == 0)

    async def test_addresses_that_are_not_used_any_more_are_forgotten(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of()
        pool = pool_of(UpstreamLimits(keep_timeout=0.01, tick=0.002))
        await ask(pool, origin).wait()
        assert pool._upstreams

        await until(lambda: not pool._upstreams)


class TestReplies:
    async def test_informational_ones_are_skipped(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of(saying(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 X\r\nLink: a\r\n\r\n", OK))
        ear = ask(pool_of(), origin)

        assert await ear.wait() == "ended"
        assert (ear.status, ear.body, ear.headers) == (200, b"{}", [])

    async def test_without_a_length_they_end_with_the_connection(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of(saying(b"HTTP/1.1 200 OK\r\n\r\n", b"abc", b"def", close=True))
        ear = ask(pool_of(), origin)

        assert await ear.wait() == "ended"
        assert (ear.length, ear.body) == (None, b"abcdef")

    async def test_but_not_with_a_reset(self, origin_of: Open, pool_of: Pools) -> None:
        async def script(call: OriginCall) -> None:
            await call.say(b"HTTP/1.1 200 OK\r\n\r\nabc")
            await until(lambda: ear.body)
            call.reset()

        origin = await origin_of(script)
        ear = ask(pool_of(), origin)

        assert await ear.wait() == "failed"
        assert ear.code == "upstream_truncated"

    async def test_the_reply_to_head_has_a_length_and_no_body(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"))
        ear = ask(pool_of(), origin, b"", "HEAD")

        assert await ear.wait() == "ended"
        assert (ear.length, ear.body) == (1000, b"")

    async def test_a_stream_is_passed_on_as_it_comes(self, origin_of: Open, pool_of: Pools) -> None:
        go = asyncio.Event()

        async def script(call: OriginCall) -> None:
            await call.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(3):
                await call.say(b"1\r\n%d\r\n" % number)
                await go.wait()
                go.clear()
            await call.say(b"0\r\n\r\n")

        origin = await origin_of(script)
        ear = ask(pool_of(), origin)
        for number in range(3):
            await until(partial(_has_pieces, ear, number + 1))
            go.set()
        assert await ear.wait() == "ended"
        assert ear.pieces == [b"0", b"1", b"2"]

    async def test_framing_and_hop_by_hop_headers_are_kept_back(self, origin_of: Open, pool_of: Pools) -> None:
        head = (
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nX-A: 1\r\nContent-Length: 2\r\n\r\n"
        )
        origin = await origin_of(saying(head + b"{}"))
        ear = ask(pool_of(), origin)
        await ear.wait()

        assert ear.headers == [(b"x-a", b"1")]


HEAD = b"HTTP/1.1 200 OK\r\n"

GARBAGE = {
    "no HTTP": ([b"hello\r\n\r\n"], "upstream_garbled"),
    "bad status line": ([b"HTTP/1.1 abc\r\n\r\n"], "upstream_garbled"),
    "two lengths": ([HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"], "upstream_garbled"),
    "bad chunk": ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"zz\r\n"], "upstream_garbled"),
    "gzip": ([HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"], "upstream_garbled"),
    "1xx storm": ([b"HTTP/1.1 102 Processing\r\n\r\n"] * 1_000, "upstream_garbled"),
    "switching protocols": ([b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nabc"], "upstream_garbled"),
    "endless header": ([HEAD + b"A: "] + [b"b" * 10_000] * 100, "upstream_head_too_large"),
    "many headers": ([HEAD] + [b"A: b\r\n" * 100] * 100 + [b"\r\n"], "upstream_head_too_large"),
    "endless trailer": (
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nT: "] + [b"b" * 10_000] * 100,
        "upstream_head_too_large",
    ),
}


class TestHostile:
    @pytest.mark.parametrize(("said", "code"), GARBAGE.values(), ids=GARBAGE.keys())
    async def test_garbage_is_a_502_with_a_reason_and_ends_the_connection(
        self, origin_of: Open, pool_of: Pools, said: list[bytes], code: str
    ) -> None:
        origin = await origin_of(saying(*said))
        pool = pool_of()
        ear = ask(pool, origin)

        assert await ear.wait() == "failed"
        assert ear.code == code
        assert ear.error is not None
        assert ear.error.problem.status == 502
        assert pool.errors == {code: 1}
        await until(lambda: pool.statistics()["connections"] == 0)
        await until(lambda: origin.open == 0)

    @pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
    @pytest.mark.parametrize("framing", [b"Content-Length: 20\r\n", b"Transfer-Encoding: chunked\r\n"])
    async def test_a_reply_that_breaks_off_after_any_byte_is_told_as_such(
        self, origin_of: Open, pool_of: Pools, framing: bytes, reset: bool
    ) -> None:
        chunked = framing.startswith(b"T")
        reply = HEAD + framing + b"\r\n" + (b"5\r\nabcde\r\n" * 2 + b"0\r\n\r\n" if chunked else b"x" * 20)

        async def script(call: OriginCall) -> None:
            await call.say(reply[: int(call.body)])
            call.reset() if reset else call.close()

        origin = await origin_of(script)
        pool = pool_of(UpstreamLimits(retry_reserve=0, retry_budget=0))
        for size in range(len(reply)):
            ear = ask(pool, origin, b"%d" % size)
            assert await ear.wait() == "failed"
            assert ear.code in ("upstream_truncated", "upstream_closed"), size
        assert pool.retries == 0

    async def test_silence_before_and_inside_a_reply(self, origin_of: Open, pool_of: Pools) -> None:
        release = asyncio.Event()

        async def script(call: OriginCall) -> None:
            await call.say(HEAD + b"Content-Length: 9\r\n\r\nabc" if call.number else b"")
            await release.wait()

        origin = await origin_of(script)
        pool = pool_of(QUICK)
        silent = ask(pool, origin)
        await silent.wait()
        halting = ask(pool, origin)
        await halting.wait()
        release.set()

        assert silent.code == "upstream_timeout"
        assert halting.code == "upstream_idle_timeout"
        assert silent.error is not None
        assert silent.error.problem.status == 504
        assert pool.retries == 0

    async def test_a_call_may_have_more_patience(self, origin_of: Open, pool_of: Pools) -> None:
        async def script(call: OriginCall) -> None:
            await asyncio.sleep(0.3)
            await call.say(OK)

        origin = await origin_of(script)

        assert await ask(pool_of(QUICK), origin, first_byte_timeout=10).wait() == "ended"

    async def test_nobody_answers_the_knock(self, pool_of: Pools) -> None:
        """A full backlog: the kernel answers no SYN."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            blockers = [socket.socket() for _ in range(4)]
            for blocker in blockers:
                blocker.setblocking(False)
                blocker.connect_ex(listener.getsockname())
            ear = Ear()
            pool_of(QUICK).send(listener.getsockname(), "GET", b"/", [], b"", ear)

            assert await ear.wait() == "failed"
            for blocker in blockers:
                blocker.close()
        assert ear.code == "upstream_connect_timeout"


class TestRetries:
    async def test_a_stale_connection_is_replaced_once_and_nobody_notices(
        self, origin_of: Open, pool_of: Pools
    ) -> None:
        async def script(call: OriginCall) -> None:
            if call.number == 1:
                call.close()
            else:
                await call.say(OK)

        origin = await origin_of(script)
        pool = pool_of()
        await ask(pool, origin).wait()
        ear = ask(pool, origin)

        assert await ear.wait() == "ended"
        assert pool.retries == 1
        assert len(origin.calls) == 3

    async def test_not_twice(self, origin_of: Open, pool_of: Pools) -> None:
        async def script(call: OriginCall) -> None:
            if call.number:
                call.close()
            else:
                await call.say(OK)

        origin = await origin_of(script)
        pool = pool_of()
        await ask(pool, origin).wait()
        ear = ask(pool, origin)

        assert await ear.wait() == "failed"
        assert ear.code == "upstream_closed"
        assert len(origin.calls) == 3

    async def test_not_on_a_fresh_connection(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of(saying(close=True))
        ear = ask(pool_of(), origin)

        assert await ear.wait() == "failed"
        assert len(origin.calls) == 1

    async def test_not_after_the_first_byte(self, origin_of: Open, pool_of: Pools) -> None:
        async def script(call: OriginCall) -> None:
            if call.number:
                await call.say(b"H")
                call.close()
            else:
                await call.say(OK)

        origin = await origin_of(script)
        pool = pool_of()
        await ask(pool, origin).wait()

        assert await ask(pool, origin).wait() == "failed"
        assert len(origin.calls) == 2

    async def test_a_refused_connection_is_tried_again_after_a_moment(self, pool_of: Pools) -> None:
        origin = Origin()
        origin.port = await free_port()
        pool = pool_of(UpstreamLimits(retry_pause=0.05))
        ear = ask(pool, origin)
        await until(lambda: pool.retries == 1)
        await origin.start()

        assert await ear.wait() == "ended"
        await origin.stop()

    async def test_only_as_long_as_the_budget_lasts(self, pool_of: Pools) -> None:
        origin = Origin()
        origin.port = await free_port()
        pool = pool_of(UpstreamLimits(retry_pause=0, retry_reserve=2, retry_budget=0.1, breaker_failures=10_000))
        for _ in range(42):
            assert await ask(pool, origin).wait() == "failed"

        assert pool.retries == 2 + 4


class TestBreaker:
    async def test_after_failures_in_a_row_calls_fail_at_once_for_a_while(self, pool_of: Pools) -> None:
        origin = Origin()
        origin.port = await free_port()
        pool = pool_of(UpstreamLimits(breaker_failures=3, breaker_pause=0.2, retry_reserve=0, retry_budget=0))
        for _ in range(3):
            assert await ask(pool, origin).wait() == "failed"
        state = pool.upstream(origin.address)
        await origin.start()
        ear = ask(pool, origin)

        assert ear.end == ""  # nothing is told before `send` has returned
        assert await ear.wait() == "failed"
        assert ear.code == "upstream_unreachable"
        assert ear.error is not None
        assert 0 < (ear.error.problem.retry_after or 0) <= 0.2
        assert origin.connections == 0

        await until(lambda: state.open_until < pool.time())
        assert await ask(pool, origin).wait() == "ended"
        assert state.failures == 0
        await origin.stop()

    async def test_the_while_grows_and_is_bounded(self, pool_of: Pools) -> None:
        origin = Origin()
        origin.port = await free_port()
        pool = pool_of(
            UpstreamLimits(
                breaker_failures=1, breaker_pause=0.01, breaker_pause_most=0.04, retry_reserve=0, retry_budget=0
            )
        )
        state = pool.upstream(origin.address)
        pauses = []
        for _ in range(4):
            await until(lambda: state.open_until < pool.time())
            await ask(pool, origin).wait()
            pauses.append(state.pause)

        assert pauses == [0.02, 0.04, 0.04, 0.04]

    async def test_other_servers_are_not_concerned(self, origin_of: Open, pool_of: Pools) -> None:
        dead, alive = Origin(), await origin_of()
        dead.port = await free_port()
        pool = pool_of(UpstreamLimits(breaker_failures=1, retry_reserve=0, retry_budget=0))
        await ask(pool, dead).wait()

        assert await ask(pool, alive).wait() == "ended"


class TestControl:
    async def test_a_cancelled_call_closes_its_connection_and_says_nothing(
        self, origin_of: Open, pool_of: Pools
    ) -> None:
        release = asyncio.Event()

        async def script(call: OriginCall) -> None:
            await call.say(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
            await call.reader.read()
            release.set()

        origin = await origin_of(script)
        pool = pool_of()
        ear = Ear()
        call = pool.send(origin.address, "POST", b"/", [], b"", ear)
        await until(lambda: ear.pieces)
        call.cancel()

        await asyncio.wait_for(release.wait(), 1)
        assert ear.end == ""
        await until(lambda: pool.statistics()["connections"] == 0)

    async def test_a_call_can_be_cancelled_before_it_has_a_connection(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of()
        pool = pool_of()
        ear = Ear()
        pool.send(origin.address, "POST", b"/", [], b"", ear).cancel()
        await until(lambda: pool.statistics()["idle"] == 1)

        assert ear.end == ""
        assert origin.calls == []

    async def test_and_while_it_waits_for_its_second_try(self, pool_of: Pools) -> None:
        origin = Origin()
        origin.port = await free_port()
        pool = pool_of(UpstreamLimits(retry_pause=0.02))
        ear = Ear()
        call = pool.send(origin.address, "POST", b"/", [], b"", ear)
        await until(lambda: pool.retries == 1)
        call.cancel()
        await asyncio.sleep(0.05)

        assert ear.end == ""
        assert pool.opened == 0

    async def test_a_receiver_may_cancel_at_the_head(self, origin_of: Open, pool_of: Pools) -> None:
        origin = await origin_of(saying(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"))
        pool = pool_of()
        calls: list[Call] = []

        class Fickle(Ear):
            def on_head(self, status: int, headers: list[tuple[bytes, bytes]], length: int | None) -> None:
                super().on_head(status, headers, length)
                calls[0].cancel()

        ear = Fickle()
        calls.append(pool.send(origin.address, "POST", b"/", [], b"", ear))
        await until(lambda: ear.status)
        await until(lambda: pool.statistics()["connections"] == 0)

        assert ear.pieces == []
        assert ear.end == ""

    async def test_a_paused_call_holds_the_server_back(self, origin_of: Open, pool_of: Pools) -> None:
        said = 0

        async def script(call: OriginCall) -> None:
            nonlocal said
            await call.say(HEAD + b"Content-Length: %d\r\n\r\n" % (64 * 2**20))
            for _ in range(64):
                await call.say(b"x" * 2**20)
                said += 1

        origin = await origin_of(script)
        pool = pool_of(UpstreamLimits(idle_timeout=0.3, tick=0.01))
        ear = Ear()
        call = pool.send(origin.address, "POST", b"/", [], b"", ear)
        await until(lambda: ear.pieces)
        call.pause()
        call.pause()
        before = -1
        while before != said:  # the kernel's buffers fill up; it takes longer than a silence may last
            before = said
            await asyncio.sleep(0.4)

        assert said < 40
        assert ear.end == ""  # and our own pause is no silence of the server
        call.resume()
        call.resume()
        assert await ear.wait() == "ended"
        assert len(ear.body) == 64 * 2**20

    async def test_a_call_paused_at_its_end_leaves_a_connection_that_reads(
        self, origin_of: Open, pool_of: Pools
    ) -> None:
        origin = await origin_of()
        pool = pool_of()
        ear = Ear()
        calls: list[Call] = []

        class Pausing(Ear):
            def on_head(self, status: int, headers: list[tuple[bytes, bytes]], length: int | None) -> None:
                super().on_head(status, headers, length)
                calls[0].pause()

        ear = Pausing()
        calls.append(pool.send(origin.address, "POST", b"/", [], b"", ear))
        await ear.wait()

        assert await ask(pool, origin).wait() == "ended"
        assert origin.connections == 1

    async def test_close_fails_what_is_under_way_and_leaves_nothing(self, origin_of: Open, pool_of: Pools) -> None:
        async def script(call: OriginCall) -> None:
            if call.body != b"quick":
                await call.reader.read()
            await plain(call)

        origin = await origin_of(script)
        pool = pool_of()
        await ask(pool, origin, b"quick").wait()
        ears = [ask(pool, origin) for _ in range(3)]
        await until(lambda: len(origin.calls) == 4)
        late = ask(pool, origin)
        await pool.close()

        assert [ear.end for ear in [*ears, late]] == ["failed"] * 4
        assert pool.statistics()["connections"] == 0
        assert pool.retries == 0
        await until(lambda: origin.open == 0)
