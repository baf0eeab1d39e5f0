"""The event stream says what happens, as it happens, and holds nobody up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ssis_dispatcher.core.messages import Model, ModelPinned, Recorded, ServerStopped, TimePassed, decode

if TYPE_CHECKING:
    from tests.gateway.operations.conftest import House


async def test_a_follower_sees_events_as_they_happen(house: House) -> None:
    stream = house.follow("/api/events")
    head = await stream.message()
    assert (await stream.text()).startswith(":")
    event = ModelPinned("operator: test", Model.of("demo"), True)
    house.dispatcher.post(event)
    name, data = (await stream.text()).strip().split("\n")
    await stream.leave()

    assert head["status"] == 200
    assert (b"content-type", b"text/event-stream; charset=utf-8") in head["headers"]
    assert not any(header == b"content-length" for header, _ in head["headers"])
    assert name == "event: ModelPinned"
    recorded = decode(data.removeprefix("data: "))
    assert isinstance(recorded, Recorded)
    assert recorded.event == event


async def test_a_follower_that_leaves_is_forgotten(house: House) -> None:
    stream = house.follow("/api/events")
    await stream.message()
    assert len(house.broadcast) == 1
    await stream.leave()

    assert len(house.broadcast) == 0


async def test_a_follower_can_choose(house: House) -> None:
    stream = house.follow("/api/events?only=ServerStopped,%20ServerReady")
    await stream.message()
    await stream.text()
    house.dispatcher.post(TimePassed("timer"))
    house.dispatcher.post(ServerStopped("launcher", "demo1"))
    assert (await stream.text()).count("event: ") == 1
    await stream.leave()


async def test_an_event_that_does_not_exist_is_refused_with_the_nearest_one(house: House) -> None:
    async with house.client() as client:
        reply = await client.get("/api/events?only=ServerRedy")

    assert (reply.status_code, reply.json()["param"]) == (400, "only")
    assert "Did you mean ServerReady?" in reply.json()["detail"]


async def test_the_stream_ends_when_the_dispatcher_goes(house: House) -> None:
    stream = house.follow("/api/events")
    await stream.message()
    await stream.text()
    house.broadcast.close()
    last, end = await stream.text(), await stream.message()
    await stream.over

    assert last.startswith("event: closed\n")
    assert end == {"type": "http.response.body", "body": b""}


async def test_too_many_followers_are_refused(house: House) -> None:
    taken = [house.broadcast.subscribe() for _ in range(32)]
    async with house.client() as client:
        refused = await client.get("/api/events")
        taken.pop().close()
        head = await client.head("/api/events")

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    assert (head.status_code, head.content) == (200, b"")
    assert len(house.broadcast) == 31


@pytest.mark.looptime
async def test_silence_is_broken_before_a_proxy_cuts_the_connection(house: House) -> None:
    stream = house.follow("/api/events")
    await stream.message()
    await stream.text()
    before = asyncio.get_running_loop().time()
    assert (await stream.text()).startswith(":")
    assert asyncio.get_running_loop().time() - before == 10.0
    await stream.leave()
