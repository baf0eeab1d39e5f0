"""A hub on the loopback interface, which answers as the real one does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session


@dataclass
class FakeModel:
    """A model on the fake hub. ``readers`` are the tokens that may read it; None for everybody."""

    files: dict[str, bytes] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    readers: set[str] | None = None
    private: bool = False
    revisions: tuple[str, ...] = ("main",)


@dataclass
class FakeHub:
    """Models by id; what was asked, with which token; and answers that override the usual ones, by path."""

    endpoint: str = ""
    models: dict[str, FakeModel] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    overrides: dict[str, Any] = field(default_factory=dict)

    def add(self, id: str, **model: Any) -> FakeModel:
        self.models[id] = FakeModel(**model)
        return self.models[id]

    def answer(self, path: str, token: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a GET of ``path``."""
        if path in self.overrides:
            status, headers, body = self.overrides[path]
            return status, headers, body
        api = path.startswith("/api/models/")
        id, _, rest = path.removeprefix("/api/models/").lstrip("/").partition("/resolve/" if not api else "\0")
        if api:
            for marker in ("/revision/", "/auth-check"):
                if marker in id:
                    id, _, rest = id.partition(marker)
                    rest = rest or "auth-check"
        model = self.models.get(id)
        if model is None or (model.private and token not in (model.readers or ())):
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        readable = model.readers is None or token in model.readers
        if rest == "auth-check" or not api:
            if not readable:
                return 403, {"X-Error-Code": "GatedRepo"}, b""
            if api:
                return 200, {}, b""
        revision, _, name = rest.partition("/") if not api else (rest, "", "")
        if revision and unquote(revision) not in model.revisions:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if not api:
            if name not in model.files:
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            return 200, {}, model.files[name]
        siblings = [{"rfilename": name, "size": len(raw)} for name, raw in model.files.items()]
        return 200, {}, json.dumps({"id": id, "siblings": siblings, **model.info}).encode()


@pytest.fixture
def hub_server() -> Iterator[FakeHub]:
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            fake.asked.append((self.path, token))
            status, headers, body = fake.answer(urlsplit(self.path).path, token)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except ConnectionError:
                pass  # whoever reads only the beginning of a file hangs up

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.endpoint = f"http://127.0.0.1:{server.server_port}"
    yield fake
    close_session()
    server.shutdown()
    thread.join()
    server.server_close()
