"""Whether the dispatcher can listen, and whether anybody could call it."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ssis_dispatcher.assembly.doctor import listening
from ssis_dispatcher.gateway.keys import KeyFile
from ssis_dispatcher.settings import Settings

NewSettings = Callable[..., Settings]


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers as a dispatcher does at `/healthz`."""

    program = "ssis-dispatcher"

    def do_GET(self) -> None:
        body = json.dumps({"status": "ok", "program": self.program}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return None


class OtherProgram(Answering):
    program = "something-else"


@pytest.fixture
def serving() -> Iterator[Callable[[type[Answering]], int]]:
    """Starts HTTP servers on loopback; gives their ports."""
    servers: list[http.server.HTTPServer] = []

    def start(kind: type[Answering]) -> int:
        server = http.server.HTTPServer(("127.0.0.1", 0), kind)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def silent() -> Iterator[int]:
    """A port on which somebody listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_free_port_is_free_again_after_looking(settings: NewSettings, silent: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    check = listening.port(settings(port=free))

    assert (check.ok, check.detail) == (True, f"127.0.0.1 port {free} is free")
    with socket.create_server(("127.0.0.1", free)):
        pass


def test_a_taken_port_is_said_plainly(settings: NewSettings, silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_ASK_SECONDS", 0.05)
    check = listening.port(settings(port=silent))

    assert (check.ok, check.detail) == (False, f"127.0.0.1 port {silent} is taken by another program")
    assert check.fix.startswith("ssis serve --port ")
    assert f"sport = :{silent}" in check.fix


def test_a_dispatcher_that_runs_already_is_recognised(
    settings: NewSettings, serving: Callable[[type[Answering]], int]
) -> None:
    check = listening.port(settings(port=serving(Answering)))

    assert check.ok is None
    assert check.detail.startswith("a dispatcher listens on")


def test_another_web_server_is_not_taken_for_a_dispatcher(
    settings: NewSettings, serving: Callable[[type[Answering]], int]
) -> None:
    assert listening.port(settings(port=serving(OtherProgram))).ok is False


def test_an_address_of_another_machine_cannot_be_listened_on(settings: NewSettings) -> None:
    check = listening.port(settings(host="192.0.2.1"))

    assert (check.ok, check.detail) == (False, "192.0.2.1 is no address of this machine")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_no_keys_are_needed(settings: NewSettings, host: str) -> None:
    assert listening.keys(settings(host=host)).ok is True


def test_on_loopback_they_are_where_that_is_set(settings: NewSettings) -> None:
    check = listening.keys(settings(host="127.0.0.1", require_keys=True))

    assert check.ok is False
    assert check.detail.startswith("require_keys is set, and ")


def test_beyond_loopback_there_must_be_a_key(settings: NewSettings) -> None:
    check = listening.keys(settings(host="0.0.0.0"))

    assert (check.ok, check.fix) == (False, "ssis keys create NAME")
    assert "holds none" in check.detail


def test_a_key_that_is_valid_is_enough(settings: NewSettings, tmp_path: Path) -> None:
    KeyFile(tmp_path / "keys.jsonl").create("alice")
    check = listening.keys(settings(host="0.0.0.0"))

    assert check.ok is True
    assert check.detail.startswith("1 of 1 in ")


def test_keys_that_have_expired_do_not_count(settings: NewSettings, tmp_path: Path) -> None:
    KeyFile(tmp_path / "keys.jsonl").create("alice", expires=datetime.now(UTC) - timedelta(days=1))
    check = listening.keys(settings(host="0.0.0.0"))

    assert check.ok is False
    assert "none that is still valid" in check.detail


def test_keys_that_cannot_be_read_are_named(settings: NewSettings, tmp_path: Path) -> None:
    (tmp_path / "keys.jsonl").write_text("{oops\n")
    check = listening.keys(settings(host="0.0.0.0"))

    assert check.ok is False
    assert "keys.jsonl" in check.detail


def test_insecure_is_allowed_and_said(settings: NewSettings) -> None:
    check = listening.keys(settings(host="0.0.0.0", insecure=True))

    assert check.ok is None
    assert "anybody" in check.detail
