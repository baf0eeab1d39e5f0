"""A running `ssis serve`, as its users start it, and what the tests ask of it and of its processes."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2

SSIS = str(Path(sys.executable).with_name("ssis"))
ENGINE = str(Path(__file__).with_name("engine.py"))

JSON = {"content-type": "application/json"}

Found = TypeVar("Found")


def until(look: Callable[[], Found], what: str, within: float = 15.0) -> Found:
    """The first thing that ``look`` finds; fails when it finds nothing within these seconds."""
    deadline = time.monotonic() + within
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.01)
    return found


def environment(folder: Path) -> dict[str, str]:
    """An environment for `ssis` that has nothing of the user's, and never asks a hub."""
    return {
        **{name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ},
        **{f"XDG_{kind}_HOME": str(folder / kind.lower()) for kind in ("CONFIG", "CACHE", "STATE")},
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
    }


def ssis(env: Mapping[str, str], *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command of `ssis` to its end."""
    return subprocess.run(
        [SSIS, *arguments], env=dict(env), input=input or "", capture_output=True, text=True, timeout=30
    )


class Answer:
    """A reply as it came over the wire: status, headers (lower case), body, and whether it came to its proper end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.complete = True
        pieces = []
        try:
            while piece := response.read1(65536):
                pieces.append(piece)
            if response.length:  # read1 does not mind a body that is shorter than was announced
                self.complete = False
        except (http.client.HTTPException, ConnectionError):
            self.complete = False
        self.body = b"".join(pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The data of its server-sent events, without OpenAI's ``[DONE]``."""
        lines = (line[5:].strip() for line in self.body.split(b"\n") if line.startswith(b"data:"))
        return [json.loads(line) for line in lines if line != b"[DONE]"]

    def comments(self) -> list[str]:
        return [line.decode() for line in self.body.split(b"\n") if line.startswith(b":")]

    def text(self) -> str:
        """What OpenAI's chat stream says, all in all."""
        return "".join(event["choices"][0]["delta"].get("content") or "" for event in self.events())


class Call:
    """One request under way: sent, and not yet read."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self.socket: socket.socket = connection.sock
        self._response: http.client.HTTPResponse | None = None

    def head(self) -> http.client.HTTPResponse:
        """The reply's head, when it comes."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def line(self, start: bytes = b"data:") -> bytes:
        """The next line of the reply's body that begins so; empty when there is none."""
        while (line := self.head().readline()) and not line.startswith(start):
            pass
        return line

    def answer(self) -> Answer:
        try:
            return Answer(self.head())
        finally:
            self._connection.close()

    def is_silent(self) -> bool:
        """Whether not a byte of the reply has come."""
        return not select.select([self.socket], [], [], 0)[0]

    def leave(self) -> None:
        """Hang up."""
        self.socket.close()
        if self._response is not None:
            self._response.close()
        self._connection.close()


class Dispatcher:
    """One `ssis serve` in a folder of its own. ``folder`` also holds what the engine of the tests is told and leaves
    (see `engine`). Whatever its end, no process of it is left behind."""

    def __init__(self, folder: Path, *flags: str, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._said = folder / "stderr"
        self.env = environment(folder) | dict(env or {})
        with self._said.open("ab") as stderr:
            self._already = stderr.tell()
            self.process = subprocess.Popen(
                [SSIS, "serve", "--port", "0", *flags],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        self.pid = self.process.pid
        try:
            self.url = until(self._banner, "the banner with the URL", 30)
            self.address = (str(httpx2.URL(self.url).host), int(httpx2.URL(self.url).port or 0))
            until(lambda: self.get("/readyz").status != 503, "ready")
        except BaseException:
            self.end()
            raise

    def _banner(self) -> str:
        assert self.process.poll() is None, f"it ended: {self.said()}"
        found = re.search(r"listens on .*(http://\S+)\n", self.said())
        return found[1] if found else ""

    def said(self) -> str:
        """What it has printed on standard error since it began."""
        return self._said.read_bytes()[self._already :].decode()

    def log(self) -> list[str]:
        """Its lines that are JSON: events and requests."""
        return [line for line in self.said().splitlines() if line.startswith("{")]

    # Requests

    def send(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Call:
        """Send a request, on a connection of its own; ``body`` is JSON unless it is bytes."""
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        own = {name.lower(): value for name, value in (headers or {}).items()}
        connection.request(method, path, data, {**({} if data is None else JSON), **own})
        return Call(connection)

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, None, _named(headers)).answer()

    def post(self, path: str, body: object, **headers: str) -> Answer:
        return self.send("POST", path, body, _named(headers)).answer()

    def chat(self, model: str, prompt: str = "Hello", **more: object) -> Call:
        """Ask a chat model something."""
        headers = more.pop("headers", None)
        assert headers is None or isinstance(headers, Mapping)
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], **more}
        return self.send("POST", "/v1/chat/completions", body, headers)

    def chat_at_length(self, model: str) -> Call:
        """A stream of a real model that takes long, and does not fit into all the buffers on its way: as many tokens as it
        has room for, with a thousand probabilities for each."""
        return self.chat(model, stream=True, max_tokens=1000, ignore_eos=True, n_probs=1000)

    def servers(self, model: str = "") -> list[dict[str, Any]]:
        """The servers of a model, or all."""
        found = self.get("/api/servers").json["servers"]
        return [server for server in found if model in ("", server["model"])]

    def server(self, model: str) -> dict[str, Any]:
        """The one server of a model."""
        (found,) = self.servers(model)
        return dict(found)

    def is_calm(self) -> bool:
        """Whether nobody waits and every seat is free."""
        return not self.get("/api/queue").json["waiting"] and not any(server["busy"] for server in self.servers())

    def queued(self) -> int:
        """How many wait."""
        return int(self.get("/api/queue").json["waiting"])

    def free(self) -> int:
        """Slices that nobody holds."""
        return sum(slice["free"] for slice in self.get("/api/slices").json["slices"])

    def ssis(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run another command of `ssis`, which is told where this dispatcher is."""
        return ssis({**self.env, "SSIS_URL": self.url}, *arguments, input=input)

    # Its engine

    def tell(self, name: str, text: str = "") -> None:
        """Put a file where the engine looks for one, whole from the start."""
        (self.folder / f".{name}").write_text(text)
        (self.folder / f".{name}").rename(self.folder / name)

    def untell(self, name: str) -> None:
        (self.folder / name).unlink()

    def notes(self, name: str) -> list[str]:
        """The lines that the engine has left under a name."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    # Its processes

    def children(self) -> list[int]:
        """All processes below it."""
        return _below(self.pid)

    def pid_of(self, model: str) -> int:
        """The process of a model's server: it has the server's port, or the only one that holds the packaged model."""
        port = int(self.server(model)["address"].rpartition(":")[2])
        found = [pid for pid in self.children() if port in _listening(pid)]
        assert found, f"no process below {self.pid} listens on {port}"
        return found[0]

    def processes(self, *words: str) -> list[int]:
        """Those of them that have these words in their command lines, and have not ended."""
        return [pid for pid in self.children() if all(word in _command_line(pid) for word in words) and is_alive(pid)]

    def kill(self, pid: int) -> None:
        """Kill one of its processes, and see it gone."""
        assert pid in self.children()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_alive(pid), f"process {pid} is gone")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, within: float = 20.0) -> int:
        """Its exit code."""
        return self.process.wait(within)

    def end(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    """Keyword arguments as header names."""
    return {name.replace("_", "-"): value for name, value in headers.items()}


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number that has not ended; one that only waits to be collected has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def _below(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _listening(pid: int) -> set[int]:
    """The TCP ports on which a process listens."""
    try:
        own = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()
    return {int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own}


def write_settings(
    folder: Path,
    catalogue: Mapping[str, Mapping[str, object]],
    engines: Mapping[str, list[str]] | None = None,
    **settings: object,
) -> None:
    """A settings file for a dispatcher in ``folder``, with the engine of the tests as ``scripted``, other ``engines`` by
    their commands, and a catalogue. Entries that say nothing are models of the first one, with four seats."""
    models = {name: dict(entry) or scripted(name) for name, entry in catalogue.items()}
    (folder / "models.yaml").write_text(json.dumps({"models": models}))
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    lines.append(f"catalogue = {json.dumps(str(folder / 'models.yaml'))}")
    for name, command in {"scripted": command_of(folder), **(engines or {})}.items():
        lines += [f"[engines.{name}]", f"command = {json.dumps(command)}", 'kinds = ["cpu"]']
    path = folder / "config" / "ssis" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def command_of(folder: Path, *more: str) -> list[str]:
    """How the engine of the tests is started."""
    return [sys.executable, "-I", "-S", ENGINE, "{port}", "{served_as}", str(folder), *more]


def scripted(name: str, **more: object) -> dict[str, object]:
    """The catalogue's entry for a model of the tests' engine."""
    return {"id": f"test/{name}", "engine": "scripted", "weights": 1, "context": 512, "seats": 4} | more


@contextmanager
def running(folder: Path, *flags: str, env: Mapping[str, str] | None = None) -> Iterator[Dispatcher]:
    """A dispatcher that ends with the block."""
    dispatcher = Dispatcher(folder, *flags, env=env)
    try:
        yield dispatcher
    finally:
        dispatcher.end()
