"""A dispatcher to talk to: it speaks the operations API and streams answers over real sockets, and decides nothing."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ssis_dispatcher
from ssis_dispatcher.cli import main

SERVER = {
    "id": "demoabc",
    "model": "demo",
    "revision": "",
    "engine": "llamacpp",
    "key": "demo#1",
    "state": "ready",
    "phase": "",
    "detail": "",
    "slice": "cpu-1gib",
    "count": 1,
    "node": "here",
    "seats": 16,
    "busy": 2,
    "waiting": 0,
    "idle_seconds": None,
    "age_seconds": 75.0,
    "address": "127.0.0.1:4",
    "pinned": False,
    "extra": False,
}
SLICE = {
    "node": "here",
    "name": "cpu-1gib",
    "kind": "cpu",
    "memory_mib": 1024,
    "compute": 0.25,
    "source": "name",
    "total": 4,
    "taken": 1,
    "ours": 1,
    "free": 2,
}
WAITING = {
    "model": "demo",
    "state": "waiting",
    "phase": "slice",
    "position": 3,
    "expected_seconds": 12.0,
    "why": "all slices are busy",
    "server": None,
    "detail": "",
}


class Dispatcher:
    """What the fake says, to be changed by a test, and what it was asked.

    ``replies`` are answers by method and path (status, JSON), which go before everything else; ``requests`` are views
    of requests by id, each shown once, then 404, like a request that is over. ``stream`` gets a function that writes
    one piece of an event stream, and returns when the stream is over. ``left`` is set when the caller hung up during
    one, ``looked`` when the last of ``requests`` was shown.
    """

    def __init__(self) -> None:
        self.servers: list[dict[str, Any]] = []
        self.slices: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self.logs: dict[str, list[list[str]]] = {}
        self.requests: list[dict[str, Any]] = []
        self.replies: dict[tuple[str, str], tuple[int, object]] = {}
        self.stream: Callable[[Callable[[str], None]], None] = lambda write: None
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.left = threading.Event()
        self.looked = threading.Event()
        self.url = ""

    def bodies(self, path: str) -> list[Any]:
        """The bodies that came to ``path``."""
        return [body for _, asked, _, body in self.asked if asked == path]

    def answer(self, method: str, path: str) -> tuple[int, object]:
        """Status and JSON for everything but streams."""
        if (method, path) in self.replies:
            return self.replies[method, path]
        gone = 404, {"type": "about:blank", "title": "Not Found", "status": 404, "detail": f"There is no {path} here."}
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": "demo", "object": "model", "owned_by": "ssis"}]}
        if path == "/api/servers":
            return 200, {"servers": self.servers}
        if path == "/api/slices":
            return 200, {"slices": self.slices}
        if path == "/api/queue":
            return 200, {"waiting": len(self.lines), "bytes": 10, "lines": self.lines}
        if path.endswith("/logs"):
            windows = self.logs.get(path.split("/")[3], [])
            return (200, {"server": path.split("/")[3], "lines": windows.pop(0)}) if windows else gone
        if path.startswith("/api/requests/"):
            return (200, {"id": path[14:]} | self._next_view()) if self.requests else gone
        if path == "/api/models/warm":
            return 202, {"request": "r-1"}
        if path == "/api/models/pin":
            return 200, {}
        if method == "DELETE":
            return 202, {"server": path.split("/")[3], "state": "stopping"}
        return gone

    def _next_view(self) -> dict[str, Any]:
        view = self.requests.pop(0)
        if not self.requests:
            self.looked.set()
        return view


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    dispatcher: Dispatcher

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.dispatcher.asked.append((self.command, self.path, headers, json.loads(raw) if raw else None))
        known = (self.command, self.path) in self.dispatcher.replies
        if self.path in ("/v1/chat/completions", "/v1/completions") and not known:
            self._stream()
            return
        status, reply = self.dispatcher.answer(self.command, self.path)
        body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if status == 503:
            self.send_header("retry-after", "7")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _serve

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()

        def write(text: str) -> None:
            self.wfile.write(text.encode())
            self.wfile.flush()

        try:
            self.dispatcher.stream(write)
        except OSError:
            self.dispatcher.left.set()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    """Keeps what goes wrong in a handler; by default it would be printed, into the output that a test looks at. That a
    caller has gone before its reply is nothing wrong."""

    def __init__(self, handler: type[_Handler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.errors: list[BaseException] = []

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.errors.append(error)


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    """A running one, with nothing on it."""
    fake = Dispatcher()
    handler = type("Handler", (_Handler,), {"dispatcher": fake})
    with _Server(handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join()
    assert server.errors == []


Run = Callable[..., Result]


@pytest.fixture
def ssis(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, request: pytest.FixtureRequest) -> Run:
    """Run `ssis` with these arguments, away from the user's own settings; it finds the fake dispatcher by itself."""
    if "dispatcher" in request.fixturenames:
        monkeypatch.setenv("SSIS_URL", request.getfixturevalue("dispatcher").url)
    for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*arguments: str, input: str | None = None) -> Result:
        result = CliRunner().invoke(main, list(arguments), input=input, prog_name="ssis")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def assembly(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the command line uses of the assembly, for a test to fill in."""
    fake = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "ssis_dispatcher.assembly", fake)
    monkeypatch.setattr(ssis_dispatcher, "assembly", fake, raising=False)
    return fake


def event(**chunk: object) -> str:
    """One event of a stream."""
    return f"data: {json.dumps(chunk)}\n\n"


def delta(text: str, **more: object) -> str:
    """One piece of a chat answer."""
    return event(choices=[{"index": 0, "delta": {"content": text}, **more}])


@pytest.fixture
def say() -> SimpleNamespace:
    """The words of the fake: events of a stream, and views of its state."""
    return SimpleNamespace(
        event=event, delta=delta, done="data: [DONE]\n\n", server=SERVER, slice=SLICE, waiting=WAITING
    )


@pytest.fixture
def unused() -> Iterator[int]:
    """A port on which nobody listens, and which nobody else gets meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
