"""What a caller sees while its model is not there yet."""

from __future__ import annotations

import pytest
from tests.live.conftest import Start
from tests.live.support import Dispatcher, until


@pytest.fixture
def cold(start: Start) -> Dispatcher:
    """A dispatcher whose one model does not become ready before `told`."""
    dispatcher = start("--heartbeat", "100ms", "--retry-pause", "10ms")
    dispatcher.tell("hold-scripted")
    return dispatcher


def told(dispatcher: Dispatcher) -> None:
    dispatcher.untell("hold-scripted")


def test_a_stream_hears_what_it_waits_for_and_then_the_answer(cold: Dispatcher) -> None:
    call = cold.chat("scripted", stream=True)
    for _ in range(3):
        beat = call.line(b":").decode()
        assert beat.startswith(": waiting phase=starting position=1 expected=")
    assert call.head().status == 200
    assert call.head().headers["content-type"] == "text/event-stream"
    told(cold)
    answer = call.answer()
    assert (answer.text(), answer.complete) == ("one two three", True)
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_the_status_is_withheld_until_the_first_heartbeat(start: Start) -> None:
    cold = start("--heartbeat", "60s")
    cold.tell("hold-scripted")
    call = cold.chat("scripted", stream=True, headers={"X-Request-Id": "patient-1"})
    until(lambda: cold.get("/api/requests/patient-1").json.get("phase") == "starting", "it waits")
    assert call.is_silent()
    told(cold)
    answer = call.answer()
    assert (answer.status, answer.comments(), answer.text()) == (200, [], "one two three")


@pytest.mark.parametrize("stream", [False, True])
def test_a_start_that_fails_before_the_first_heartbeat_keeps_its_status(start: Start, stream: bool) -> None:
    dispatcher = start("--heartbeat", "60s")
    dispatcher.tell("fail-scripted", "there are no weights")
    answer = dispatcher.chat("scripted", stream=stream).answer()
    assert (answer.status, answer.json["error"]["code"]) == (503, "model_failed")
    assert "exit code 1" in answer.json["error"]["message"]
    assert "there are no weights" in answer.json["error"]["message"]
    assert int(answer.headers["retry-after"]) >= 1


def test_a_start_that_fails_after_a_heartbeat_is_an_event_and_no_proper_end(cold: Dispatcher) -> None:
    call = cold.chat("scripted", stream=True)
    assert call.line(b":")
    cold.tell("fail-scripted", "the disk is on fire")
    answer = call.answer()
    assert (answer.status, answer.complete) == (200, False)
    (event,) = answer.events()
    assert event["error"]["code"] == "model_failed"
    assert "the disk is on fire" in event["error"]["message"]
    assert b"[DONE]" not in answer.body


def test_a_blocking_caller_looks_up_where_it_stands(cold: Dispatcher) -> None:
    calls = [cold.chat("scripted", headers={"X-Request-Id": f"mine-{number}"}) for number in (1, 2)]
    until(lambda: len(cold.get("/api/queue").json["lines"][:1]) and cold.queued() == 2, "both wait")
    until(lambda: cold.get("/api/requests/mine-2").json["phase"] == "starting", "it starts")
    found = cold.get("/api/requests/mine-2").json
    assert (found["id"], found["model"], found["state"], found["position"]) == ("mine-2", "scripted", "waiting", 2)
    assert found["expected_seconds"] > 0
    assert found["server"] == cold.server("scripted")["id"]
    (line,) = cold.get("/api/queue").json["lines"]
    assert [request["id"] for request in line["requests"]] == ["mine-1", "mine-2"]
    assert all(call.is_silent() for call in calls)
    told(cold)
    for number, call in enumerate(calls, 1):
        answer = call.answer()
        assert (answer.status, answer.headers["x-request-id"]) == (200, f"mine-{number}")
    assert cold.get("/api/requests/mine-1").status == 404


def test_everybody_who_waits_for_one_model_waits_for_one_server(cold: Dispatcher) -> None:
    calls = [cold.chat("scripted") for _ in range(12)]
    until(lambda: cold.queued() == 12, "all wait")
    told(cold)
    assert [call.answer().status for call in calls] == [200] * 12
    assert len(cold.servers("scripted")) == 1
    assert cold.said().count('"event":"launch"') == 1


def test_a_model_that_fits_nowhere_is_refused_at_once_with_the_arithmetic(start: Start) -> None:
    dispatcher = start(models={"huge": {"id": "test/huge", "engine": "scripted", "weights": "900GiB"}})
    answer = dispatcher.chat("huge", stream=True).answer()
    assert (answer.status, answer.json["error"]["code"]) == (422, "model_does_not_fit")
    assert "the slice has 512 MiB" in answer.json["error"]["message"]
    assert "retry-after" not in answer.headers


def test_a_full_waiting_room_turns_away_with_a_time_to_come_again(start: Start) -> None:
    cold = start("--waiting-per-model", "1")
    cold.tell("hold-scripted")
    first = cold.chat("scripted")
    until(lambda: cold.queued() == 1, "one waits")
    second = cold.chat("scripted").answer()
    assert (second.status, second.json["error"]["code"]) == (503, "waiting_room_full")
    assert int(second.headers["retry-after"]) >= 1
    told(cold)
    assert first.answer().status == 200


def test_a_model_that_takes_too_long_to_start_is_given_up(start: Start) -> None:
    cold = start(
        "--start-wait",
        "300ms",
        models={"scripted": {"id": "test/scripted", "engine": "scripted", "weights": 1, "start_seconds": 0.1}},
    )
    cold.tell("hold-scripted")
    answer = cold.chat("scripted").answer()
    assert answer.status == 503
    until(lambda: not cold.servers(), "its server is gone")
    assert not cold.processes("engine.py")


def test_a_cold_start_of_the_packaged_model_is_quick(start: Start) -> None:
    """Half a second is the aim on a quiet machine; here it is only asked that nothing waits for a clock."""
    answer = start().post("/", {"token": "Once upon", "par": {"max_new_tokens": 2}, "env": {"MODEL_ID": "demo"}})
    assert answer.status == 200
