"""What a warm request costs, in things that can be counted: calls, bytecode instructions, objects, tasks.

Seconds say more, but not on a machine that does other things too: those are for ``make bench-edge``. Here the whole program
answers one request after the other with everything on, between two transports in memory, and whoever makes the path longer
learns it at once. The bounds are what it takes now and a tenth.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import AsyncIterator
from types import FrameType
from typing import Any

import pytest
from tests.gateway.conftest import Build, House
from tests.http.memory import MemoryTransport

from ssis_dispatcher.http.connection import Connection
from ssis_dispatcher.http.upstream import UpstreamConnection

MOST_CALLS = 67
MOST_INSTRUCTIONS = 2_590

_BODY = b'{"model":"mine","messages":[{"role":"user","content":"%b"}]}'
_ANSWER = b'{"id":"c-1","object":"chat.completion","choices":[{"message":{"role":"assistant","content":"%b"}}]}'

ABSENT = {"logging", "uuid", "prometheus_client", "json"}
"""Packages of which nothing may be called on the way."""


class Path:
    """A client's connection and a server's, both in memory, with the program between them."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.program = house.program
        address = ("127.0.0.1", _port_of(house))
        self.client, self.said = Connection(self.program.server), MemoryTransport()
        self.client.connection_made(self.said)
        self.server, self.asked = (
            UpstreamConnection(self.program.pool, self.program.pool.upstream(address)),
            MemoryTransport(),
        )
        self.server.connection_made(self.asked)
        self._head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nUser-Agent: me\r\n"
            b"Authorization: Bearer %b\r\n" % house.keys["ana"].encode()
        )

    def request(self, text: bytes) -> bytes:
        body = _BODY % text
        return b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)

    def reply(self, text: bytes) -> bytes:
        body = _ANSWER % text
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    def go(self, count: int) -> None:
        """``count`` requests and their answers, no two of the same length."""
        for number in range(count):
            text = b"x" * (100 + number)
            self._through(self.request(text), self.reply(text))

    def _through(self, request: bytes, reply: bytes) -> None:
        self.client.data_received(request)
        self.program.pool.outbox.flush()
        self.server.data_received(reply)
        self.program.server.outbox.flush()

    async def tracked(self) -> int:
        """Objects that the garbage collector knows, when everything is counted, logged and collected."""
        await asyncio.sleep(0)  # flushes that were already done
        self.house.access()
        _ = self.house.counted
        self.said.written.clear()
        self.asked.written.clear()
        gc.collect()
        return len(gc.get_objects())

    def close(self) -> None:
        self.client.connection_lost(None)
        self.server.connection_lost(None)


def _port_of(house: House) -> int:
    [endpoint] = house.program.dispatcher._endpoints.values()
    return endpoint.address[1]


@pytest.fixture
async def path(build: Build) -> AsyncIterator[Path]:
    """Everything that is done once, and every batch, has been done; and everything is on: a key with limits of its own,
    counters, the access log."""
    async with build(keys={"ana": {"in_flight": 1000, "per_minute": 1_000_000}}) as house:
        assert (await house.chat(headers=house.as_key("ana"))).status_code == 200
        path = Path(house)
        path.go(70)
        try:
            assert path.said.written.count(b"HTTP/1.1 200 OK") == 70
            yield path
        finally:
            path.close()


async def test_a_warm_request_takes_no_more_calls_than_it_did(path: Path) -> None:
    calls: Counter[str] = Counter()
    modules: set[str] = set()

    def look(frame: FrameType, event: str, argument: object) -> None:
        module = frame.f_globals["__name__"]
        if event == "call" and module.startswith("ssis_dispatcher"):
            calls[frame.f_code.co_qualname] += 1
        modules.add(module.partition(".")[0])

    sys.setprofile(look)
    try:
        path.go(64)
    finally:
        sys.setprofile(None)

    each = {name: count / 64 for name, count in calls.items()}
    assert sum(each.values()) <= MOST_CALLS, each
    assert not modules & ABSENT


async def test_a_warm_request_takes_no_more_instructions_than_it_did(path: Path) -> None:
    instructions: Counter[str] = Counter()

    def step(frame: FrameType, event: str, argument: object) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            instructions[frame.f_code.co_qualname] += 1
        return step if frame.f_globals["__name__"].startswith("ssis_dispatcher") else None

    before = sys.gettrace()
    sys.settrace(step)
    try:
        path.go(64)
    finally:
        sys.settrace(before)

    each = {name: round(count / 64) for name, count in instructions.most_common(20)}
    assert instructions.total() / 64 <= MOST_INSTRUCTIONS, each


async def test_a_warm_request_leaves_nothing_behind_and_starts_no_task(path: Path) -> None:
    before, tasks = await path.tracked(), len(asyncio.all_tasks())
    path.go(640)

    assert len(asyncio.all_tasks()) == tasks
    assert await path.tracked() - before < 64
