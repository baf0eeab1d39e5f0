"""Two replicas: one keeps the book, the other hands its requests over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
import pytest
from tests.gateway.conftest import ANSWER, CHAT, Build, House

from ssis_dispatcher.errors import Problem
from ssis_dispatcher.gateway.following import LEADER_CHANGED, Following
from ssis_dispatcher.launchers.fake import Outcome


@dataclass
class Post:
    """Who leads, as one replica sees it."""

    leads: bool = False
    leader: tuple[str, int] | None = None


@dataclass
class Pair:
    leader: House
    follower: House
    post: Post
    following: Following

    def take_the_lead(self) -> None:
        """The follower leads from now on."""
        self.post.leads = True
        self.following.moved()

    def point_at(self, house: House | None) -> None:
        self.post.leader = None if house is None else ("127.0.0.1", house.port)
        self.following.moved()


@pytest.fixture
async def pair(build: Build) -> AsyncIterator[Pair]:
    async with build() as leader, build() as follower:
        post = Post(leader=("127.0.0.1", leader.port))
        gateway = follower.program.gateway
        following = Following(follower.program.pool, lambda: post.leads, lambda: post.leader, most=3, patience=5.0)
        gateway._following = following
        yield Pair(leader, follower, post, following)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssis_dispatcher.gateway.following._SILENT", 0.2)
    monkeypatch.setattr("ssis_dispatcher.gateway.following._ASKED_EVERY", 0.05)


async def test_a_request_is_answered_by_the_leaders_book(pair: Pair) -> None:
    reply = await pair.follower.chat(headers={"x-request-id": "r-7"})
    assert (reply.status_code, reply.json(), reply.headers["x-request-id"]) == (200, ANSWER, "r-7")
    assert len(reply.headers.get_list("date")) == 1
    assert pair.following.forwarded == 1
    assert pair.leader.program.dispatcher.fleet.book.seatings == 1
    assert pair.follower.program.dispatcher.fleet.book.seatings == 0
    await pair.leader.at_rest()


async def test_a_stream_comes_through_as_it_is_made(pair: Pair) -> None:
    pair.leader.upstream.manner = "stream"
    async with pair.follower.client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as reply:
        lines = reply.aiter_lines()
        assert '"Hi"' in await anext(lines)
        pair.leader.upstream.go_on.set()
        rest = [line async for line in lines if line]
    assert rest == ["data: [DONE]"]
    await pair.leader.at_rest()


async def test_errors_of_the_leader_come_back_as_they_are(pair: Pair) -> None:
    reply = await pair.follower.chat(model="unknown")
    direct = await pair.leader.chat(model="unknown")
    assert (reply.status_code, reply.json()) == (direct.status_code, direct.json())


async def test_a_caller_that_leaves_frees_its_seat_at_the_leader(pair: Pair) -> None:
    pair.leader.upstream.manner = "hang"
    task = pair.follower.begin_chat()
    await pair.leader.upstream.asked.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await asyncio.wait_for(pair.leader.upstream.left.wait(), 5.0)
    await pair.leader.at_rest()


async def test_what_arrives_while_nobody_leads_is_held_until_somebody_does(pair: Pair) -> None:
    pair.point_at(None)
    task = pair.follower.begin_chat()
    await pair.follower.until(lambda: pair.following.held == 1)
    pair.point_at(pair.leader)
    assert (await task).json() == ANSWER
    assert pair.following.held == 0


async def test_a_held_request_is_our_own_when_we_come_to_lead(pair: Pair) -> None:
    pair.point_at(None)
    task = pair.follower.begin_chat()
    await pair.follower.until(lambda: pair.following.held == 1)
    pair.take_the_lead()
    assert (await task).json() == ANSWER
    assert pair.follower.program.dispatcher.fleet.book.seatings == 1
    assert sum(pair.follower.counted.values()) == 1
    await pair.follower.at_rest()


async def test_a_caller_that_leaves_while_nobody_leads_is_forgotten(pair: Pair) -> None:
    pair.point_at(None)
    task = pair.follower.begin_chat()
    await pair.follower.until(lambda: pair.following.held == 1)
    task.cancel()
    await pair.follower.until(lambda: pair.following.held == 0)


async def test_too_many_to_hold_are_refused(pair: Pair) -> None:
    pair.point_at(None)
    tasks = [pair.follower.begin_chat() for _ in range(3)]
    await pair.follower.until(lambda: pair.following.held == 3)
    reply = await pair.follower.chat()
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "waiting_room_full")
    assert reply.headers["retry-after"]
    pair.point_at(pair.leader)
    assert [(await task).status_code for task in tasks] == [200, 200, 200]


async def test_nobody_waits_for_a_leader_for_ever(pair: Pair) -> None:
    pair.point_at(None)
    pair.following._patience = 0.05
    reply = await pair.follower.chat()
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_leader")


async def test_a_leader_that_goes_away_before_it_answers_is_no_error(pair: Pair) -> None:
    pair.leader.launches_take(Outcome(3600.0))
    task = pair.follower.begin_chat()
    await pair.leader.until(lambda: pair.leader.program.gateway.requests)
    pair.post.leader = None
    for connection in list(pair.leader.program.server._connections):
        connection.shut()
    await pair.follower.until(lambda: pair.following.held == 1)
    pair.take_the_lead()
    assert (await task).json() == ANSWER


async def test_a_leader_that_goes_away_in_the_middle_breaks_the_answer_off(pair: Pair) -> None:
    pair.leader.upstream.manner = "stream"
    async with pair.follower.client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as reply:
        lines = reply.aiter_lines()
        assert '"Hi"' in await anext(lines)
        for connection in list(pair.leader.program.server._connections):
            connection.shut()
        with pytest.raises(httpx2.RemoteProtocolError):
            await _drained(lines)


async def _drained(lines: AsyncIterator[str]) -> None:
    async for _ in lines:
        pass


async def test_what_was_handed_over_once_is_not_handed_on(pair: Pair) -> None:
    reply = await pair.follower.chat(headers={"x-ssis-hop": "1"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_leader")
    assert pair.leader.program.dispatcher.fleet.book.seatings == 0


async def test_operations_are_the_leaders_and_probes_are_everybodys(pair: Pair) -> None:
    assert (await pair.leader.chat()).status_code == 200
    servers = (await pair.follower.client.get("/api/servers")).json()["servers"]
    assert [server["model"] for server in servers] == ["mine"]
    forwarded = pair.following.forwarded
    for path in ("/healthz", "/metrics"):
        assert (await pair.follower.client.get(path)).status_code == 200
    assert pair.following.forwarded == forwarded


@contextlib.asynccontextmanager
async def standing_still() -> AsyncIterator[tuple[str, int]]:
    """A replica that stands still: its kernel takes connections in, and nobody answers. Its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=10) as listener:
        yield listener.getsockname()


async def test_a_leader_that_stands_still_loses_its_requests_to_the_next(pair: Pair, impatient: None) -> None:
    async with standing_still() as address:
        pair.post.leader = address
        asked = [pair.follower.begin_chat() for _ in range(2)]
        await pair.follower.until(lambda: len(pair.following.under_way) == 2)
        pair.point_at(pair.leader)
        assert [(await task).json() for task in asked] == [ANSWER] * 2
        assert pair.following._former == {}
    await pair.leader.at_rest()


async def test_requests_wait_when_the_leader_stands_still_and_none_is_next(pair: Pair, impatient: None) -> None:
    async with standing_still() as address:
        pair.post.leader = address
        asked = pair.follower.begin_chat()
        await pair.follower.until(lambda: pair.following.under_way)
        pair.point_at(None)
        await pair.follower.until(lambda: pair.following.held == 1)
    pair.take_the_lead()
    assert (await asked).json() == ANSWER


async def test_one_that_led_and_is_there_finishes_what_it_has(pair: Pair, impatient: None) -> None:
    pair.leader.upstream.manner = "stream"
    stream = {**CHAT, "stream": True}
    async with pair.follower.client.stream("POST", "/v1/chat/completions", json=stream) as reply:
        lines = reply.aiter_lines()
        assert '"Hi"' in await anext(lines)
        before = pair.leader.program.server.numbers
        pair.take_the_lead()
        await pair.follower.until(
            lambda: pair.leader.program.server.numbers >= before + 3
        )  # it was asked, again and again
        pair.leader.upstream.go_on.set()
        rest = [line async for line in lines if line]
    assert rest == ["data: [DONE]"]
    await pair.follower.until(lambda: not pair.following._former)
    await pair.leader.at_rest()


async def test_an_answer_that_has_begun_breaks_off_when_the_leader_stands_still(pair: Pair, impatient: None) -> None:
    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError):  # who asks may have given up before it has asked
            if b"/healthz" not in await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
                writer.write(b"transfer-encoding: chunked\r\n\r\n7\r\ndata: 1\r\n")

    writers: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        pair.post.leader = server.sockets[0].getsockname()
        async with pair.follower.client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as reply:
            lines = reply.aiter_lines()
            pair.take_the_lead()
            with pytest.raises(httpx2.RemoteProtocolError):
                await _drained(lines)
        for writer in writers:
            writer.close()


async def test_who_waits_when_the_lead_changes_goes_to_the_next_leader(pair: Pair) -> None:
    """The follower led, and held a request for a server that was starting."""
    pair.post.leads = True
    pair.follower.launches_take(Outcome(3600.0))
    task = pair.follower.begin_chat()
    await pair.follower.until(lambda: pair.follower.program.dispatcher.fleet.book.waiting)
    pair.post.leads = False
    await pair.follower.program.dispatcher.abdicate(Problem(503, LEADER_CHANGED, "Another leads.", 1.0))
    assert (await task).json() == ANSWER
    assert pair.following.forwarded == 1
    await pair.follower.at_rest()


async def test_what_is_cut_off_is_told_why_or_breaks_off(pair: Pair) -> None:
    pair.leader.upstream.manner = "hang"
    asked = pair.follower.begin_chat()
    await pair.leader.upstream.asked.wait()
    pair.post.leader = None
    held = pair.follower.begin_chat()
    await pair.follower.until(lambda: pair.following.held == 1)
    pair.follower.program.gateway.cut_off(Problem(503, "draining", "It is over.", 1.0))
    assert [((await task).status_code, (await task).json()["error"]["code"]) for task in (asked, held)] == [
        (503, "draining")
    ] * 2
    assert not pair.following.under_way
    await pair.leader.at_rest()
