"""The wire format of the original program: ``POST /`` with ``token``, ``par`` and ``env``."""

from __future__ import annotations

from typing import Any

import pytest
from tests.live.support import Dispatcher

README: dict[str, Any] = {
    "token": "What is Deep Learning?",
    "par": {"max_new_tokens": "20"},
    "env": {"MODEL_ID": "demo", "HF_TOKEN": ""},
}


def body(**changes: object) -> dict[str, Any]:
    return {**README, **changes}


@pytest.mark.parametrize("token", ["", None])
def test_the_readmes_request_is_answered_with_words_of_the_model(live: Dispatcher, token: str | None) -> None:
    answer = live.post("/", body(env={"MODEL_ID": "demo", "HF_TOKEN": token}))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    (reply,) = answer.json
    assert reply["generated_text"].startswith("What is Deep Learning?")
    assert len(reply["generated_text"].split()) > 10


def test_without_do_sample_it_is_greedy(live: Dispatcher) -> None:
    assert len({live.post("/", README).body for _ in range(3)}) == 1


def test_the_prompt_comes_back_unless_it_is_not_wanted(live: Dispatcher) -> None:
    full = live.post("/", README).json[0]["generated_text"]
    short = live.post("/", body(par={"max_new_tokens": 20, "return_full_text": False})).json[0]["generated_text"]
    assert full == README["token"] + short


@pytest.mark.parametrize(
    "change", [{"stream": True}, {"par": {"max_new_tokens": "20", "stream": True}}, {"stream": "true"}]
)
def test_a_stream_is_in_tgis_form_and_says_what_the_whole_says(live: Dispatcher, change: dict[str, object]) -> None:
    answer = live.post("/", body(**change))
    assert (answer.status, answer.headers["content-type"], answer.complete) == (200, "text/event-stream", True)
    *tokens, last = answer.events()
    assert last["generated_text"] == live.post("/", README).json[0]["generated_text"]
    assert README["token"] + "".join(event["token"]["text"] for event in tokens) == last["generated_text"]


@pytest.mark.parametrize("subroute", ["/v1/chat/completions", "v1/chat/completions"])
def test_a_payload_goes_to_the_subroute_as_it_is(live: Dispatcher, subroute: str) -> None:
    payload = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
    answer = live.post("/", {"env": {"MODEL_ID": "demo"}, "payload": payload, "subroute": subroute})
    assert answer.json["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("subroute", ["http://evil/", "//evil/x", "/../api/servers", "/a b", "/%2e%2e/x", 5])
def test_a_subroute_cannot_leave_the_engine(live: Dispatcher, subroute: object) -> None:
    answer = live.post("/", {"env": {"MODEL_ID": "demo"}, "payload": {}, "subroute": subroute})
    assert (answer.status, answer.json["param"]) == (400, "subroute")


@pytest.mark.parametrize(
    ("par", "status", "code", "param"),
    [
        ({"best_of": 4}, 422, "unsupported_parameter", "par.best_of"),
        ({"watermark": True}, 422, "unsupported_parameter", "par.watermark"),
        ({"max_tokenz": 4}, 400, "unknown_parameter", "par.max_tokenz"),
        ({"max_new_tokens": "many"}, 400, "invalid_request", "par.max_new_tokens"),
        ({"temperature": -1, "do_sample": True}, 400, "invalid_request", "par.temperature"),
    ],
)
def test_a_parameter_that_cannot_be_had_is_refused_by_name(
    live: Dispatcher, par: dict[str, object], status: int, code: str, param: str
) -> None:
    answer = live.post("/", body(par=par))
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status, answer.json["code"], answer.json["param"]) == (status, code, param)


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PATH", "CUDA_VISIBLE_DEVICES", "PORT", "PYTHONPATH", "NO_SUCH_NAME"])
def test_a_variable_outside_the_list_is_refused_by_name_and_starts_nothing(live: Dispatcher, name: str) -> None:
    before = {server["id"] for server in live.servers()}
    answer = live.post("/", body(env={"MODEL_ID": "demo", name: "canary"}))
    assert (answer.status, answer.json["param"]) == (422, f"env.{name}")
    assert b"canary" not in answer.body
    assert {server["id"] for server in live.servers()} == before


def test_what_is_missing_is_named(live: Dispatcher) -> None:
    for wrong, param in ((body(env={}), "env.MODEL_ID"), (body(token=""), "token"), (body(oken="x"), "oken")):
        answer = live.post("/", wrong)
        assert (answer.status, answer.json["param"]) == (400, param)


def test_the_original_label_changes_nothing(live: Dispatcher) -> None:
    assert live.post("/", body(label={"slo": "0.5"})).body == live.post("/", README).body


def test_a_wish_for_an_answer_later_is_answered_now_and_does_not_claim_otherwise(live: Dispatcher) -> None:
    answer = live.post("/", README, Prefer="respond-async, wait=5")
    assert (answer.status, "preference-applied" in answer.headers) == (200, False)
    assert answer.json[0]["generated_text"]


def test_it_works_with_an_engine_of_the_operators_too(live: Dispatcher) -> None:
    answer = live.post("/", body(env={"MODEL_ID": "scripted"}))
    assert answer.json == [{"generated_text": "What is Deep Learning?one two three"}]
    streamed = live.post("/", body(env={"MODEL_ID": "scripted"}, stream=True))
    assert streamed.events()[-1]["generated_text"] == "What is Deep Learning?one two three"


def test_an_engine_that_breaks_off_is_an_error_in_tgis_form(live: Dispatcher) -> None:
    streamed = live.post("/", body(env={"MODEL_ID": "scripted"}, token="truncate", stream=True))
    assert (streamed.status, streamed.complete) == (200, False)
    assert "error" in streamed.events()[-1]
    whole = live.post("/", body(env={"MODEL_ID": "scripted"}, token="truncate"))
    assert (whole.status, whole.headers["content-type"]) == (502, "application/problem+json")
