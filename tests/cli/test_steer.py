"""`ssis warm`, `stop`, `pin`, `unpin`."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

Ssis = Callable[..., Any]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssis_dispatcher.cli.steer._EVERY", 0.001)


def test_warm_shows_phases_and_prints_the_server(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    starting = say.waiting | {"phase": "starting", "why": "", "position": None, "expected_seconds": None}
    dispatcher.requests = [say.waiting, say.waiting, starting, {"state": "ready", "server": "demoabc"}]
    result = ssis("warm", "demo", "--context", "512")
    assert dispatcher.bodies("/api/models/warm") == [{"model": "demo", "context": 512}]
    assert (result.exit_code, result.stdout) == (0, "demoabc\n")
    assert result.stderr.splitlines() == [
        "demo: waiting for a slice, all slices are busy, position 3, about 12 s",
        "demo: starting",
    ]


def test_warm_can_leave_at_once(ssis: Ssis, dispatcher: Any) -> None:
    result = ssis("warm", "--no-wait", "demo")
    assert (result.stdout, result.stderr) == ("r-1\n", "")
    assert [path for _, path, _, _ in dispatcher.asked] == ["/api/models/warm"]


def test_warm_fails_with_the_reason_when_no_server_came_of_it(ssis: Ssis, dispatcher: Any) -> None:
    problem = {"title": "Unavailable", "status": 503, "code": "model_failed", "detail": "demo failed: no weights"}
    dispatcher.replies["GET", "/api/requests/r-1"] = (503, problem)
    result = ssis("warm", "-q", "demo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "demo failed: no weights" in result.stderr


def test_stop_takes_servers_and_models(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    dispatcher.servers = [
        say.server,
        say.server | {"id": "demoxyz"},
        say.server | {"id": "other", "model": "org/other", "revision": "v2"},
    ]
    result = ssis("stop", "demoabc", "demo", "org/other@v2", "-o", "json")
    assert result.exit_code == 0
    deleted = [path for method, path, _, _ in dispatcher.asked if method == "DELETE"]
    assert deleted == ["/api/servers/demoabc", "/api/servers/demoxyz", "/api/servers/other"]
    assert json.loads(result.stdout)[0] == {"server": "demoabc", "state": "stopping"}


def test_stop_stops_nothing_when_one_name_is_wrong(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    dispatcher.servers = [say.server]
    result = ssis("stop", "demo", "nope")
    assert result.exit_code == 1
    assert result.stderr == "ssis: no server or model nope is running; `ssis ps` lists them\n"
    assert all(method != "DELETE" for method, _, _, _ in dispatcher.asked)


def test_pin_and_unpin(ssis: Ssis, dispatcher: Any) -> None:
    assert ssis("pin", "demo").stderr == "demo is pinned\n"
    assert ssis("unpin", "demo").exit_code == 0
    assert dispatcher.bodies("/api/models/pin") == [
        {"model": "demo", "pinned": True},
        {"model": "demo", "pinned": False},
    ]
