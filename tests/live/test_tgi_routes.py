"""TGI's routes below a model's own path, and the engine's others."""

from __future__ import annotations

import pytest
from tests.live.support import Dispatcher

INPUT = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 6}}


def test_generate_answers_without_the_prompt(live: Dispatcher) -> None:
    reply = live.post("/models/demo/generate", INPUT).json
    assert reply["generated_text"]
    assert not reply["generated_text"].startswith("Once upon")
    assert live.post("/models/demo", INPUT).json == [{"generated_text": "Once upon a time" + reply["generated_text"]}]


def test_generate_stream_tells_token_by_token_why_it_ended(live: Dispatcher) -> None:
    answer = live.post("/models/demo/generate_stream", {**INPUT, "parameters": {"max_new_tokens": 6, "details": True}})
    *tokens, last = answer.events()
    assert answer.complete
    assert "".join(event["token"]["text"] for event in tokens) == last["generated_text"]
    assert last["details"]["finish_reason"] == "length"


def test_info_is_answered_where_the_engine_has_none(live: Dispatcher) -> None:
    assert live.post("/models/demo/generate", INPUT).status == 200
    info = live.get("/models/demo/info").json
    assert (info["model_id"], info["max_total_tokens"], info["router"]) == ("demo", 1024, "ssis-dispatcher")
    assert info["max_concurrent_requests"] >= 1
    assert live.get("/models/no-such/info").status == 404


def test_info_starts_nothing(live: Dispatcher) -> None:
    before = {server["id"] for server in live.servers()}
    assert live.get("/models/test/never-started/info").json["model_id"] == "test/never-started"
    assert {server["id"] for server in live.servers()} == before


def test_the_engines_own_routes_are_there(live: Dispatcher) -> None:
    assert len(live.post("/models/demo/tokenize", {"content": "Once upon"}).json["tokens"]) == 2
    assert live.get("/models/demo/health").json == {"status": "ok"}
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    assert live.post("/models/demo/v1/chat/completions", chat).json["choices"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/models/demo/v1/images/generations"),
        ("GET", "/models/demo/slots"),
        ("GET", "/models/demo/props"),
        ("POST", "/models/demo/props"),
        ("GET", "/models/demo/generate"),
        ("GET", "/models/org/name/nosuch"),
    ],
)
def test_a_route_that_is_not_for_callers_is_not_found_and_starts_nothing(
    live: Dispatcher, method: str, path: str
) -> None:
    before = {server["id"] for server in live.servers()}
    answer = live.send(method, path, {} if method == "POST" else None).answer()
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
    assert {server["id"] for server in live.servers()} == before


@pytest.mark.parametrize("path", ["/models/", "/models/..%2f..%2fetc", "/models/a/b/../../x", "/models/-x/generate"])
def test_a_path_that_names_no_model_is_refused(live: Dispatcher, path: str) -> None:
    assert live.post(path, INPUT).status in (400, 404)


def test_what_is_missing_is_named(live: Dispatcher) -> None:
    answer = live.post("/models/demo/generate", {"parameters": {}})
    assert (answer.status, answer.json["param"]) == (400, "inputs")
    answer = live.post("/models/demo/generate", {"inputs": "x", "parameters": {"best_of": 3}})
    assert (answer.status, answer.json["param"]) == (422, "parameters.best_of")
