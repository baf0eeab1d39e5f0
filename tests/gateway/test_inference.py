"""One inference request: whatever happens to it, its seat and its place in every account come back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import httpx2
import pytest

from ssis_dispatcher.core.messages import Failure, FailureKind
from ssis_dispatcher.gateway.dialects.base import Wish
from ssis_dispatcher.launchers.fake import Outcome

if TYPE_CHECKING:
    from tests.gateway.conftest import Build, House

SLOW = Outcome(60.0, phases=((0.0, "loading"),))


async def test_after_an_answer_everything_is_given_back(house: House) -> None:
    reply = await house.chat()
    assert reply.json()["choices"][0]["message"]["content"] == "Hi"
    assert house.upstream.bodies[0]["model"] == "mine"
    await house.at_rest()


async def test_after_a_stream_everything_is_given_back(house: House) -> None:
    reply = await house.chat(stream=True)
    assert reply.text.endswith("data: [DONE]\n\n")
    await house.at_rest()


async def test_while_it_streams_a_request_holds_its_seat_and_counts_for_its_key(house: House) -> None:
    house.upstream.manner = "stream"
    asking = house.begin_chat(stream=True)
    await house.until(house.upstream.asked.is_set)
    assert len(house.program.dispatcher.fleet.book.seated) == 1
    assert house.in_flight == 1
    house.upstream.go_on.set()
    assert (await asking).text.endswith("data: [DONE]\n\n")
    await house.at_rest()


async def test_a_request_that_is_refused_at_once_leaves_nothing(build: Build) -> None:
    async with build(waiting_total=0) as house:
        reply = await house.chat()
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "waiting_room_full")
        assert int(reply.headers["retry-after"]) > 0
        await house.at_rest()


async def test_a_request_that_is_refused_after_it_has_waited_leaves_nothing(house: House) -> None:
    house.launches_take(Outcome(0.2, Failure(FailureKind.MISCONFIGURED, "no such file"), ((0.0, "loading"),)))
    reply = await house.chat()
    assert reply.status_code == 503
    assert "no such file" in reply.json()["error"]["message"]
    await house.at_rest()


async def test_a_request_that_is_refused_after_signs_of_life_ends_in_an_error_event_and_not_properly(
    build: Build,
) -> None:
    async with build(heartbeat=0.1) as house:
        house.launches_take(Outcome(0.4, Failure(FailureKind.MISCONFIGURED, "no such file"), ((0.0, "loading"),)))
        text = ""
        async with house.client.stream(
            "POST", "/v1/chat/completions", json={"model": "mine", "messages": [], "stream": True}
        ) as reply:
            assert reply.status_code == 200
            pieces = reply.aiter_text()
            with contextlib.suppress(httpx2.RemoteProtocolError):
                while piece := await anext(pieces, ""):
                    text += piece
                pytest.fail("it ended properly")
        assert text.startswith(":")
        assert '"error"' in text.split("data: ")[1]
        await house.at_rest()


async def test_a_request_whose_patience_is_over_is_refused_and_leaves_nothing(build: Build) -> None:
    async with build(request_timeout=0.2) as house:
        house.launches_take(SLOW)
        reply = await house.chat()
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_capacity")
        assert "retry-after" in reply.headers
        await house.at_rest()


async def test_a_caller_who_leaves_while_held_leaves_nothing(house: House) -> None:
    house.launches_take(SLOW)
    for stream in (False, True):
        asking = house.begin_chat(stream=stream)
        await house.until(lambda: house.program.dispatcher.fleet.book.waiting)
        asking.cancel()
        await house.at_rest()
    assert house.upstream.bodies == []


async def test_a_caller_who_leaves_a_stream_gives_its_seat_back_and_stops_the_generation(house: House) -> None:
    house.upstream.manner = "stream"
    async with house.client.stream(
        "POST", "/v1/chat/completions", json={"model": "mine", "messages": [], "stream": True}
    ) as reply:
        await anext(reply.aiter_bytes())
    await house.at_rest()
    await house.until(house.upstream.left.is_set)
    assert house.counted == {("openai", "2xx", "gone"): 1}


async def test_a_caller_who_leaves_before_the_first_byte_stops_the_generation_too(house: House) -> None:
    house.upstream.manner = "hang"
    asking = house.begin_chat()
    await house.until(house.upstream.asked.is_set)
    asking.cancel()
    await house.at_rest()
    await house.until(house.upstream.left.is_set)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_breaks_off_leaves_nothing(house: House, stream: bool) -> None:
    house.upstream.manner = "half"
    with contextlib.suppress(httpx2.RemoteProtocolError):
        assert (await house.chat(stream=stream)).status_code == 502
        assert not stream
    await house.at_rest()


async def test_an_error_of_the_server_is_passed_on_and_leaves_nothing(house: House) -> None:
    house.upstream.manner = "bad"
    assert (await house.chat()).status_code == 500
    await house.at_rest()


async def test_a_server_that_cannot_be_reached_is_a_502_and_leaves_nothing(house: House) -> None:
    house.launches_take(Outcome(address="127.0.0.1:1"))
    reply = await house.chat()
    assert reply.status_code in (502, 503)
    assert reply.json()["error"]["code"]
    await house.at_rest()


async def test_a_key_may_only_use_its_models(build: Build) -> None:
    async with build(keys={"ana": {"models": ("mine",)}}) as house:
        assert (await house.chat(house.as_key("ana"))).status_code == 200
        refused = await house.chat(house.as_key("ana"), model="other")
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "model_not_allowed"
        assert len(house.upstream.bodies) == 1
        await house.at_rest()


async def test_a_keys_requests_in_flight_are_limited_and_the_refused_one_costs_nothing(build: Build) -> None:
    async with build(keys={"ana": {"in_flight": 1}}) as house:
        house.upstream.manner = "stream"
        asking = house.begin_chat(stream=True, headers=house.as_key("ana"))
        await house.until(house.upstream.asked.is_set)
        refused = await house.chat(house.as_key("ana"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        assert house.in_flight == 1
        house.upstream.go_on.set()
        await asking
        await house.at_rest()
        house.upstream.manner = "answer"
        assert (await house.chat(house.as_key("ana"))).status_code == 200


async def test_a_keys_requests_per_minute_are_limited_and_it_is_told_when_to_come_back(build: Build) -> None:
    async with build(keys={"ana": {"per_minute": 1}}) as house:
        assert (await house.chat(house.as_key("ana"))).status_code == 200
        refused = await house.chat(house.as_key("ana"))
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        await house.at_rest()


async def test_a_key_for_other_kinds_of_slices_starts_nothing_here(build: Build) -> None:
    async with build(keys={"ana": {"kinds": ("mig",)}, "ben": {}}, slice_wait=0.2) as house:
        refused = await house.chat(house.as_key("ana"))
        assert refused.status_code >= 400
        assert house.program.dispatcher.fleet.book.servers == {}
        assert (await house.chat(house.as_key("ben"))).status_code == 200
        await house.at_rest()


async def test_a_keys_launches_per_minute_are_limited(build: Build) -> None:
    async with build(keys={"ana": {"launches_per_minute": 1}}) as house:
        assert (await house.chat(house.as_key("ana"))).status_code == 200
        refused = await house.chat(house.as_key("ana"), model="other")
        assert refused.status_code == 429
        assert "retry-after" in refused.headers
        await house.at_rest()


async def test_the_hub_is_asked_about_a_callers_token_before_the_model_is_identified(house: House) -> None:
    asked: list[Wish] = []
    answer = asyncio.Event()

    async def acquaint(wish: Wish) -> None:
        asked.append(wish)
        await answer.wait()

    gateway = house.program.gateway
    gateway.knows = lambda wish: not wish.token
    gateway.acquaint = acquaint
    asking = house.begin_chat(ssis={"token": "hf_" + "x" * 34})
    await house.until(lambda: asked)
    assert asked[0].id == "mine"
    assert not gateway.requests
    answer.set()
    assert (await asking).status_code == 200
    assert "ssis" not in house.upstream.bodies[0]
    await house.at_rest()


async def test_a_caller_who_leaves_while_the_hub_is_asked_starts_nothing(house: House) -> None:
    began, answer = asyncio.Event(), asyncio.Event()

    async def acquaint(wish: Wish) -> None:
        began.set()
        await answer.wait()

    gateway = house.program.gateway
    gateway.knows = lambda wish: not wish.token
    gateway.acquaint = acquaint
    asking = house.begin_chat(ssis={"token": "hf_" + "x" * 34})
    await began.wait()
    asking.cancel()
    await house.until(lambda: house.counted)
    answer.set()
    await house.at_rest()
    assert house.program.dispatcher.fleet.book.servers == {}
    assert [outcome for (_, _, outcome) in house.counted] == ["gone"]


async def test_a_hub_that_breaks_leaves_no_caller_without_an_answer(house: House) -> None:
    async def acquaint(wish: Wish) -> None:
        raise RuntimeError("a bug")

    gateway = house.program.gateway
    gateway.knows = lambda wish: not wish.token
    gateway.acquaint = acquaint
    reply = await house.chat(ssis={"token": "hf_" + "x" * 34})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "a bug" not in reply.text
    await house.at_rest()


async def test_an_answer_that_takes_too_long_ends_in_an_error(build: Build) -> None:
    async with build(request_timeout=0.3) as house:
        house.upstream.manner = "hang"
        reply = await house.chat()
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "request_timeout")
        await house.upstream.left.wait()
        await house.at_rest()


async def test_a_stream_that_takes_too_long_ends_in_an_error_event_and_not_properly(build: Build) -> None:
    async with build(request_timeout=0.3) as house:
        house.upstream.manner = "stream"
        text = ""
        async with house.client.stream(
            "POST", "/v1/chat/completions", json={"model": "mine", "messages": [], "stream": True}
        ) as reply:
            pieces = reply.aiter_text()
            with contextlib.suppress(httpx2.RemoteProtocolError):
                while piece := await anext(pieces, ""):
                    text += piece
                pytest.fail("it ended properly")
        assert "request_timeout" in text
        await house.upstream.left.wait()
        await house.at_rest()
