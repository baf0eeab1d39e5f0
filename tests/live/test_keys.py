"""Who may call: programs of this machine without a key, others with one. No web page can start a server."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest
from tests.live.conftest import Start
from tests.live.support import Answer, Dispatcher, environment, is_alive, ssis, until

EVERYWHERE = ("--host", "0.0.0.0")
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


def key(folder: Path, name: str, *options: str) -> dict[str, str]:
    """Make a key; the header that shows it."""
    found = ssis(environment(folder), "keys", "create", name, *options)
    assert found.returncode == 0, found.stderr
    return {"Authorization": f"Bearer {found.stdout.strip()}"}


def ask(dispatcher: Dispatcher, headers: dict[str, str], model: str = "demo") -> Answer:
    return dispatcher.send("POST", "/v1/chat/completions", {**CHAT, "model": model}, headers).answer()


def test_beyond_loopback_it_does_not_start_without_keys(tmp_path: Path) -> None:
    found = ssis(environment(tmp_path), "serve", "--port", "0", *EVERYWHERE)
    assert found.returncode == 1
    for words in ("0.0.0.0", "keys.jsonl", "ssis keys create", "127.0.0.1", "--insecure"):
        assert words in found.stderr
    assert found.stderr.count("\n") == 1


def test_with_keys_nobody_else_is_answered(start: Start, tmp_path: Path) -> None:
    good = key(tmp_path, "alice")
    dispatcher = start(*EVERYWHERE)
    for wrong, code in (
        ({}, "missing_api_key"),
        ({"Authorization": "Basic x"}, "missing_api_key"),
        ({"Authorization": "Bearer ssis-wrong"}, "invalid_api_key"),
        ({"X-Api-Key": "x"}, "invalid_api_key"),
    ):
        refused = ask(dispatcher, wrong)
        assert (refused.status, refused.json["error"]["code"]) == (401, code)
        assert refused.json["error"]["type"] == "authentication_error"
    assert dispatcher.children() == []
    assert ask(dispatcher, good).status == 200
    assert ask(dispatcher, {"X-Api-Key": good["Authorization"].removeprefix("Bearer ")}).status == 200
    for public in ("/healthz", "/readyz"):
        assert dispatcher.get(public).status == 200
    for closed in ("/", "/metrics", "/v1/models", "/api/servers", "/api/queue", "/api/events", "/api/requests/x"):
        assert dispatcher.get(closed).status == 401


def test_a_key_may_what_its_role_and_its_lists_say(start: Start, tmp_path: Path) -> None:
    user = key(tmp_path, "user", "--model", "demo")
    operator = key(tmp_path, "operator", "--role", "operate")
    dispatcher = start(*EVERYWHERE)
    assert ask(dispatcher, user).status == 200
    assert ask(dispatcher, user, "scripted").status == 403
    assert [model["id"] for model in dispatcher.send("GET", "/v1/models", None, user).answer().json["data"]] == ["demo"]
    assert dispatcher.send("GET", "/api/servers", None, user).answer().status == 403
    assert dispatcher.send("POST", "/api/models/warm", {"model": "demo"}, user).answer().status == 403
    (server,) = dispatcher.send("GET", "/api/servers", None, operator).answer().json["servers"]
    assert dispatcher.send("DELETE", f"/api/servers/{server['id']}", None, user).answer().status == 403
    assert dispatcher.send("DELETE", f"/api/servers/{server['id']}", None, operator).answer().status == 202


def test_a_keys_own_limits_are_429_with_a_time(start: Start, tmp_path: Path) -> None:
    hasty = key(tmp_path, "hasty", "--per-minute", "2")
    single = key(tmp_path, "single", "--in-flight", "1")
    dispatcher = start(*EVERYWHERE)
    answers = [ask(dispatcher, hasty) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert int(answers[-1].headers["retry-after"]) >= 1
    waiting = {"model": "scripted", "messages": [{"role": "user", "content": "wait"}], "stream": True}
    first = dispatcher.send("POST", "/v1/chat/completions", waiting, single)
    first.line()
    assert ask(dispatcher, single).status == 429
    first.leave()
    until(lambda: ask(dispatcher, single).status == 200, "its one place is free again", 2.0)


def test_a_key_comes_and_goes_without_a_restart(start: Start, tmp_path: Path) -> None:
    first = key(tmp_path, "first")
    dispatcher = start(*EVERYWHERE)
    second = key(tmp_path, "second")
    until(lambda: ask(dispatcher, second).status == 200, "the new key counts", 5.0)
    assert ssis(environment(tmp_path), "keys", "revoke", "first").returncode == 0
    until(lambda: ask(dispatcher, first).status == 401, "the old one does not", 5.0)
    assert is_alive(dispatcher.pid)


# Without keys


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/", "/models/demo/generate", "/api/models/warm", "/api/plan"]
)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": ""}, 415),
    ],
)
def test_no_web_page_can_make_it_do_anything(live: Dispatcher, path: str, headers: dict[str, str], status: int) -> None:
    answer = live.send("POST", path, CHAT, headers).answer()
    assert answer.status == status
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/models", "/api/servers", "/metrics", "/api/events", "/models/demo/info", "/"])
@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
def test_no_web_page_can_read_anything(live: Dispatcher, path: str, headers: dict[str, str]) -> None:
    assert live.send("GET", path, None, headers).answer().status == 403


def test_stopping_a_server_is_nothing_for_web_pages(live: Dispatcher) -> None:
    server = live.server("scripted")["id"]
    assert (
        live.send("DELETE", f"/api/servers/{server}", None, {"Origin": "https://evil.example"}).answer().status == 403
    )
    assert live.server("scripted")["state"] == "ready"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST:8080", "[::1]:1"])
def test_by_its_own_names_it_is_reached(live: Dispatcher, host: str) -> None:
    assert live.get("/v1/models", Host=host).status == 200


def test_a_request_with_two_hosts_is_refused(live: Dispatcher) -> None:
    connection = http.client.HTTPConnection(*live.address, timeout=10)
    connection.putrequest("GET", "/v1/models", skip_host=True)
    connection.putheader("Host", "localhost")
    connection.putheader("Host", "evil.example")
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()
