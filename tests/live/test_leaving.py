"""Callers that leave: their seat is free at once, and nobody goes on generating for them."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest
from tests.live.conftest import Start
from tests.live.support import Dispatcher, scripted, until

SOON = 1.0


@pytest.fixture
def single(start: Start) -> Dispatcher:
    """A dispatcher with one model of one seat, which runs."""
    dispatcher = start("--servers-per-model", "1", models={"one": scripted("one", seats=1)})
    assert dispatcher.chat("one").answer().status == 200
    return dispatcher


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_in_the_middle_of_an_answer_stops_it(single: Dispatcher, stream: bool) -> None:
    call = single.chat("one", "wait", stream=stream)
    until(lambda: single.server("one")["busy"] == 1, "seated")
    until(lambda: len(single.notes("asked-one")) == 2, "the engine works on it")
    call.leave()
    until(lambda: single.notes("left-one"), "the engine was told", SOON)
    until(single.is_calm, "the seat is free", SOON)
    assert single.chat("one").answer().status == 200


def test_leaving_the_line_leaves_no_trace_and_no_turn(single: Dispatcher) -> None:
    first = single.chat("one", "wait", stream=True)
    first.line()
    second = single.chat("one", "second", headers={"X-Request-Id": "second"})
    third = single.chat("one", "third", headers={"X-Request-Id": "third"})
    until(lambda: single.queued() == 2, "two wait")
    until(lambda: single.get("/api/requests/third").json["position"] == 2, "in order")
    second.leave()
    until(lambda: single.get("/api/requests/second").status == 404, "it is forgotten", SOON)
    assert single.get("/api/requests/third").json["position"] == 1
    single.tell("go-one")
    assert first.answer().complete
    assert third.answer().status == 200
    prompts = [json.loads(line)["body"]["messages"][0]["content"] for line in single.notes("asked-one")]
    assert prompts == ["Hello", "wait", "third"]


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_while_the_model_starts_asks_the_engine_nothing(start: Start, stream: bool) -> None:
    dispatcher = start("--heartbeat", "100ms")
    dispatcher.tell("hold-scripted")
    call = dispatcher.chat("scripted", stream=stream, headers={"X-Request-Id": "early"})
    if stream:
        assert call.line(b":")
    until(lambda: dispatcher.get("/api/requests/early").status == 200, "it waits")
    call.leave()
    until(lambda: dispatcher.get("/api/requests/early").status == 404, "it is forgotten", SOON)
    assert dispatcher.queued() == 0
    dispatcher.untell("hold-scripted")
    until(lambda: [server["state"] for server in dispatcher.servers()] in ([], ["ready"]), "the start has ended")
    assert dispatcher.notes("asked-scripted") == []
    assert dispatcher.is_calm()


def test_a_real_model_stops_generating(start: Start) -> None:
    """llama.cpp itself says what its slots do, and whether they have come to the end of what they were asked for."""
    dispatcher = start()
    calls = [dispatcher.chat_at_length("demo") for _ in range(4)]
    for call in calls:
        call.line()
    for call in calls:
        call.leave()
    until(lambda: not any(slot["is_processing"] for slot in slots(dispatcher)), "no slot works", SOON)
    until(dispatcher.is_calm, "every seat is free", SOON)
    worked = [slot for slot in slots(dispatcher) if "next_token" in slot]
    assert worked
    assert all(slot["next_token"][0]["has_next_token"] for slot in worked)


def slots(dispatcher: Dispatcher) -> list[dict[str, Any]]:
    """What the model's own server says; callers of the dispatcher cannot ask it that."""
    (server,) = dispatcher.servers()
    connection = http.client.HTTPConnection(server["address"], timeout=10)
    try:
        connection.request("GET", "/slots")
        found: list[dict[str, Any]] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return found


def test_many_who_come_and_go_leave_everything_as_it_was(single: Dispatcher) -> None:
    for _ in range(5):
        calls = [single.chat("one", "wait", stream=bool(number % 2)) for number in range(10)]
        until(lambda: single.queued() == 9, "one is seated, the others wait")
        for call in calls:
            call.leave()
        until(single.is_calm, "all is calm", SOON)
    assert single.chat("one").answer().status == 200
