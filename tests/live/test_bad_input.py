"""What strangers send. Every case is answered with what is wrong, starts nothing, and leaves the program as it was."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from tests.live.support import Dispatcher

CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _unmoved(live: Dispatcher) -> Iterator[None]:
    """The same process, the same servers, everybody's seat given back."""
    before = {server["id"] for server in live.servers()}
    yield
    assert live.process.poll() is None
    assert {server["id"] for server in live.servers()} == before
    assert live.is_calm()
    assert "Traceback" not in live.said()


@pytest.mark.parametrize(
    "path", ["/", CHAT, "/v1/completions", "/models/demo/generate", "/api/plan", "/api/models/warm"]
)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"42",
        b'"text"',
        b"NaN",
        b"\x00",
        b"\xff\xfe{}",
        b'{"model": "demo" "messages": []}',
        b'{"model": "\xed\xa0\x80"}',
        b'{"model": "\\u0000"}',
        b"{'model': 'demo'}",
        b'{"a":' * 100_000,
        b"[" * 1_000_000,
        b'{"model": ' + b"9" * 100_000 + b"}",
        b"model=demo",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_json_object_is_refused(live: Dispatcher, path: str, body: bytes) -> None:
    answer = live.post(path, body)
    assert answer.status == 400
    shown = answer.json
    assert (shown["error"]["message"] if path.startswith("/v1/") else shown["detail"]).strip()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"model": 5}, "model"),
        (CHAT, {"model": None}, "model"),
        (CHAT, {"model": ["demo"]}, "model"),
        (CHAT, {"messages": []}, "model"),
        (CHAT, {"model": "demo", "stream": "yes"}, "stream"),
        (CHAT, {"model": "demo", "ssis": []}, "ssis"),
        (CHAT, {"model": "demo", "ssis": {"context": -5}}, "ssis.context"),
        (CHAT, {"model": "demo", "ssis": {"context": 10**30}}, "ssis.context"),
        ("/", {"env": []}, "env"),
        ("/", {"env": {"MODEL_ID": ["demo"]}}, "env"),
        ("/", {"env": {"MODEL_ID": "demo"}, "token": {"a": 1}}, "token"),
        ("/", {"env": {"MODEL_ID": "demo"}, "token": "x", "par": [1]}, "par"),
        ("/", {"env": {"MODEL_ID": "demo"}, "token": "x", "par": {"max_new_tokens": [1]}}, "par.max_new_tokens"),
        ("/", {"env": {"MODEL_ID": "demo"}, "token": "x", "stream": 7}, "stream"),
        ("/", {"env": {"MODEL_ID": "demo"}, "token": "x", "evil": 7}, "evil"),
        ("/models/demo/generate", {"inputs": 7}, "inputs"),
        ("/api/plan", {"model": 7}, "model"),
        ("/api/models/pin", {"model": "demo", "pinned": "perhaps"}, "pinned"),
    ],
)
def test_a_wrong_type_names_the_field(live: Dispatcher, path: str, body: object, param: str) -> None:
    answer = live.post(path, body)
    assert answer.status == 400
    found = answer.json["error"] if path.startswith("/v1/") else answer.json
    assert found["param"].startswith(param)
    assert param.rpartition(".")[2] in (found.get("message") or found["detail"])


def test_a_model_that_is_named_twice_is_refused_because_readers_disagree(live: Dispatcher) -> None:
    answer = live.post(CHAT, b'{"model": "demo", "messages": [], "model": "scripted"}')
    assert (answer.status, answer.json["error"]["param"]) == (400, "model")


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(live: Dispatcher) -> None:
    with socket.create_connection(live.address) as raw:
        head = [
            f"POST {CHAT} HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            "Content-Length: 99999999",
        ]
        raw.sendall("\r\n".join([*head, "", ""]).encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "model",
    [
        "",
        " ",
        "/etc/passwd",
        "../../etc/passwd",
        "..",
        "~root/x",
        "C:\\models\\x",
        "file:///etc/passwd",
        "http://127.0.0.1:1/x",
        "--help",
        "-m",
        "org/--trust-remote-code",
        "a/b/c",
        "org/na me",
        "org/na\nme",
        "org/na\tme",
        "mödel",
        "模型",
        "org/\u202ename",
        "demo\x7f",
        "x" * 300,
        f"org/{'x' * 300}",
        "demo;ls",
        "$(id)",
        "`id`",
        "{port}",
        "demo@",
        "demo@../x",
        "demo:",
        "org/..",
        "org/.hidden",
    ],
    ids=ascii,
)
def test_what_is_no_model_name_is_refused_in_every_dialect(live: Dispatcher, model: str) -> None:
    chat = live.chat(model).answer()
    assert (chat.status, chat.json["error"]["param"]) == (400, "model")
    seed = live.post("/", {"token": "x", "env": {"MODEL_ID": model}})
    assert (seed.status, seed.json["param"]) == (400, "env.MODEL_ID")
    assert live.post("/api/plan", {"model": model}).status == 400


@pytest.mark.parametrize("model", ["no-such", "demo2", "gpt-4o", "DEMO"])
def test_a_name_that_nobody_knows_is_not_found_and_never_another_model(live: Dispatcher, model: str) -> None:
    answer = live.chat(model).answer()
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")
    assert "demo" in answer.json["error"]["message"]


def test_odd_json_that_is_json_is_answered(live: Dispatcher) -> None:
    text = {
        "model": "demo",
        "prompt": 'é\u202e"\\ \U0001f600 </script>',
        "max_tokens": 2,
        "x-unknown": {"a": [None] * 50},
    }
    answer = live.post("/v1/completions", json.dumps(text, ensure_ascii=False).encode())
    assert answer.status == 200
    deep = live.post("/v1/completions", {"model": "demo", "prompt": "x" * 20_000, "max_tokens": 2})
    assert deep.status == 400
    assert "context" in deep.json["error"]["message"]


def test_every_reply_carries_a_request_id_even_the_refusals(live: Dispatcher) -> None:
    for path in ("/healthz", "/v1/models", "/nowhere", "/api/servers", "/metrics", "/api/requests/none"):
        assert live.get(path).headers["x-request-id"]
        assert live.get(path, X_Request_Id="mine").headers["x-request-id"] == "mine"
    for path in ("/", CHAT, "/models/demo/generate", "/nowhere"):
        assert live.post(path, b"{").headers["x-request-id"]
    strange = live.get("/healthz", X_Request_Id="a b<script>").headers["x-request-id"]
    assert "<" not in strange
    assert strange


def test_a_method_that_a_route_has_not_is_said(live: Dispatcher) -> None:
    assert live.send("DELETE", "/v1/models").answer().status in (404, 405)
    assert live.send("PUT", "/api/servers", {}).answer().status == 405
    assert live.get(CHAT).status in (404, 405)


def test_a_thousand_unknown_names_leave_nothing_behind(live: Dispatcher) -> None:
    for number in range(300):
        assert live.chat(f"nobody/model-{number}").answer().status == 404
    page = live.get("/metrics").body.decode()
    assert page.count("nobody/model-") <= 100
