"""Listeners hear what the fleet is told, and cannot hold it up."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from ssis_dispatcher.core.messages import (
    Failure,
    FailureKind,
    Recorded,
    RequestGone,
    ServerFailed,
    ServerStopped,
    TimePassed,
    decode,
)
from ssis_dispatcher.errors import Unavailable
from ssis_dispatcher.gateway.broadcast import KINDS, Broadcast, Subscription

STOPPED = ServerStopped("launcher", "demo1")


async def frames(listener: Subscription) -> list[tuple[str, bytes]]:
    """What there is to read now, as (name, data)."""
    found = []
    for block in (await listener.read()).decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), data.removeprefix("data: ").encode()))
    return found


async def test_a_listener_hears_what_happened_since_it_came_in_order() -> None:
    broadcast = Broadcast()
    broadcast(1.0, STOPPED)
    with broadcast.subscribe() as listener:
        broadcast(2.0, TimePassed("timer"))
        broadcast(3.0, RequestGone("r", 7))
        found = await frames(listener)

    assert [name for name, _ in found] == ["TimePassed", "RequestGone"]
    assert decode(found[1][1]) == Recorded(3.0, RequestGone("r", 7))


async def test_a_listener_waits_for_news() -> None:
    broadcast = Broadcast()
    with broadcast.subscribe() as listener:
        asyncio.get_running_loop().call_soon(broadcast, 1.0, STOPPED)
        assert [name for name, _ in await frames(listener)] == ["ServerStopped"]


async def test_a_listener_hears_only_what_it_asked_for() -> None:
    broadcast = Broadcast()
    with broadcast.subscribe(frozenset({ServerStopped, ServerFailed})) as listener:
        broadcast(1.0, RequestGone("r", 1))
        broadcast(2.0, STOPPED)
        broadcast(3.0, ServerFailed("launcher", "demo1", Failure(FailureKind.CRASHED, "gone")))
        assert [name for name, _ in await frames(listener)] == ["ServerStopped", "ServerFailed"]


async def test_a_listener_that_falls_behind_is_dropped_and_told_how_much_it_missed() -> None:
    broadcast = Broadcast(backlog=3)
    with broadcast.subscribe() as slow, broadcast.subscribe() as quick:
        for moment in range(5):
            broadcast(float(moment), STOPPED)
            assert len(await frames(quick)) == 1
        assert len(broadcast) == 1
        (last,) = await frames(slow)

        assert last[0] == "dropped"
        assert "4 events are lost" in msgspec.json.decode(last[1])["detail"]
        assert await slow.read() == b""


async def test_closing_ends_every_stream_after_what_it_had_to_say() -> None:
    broadcast = Broadcast()
    with broadcast.subscribe() as listener:
        broadcast(1.0, STOPPED)
        broadcast.close()
        broadcast(2.0, STOPPED)

        assert [name for name, _ in await frames(listener)] == ["ServerStopped", "closed"]
        assert await listener.read() == b""
    assert len(broadcast) == 0


async def test_there_are_not_more_listeners_than_allowed_and_a_place_that_is_left_is_free() -> None:
    broadcast = Broadcast(most=1)
    with broadcast.subscribe(), pytest.raises(Unavailable) as refused:
        broadcast.subscribe()
    with broadcast.subscribe():
        assert len(broadcast) == 1

    assert refused.value.problem.retry_after
    assert len(broadcast) == 0


def test_every_event_can_be_asked_for_by_name() -> None:
    assert KINDS["ServerStopped"] is ServerStopped
    assert len(KINDS) >= 16
