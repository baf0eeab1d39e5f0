"""A hub on the loopback interface that gives out files as the real one does, and breaks off when told to."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "1" * 40


@dataclass
class FileHub:
    """Files by ``org/name/file``. ``cuts`` and ``statuses`` are used up by the GETs to come: how many bytes are sent before
    the connection breaks, and which status is answered instead. ``stop_at`` holds every GET at that byte until ``go``.
    """

    endpoint: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    commit: str = COMMIT
    readers: set[str] | None = None
    elsewhere: bool = False
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    stop_at: int | None = None
    stopped: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    wrong: bool = False
    down: bool = False
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def gets(self) -> list[str]:
        """The ``Range`` of every GET so far, "" for none."""
        return [range for method, range, _ in self.asked if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    """``/org/name/resolve/revision/file``; large files redirect to ``/cdn/…`` on another host name."""

    hub: FileHub

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, head: bool) -> None:
        hub = self.hub
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        hub.asked.append((self.command, self.headers.get("Range", ""), token))
        if hub.down:
            return self._status(503)
        if self.path.startswith("/api/models/"):
            return self._api(token)
        cdn = self.path.startswith("/cdn/")
        match = re.fullmatch(
            r"/(?:cdn/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)", unquote(self.path)
        )
        content = hub.files.get(f"{match['repo']}/{match['name']}") if match else None
        if content is None:
            known = match and any(key.startswith(match["repo"] + "/") for key in hub.files)
            return self._status(404, "EntryNotFound" if known else "RepoNotFound")
        if not cdn and hub.readers is not None and token not in hub.readers:
            return self._status(403, "GatedRepo")
        if head:
            return self._describe(content)
        if hub.statuses and (status := hub.statuses.pop(0)):
            return self._status(status)
        self._send(content)

    def _api(self, token: str) -> None:
        """``/api/models/org/name`` lists the files; ``/auth-check`` behind it tells whether the token may read them."""
        repo = "/".join(self.path.partition("?")[0].split("/")[3:5])
        files = {
            key.removeprefix(f"{repo}/"): body for key, body in self.hub.files.items() if key.startswith(f"{repo}/")
        }
        if not files:
            return self._status(404, "RepoNotFound")
        if "/auth-check" in self.path:
            readable = self.hub.readers is None or token in self.hub.readers
            return self._status(200) if readable else self._status(403, "GatedRepo")
        siblings = [{"rfilename": name, "size": len(body)} for name, body in files.items()]
        body = json.dumps({"id": repo, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _describe(self, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        self.send_response(302 if self.hub.elsewhere else 200)
        if self.hub.elsewhere:
            self.send_header("Location", f"{self.hub.endpoint.replace('127.0.0.1', 'localhost')}/cdn{self.path}")
        self.send_header("X-Repo-Commit", self.hub.commit)
        self.send_header("X-Linked-Etag", f'"{digest}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Length", "0" if self.hub.elsewhere else str(len(content)))
        self.end_headers()

    def _send(self, content: bytes) -> None:
        start, hub = 0, self.hub
        if hub.ranges and (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start = int(match[1])
            if start >= len(content):
                return self._status(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if hub.wrong:
            body = bytes(len(body))
        cut = hub.cuts.pop(0) if hub.cuts else None
        try:
            if hub.stop_at is not None:
                self.wfile.write(body[: hub.stop_at])
                hub.stopped.set()
                hub.go.wait(10)
                body = body[hub.stop_at :]
            self.wfile.write(body[:cut])
        except ConnectionError:
            pass
        self.close_connection = True

    def _status(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving() -> Iterator[FileHub]:
    """A hub, as long as it is open."""
    fake = FileHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handling", (Handler,), {"hub": fake}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        fake.go.set()
        server.shutdown()
        thread.join()
        server.server_close()
