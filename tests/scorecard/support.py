"""The whole program in one process: a client of raw bytes before it, a server of raw bytes behind it.

`House` is the program as `ssis serve` builds it, but for the launcher: every server that `Platform` starts is the one
`Origin`, which says whatever bytes a test wants. Nothing of the program is replaced or patched.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from tests.http.support import Origin, OriginCall, Reply, Script, Wire, until

from ssis_dispatcher.assembly.program import Program
from ssis_dispatcher.core.messages import Launch, ServerReady
from ssis_dispatcher.core.slices import Pool, cpu_slice
from ssis_dispatcher.launchers.base import Report
from ssis_dispatcher.launchers.fake import FakeLauncher, Outcome
from ssis_dispatcher.models.catalogue import demo_path
from ssis_dispatcher.settings import EngineCommand, Settings

POOLS = (Pool("node", cpu_slice(1024, 0.25), 4), Pool("node", cpu_slice(8192), 4))

CATALOGUE = f"models:\n  solo: {{path: {demo_path()}, seats: 1, engine: llamacpp}}\n"
"""Besides the packaged ``demo``, ``solo`` is the same model with one seat."""

ENGINES = (EngineCommand("vllm", "vllm", command=("serve", "{port}"), kinds=("cpu",)),)
"""An engine for models of the hub. Its command is never run."""


class Platform(FakeLauncher):
    """Servers that are all the same origin. A launch waits until `open` is set, then goes as ``outcome`` says; ``orders``
    and ``begun`` (loop times) are kept."""

    def __init__(self, port: int) -> None:
        self.outcome = Outcome()
        super().__init__(POOLS, lambda order: self.outcome, address=f"127.0.0.1:{port}")
        self.open = asyncio.Event()
        self.open.set()
        self.orders: list[Launch] = []
        self.begun: list[float] = []

    async def launch(self, order: Launch, report: Report) -> ServerReady:
        self.orders.append(order)
        self.begun.append(asyncio.get_running_loop().time())
        await self.open.wait()
        return await super().launch(order, report)


class House:
    """The program, running. ``wire`` connects to it, ``ask`` sends one request on a connection of its own."""

    def __init__(self, program: Program, platform: Platform, origin: Origin, port: int) -> None:
        self.program = program
        self.platform = platform
        self.origin = origin
        self.port = port
        self.secrets: dict[str, str] = {}
        """API keys by name."""
        self.open_wires: list[Wire] = []

    @staticmethod
    async def open(folder: Path, script: Script, limits: dict[str, Any], **changes: Any) -> House:
        """``limits`` are those of the listener that are no settings, ``changes`` are settings."""
        origin = Origin(script)
        await origin.start()
        platform = Platform(origin.port)
        program = Program(settings(folder, **changes), platform)
        program.server.limits = dataclasses.replace(program.server.limits, **{"tick": 0.02, "linger": 0.2} | limits)
        program.pool.limits = dataclasses.replace(program.pool.limits, tick=0.02)
        port = await program.server.listen("127.0.0.1", 0)
        program.start()
        return House(program, platform, origin, port)

    async def wire(self) -> Wire:
        wire = await Wire.to(self.port)
        self.open_wires.append(wire)
        return wire

    async def wires(self, count: int) -> list[Wire]:
        return [await self.wire() for _ in range(count)]

    async def ask(self, *pieces: bytes) -> Reply:
        wire = await self.wire()
        reply = await wire.ask(*pieces)
        await wire.close()
        return reply

    async def warm(self) -> None:
        """Have a server of ``demo`` ready, and forget that somebody asked for it."""
        script, self.origin.script = self.origin.script, answer
        assert (await self.ask(chat())).status == 200
        self.origin.script = script
        self.origin.calls.clear()

    @property
    def waiting(self) -> int:
        """Requests that are held."""
        return len(self.program.dispatcher.fleet.book.waiting)

    @property
    def seated(self) -> int:
        return len(self.program.dispatcher.fleet.book.seated)

    @property
    def connections(self) -> tuple[int, int]:
        """Those of clients, and those to servers."""
        return self.program.server.statistics()["connections"], self.program.pool.statistics()["connections"]

    async def quiet(self) -> None:
        """Everybody leaves, the server closes its connections, and nothing may be left of any request."""
        for wire in self.open_wires:
            await wire.close()
        self.open_wires.clear()
        await self.origin.stop()
        await until(lambda: self.connections == (0, 0))
        await until(lambda: not self.waiting and not self.seated)
        assert self.program.server.inflight == 0
        assert self.program.dispatcher.fleet.book.waiting_bytes == 0
        assert not self.program.gateway.requests

    async def close(self) -> None:
        self.platform.open.set()
        try:
            await self.quiet()
        finally:
            await self.program.close()


def settings(folder: Path, **changes: Any) -> Settings:
    """Settings of a program that keeps to ``folder`` and asks nobody."""
    (folder / "models.yaml").write_text(CATALOGUE)
    own: dict[str, Any] = {
        "port": 0,
        "catalogue": folder / "models.yaml",
        "cache_dir": folder / "cache",
        "state_dir": folder / "state",
        "keys_file": folder / "keys.jsonl",
        "hub_offline": True,
        "engines": ENGINES,
        "slice_wait": 30.0,
    }
    return Settings(**own | changes)


# What is asked


def request(path: str, body: bytes = b"", *headers: bytes, method: str = "POST", host: bytes = b"localhost") -> bytes:
    """A request as JSON callers send it; ``headers`` are whole lines."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: " + host, *headers]
    if method == "POST":
        lines += [b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chat_body(model: str = "demo", stream: bool = False, text: str = "hello", **more: Any) -> bytes:
    message = {"role": "user", "content": text}
    return msgspec.json.encode({"model": model, "messages": [message], "stream": stream, **more})


def chat(model: str = "demo", *headers: bytes, stream: bool = False, text: str = "hello") -> bytes:
    """In OpenAI's dialect: passed through to the server as it is."""
    return request("/v1/chat/completions", chat_body(model, stream, text), *headers)


def seed(model: str = "demo", *headers: bytes, stream: bool = False, text: str = "hello", **env: Any) -> bytes:
    """In the seed's dialect: translated."""
    body = {"token": text, "par": {"max_new_tokens": "2"}, "env": {"MODEL_ID": model, **env}, "stream": stream}
    return request("/", msgspec.json.encode(body), *headers)


def generate(model: str = "demo", *headers: bytes, stream: bool = False, text: str = "hello") -> bytes:
    """In TGI's dialect: translated."""
    route = "generate_stream" if stream else "generate"
    body = msgspec.json.encode({"inputs": text, "parameters": {"max_new_tokens": 2}})
    return request(f"/models/{model}/{route}", body, *headers)


# What the server answers

JSON, EVENTS = b"application/json", b"text/event-stream"

CHAT = (
    b'{"id":"c-1","object":"chat.completion","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"Hello."}}]}'
)
CHAT_EVENTS = (
    b'data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"lo."},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
)
COMPLETION = b'{"content":"Hello.","stop":true,"stop_type":"limit","tokens_predicted":2,"tokens_evaluated":1}'
COMPLETION_EVENTS = (
    b'data: {"content":"Hel","stop":false}\n\n',
    b'data: {"content":"lo.","stop":false}\n\n',
    b'data: {"content":"","stop":true,"stop_type":"limit","tokens_predicted":2,"tokens_evaluated":1}\n\n',
)


def head(kind: bytes, *lines: bytes, status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join((b"HTTP/1.1 " + status, b"Content-Type: " + kind, *lines)) + b"\r\n\r\n"


def counted(body: bytes, kind: bytes = JSON, status: bytes = b"200 OK") -> bytes:
    """A reply with a Content-Length."""
    return head(kind, b"Content-Length: %d" % len(body), status=status) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(*pieces: bytes, kind: bytes = EVENTS) -> bytes:
    """A chunked reply."""
    return head(kind, b"Transfer-Encoding: chunked") + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"


def proper_reply(call: OriginCall) -> bytes:
    """What a healthy llama.cpp answers."""
    stream = b'"stream":true' in call.body
    if call.head.startswith(b"POST /completion "):
        return chunked(*COMPLETION_EVENTS) if stream else counted(COMPLETION)
    return chunked(*CHAT_EVENTS) if stream else counted(CHAT)


async def answer(call: OriginCall) -> None:
    """The script of a healthy server."""
    await call.say(proper_reply(call))


# What must hold


def shape_of(reply: Reply, path: str) -> str:
    """The code of an error reply, whose form is checked: OpenAI's below ``/v1``, else RFC 9457."""
    assert reply.whole
    assert reply.headers["x-request-id"]
    said = reply.json
    if path.startswith("/v1/"):
        assert reply.headers["content-type"] == "application/json"
        assert said.keys() == {"error"}
        assert said["error"].keys() == {"message", "type", "param", "code"}
        code, message = said["error"]["code"], said["error"]["message"]
    else:
        assert reply.headers["content-type"] == "application/problem+json"
        assert said.keys() - {"retry_after", "param"} == {"type", "title", "status", "detail", "code"}
        assert said["status"] == reply.status
        code, message = said["code"], said["detail"]
        assert ("retry-after" in reply.headers) == ("retry_after" in said)
    assert isinstance(code, str)
    assert code.replace("_", "").isalnum()
    assert len(message) > 10
    return code


def clean_stream(reply: Reply) -> bool:
    """Whether a caller would take this stream for complete: a clean end, and nothing that says otherwise."""
    return reply.status == 200 and reply.whole and b'"error"' not in reply.body


def marked_stream(reply: Reply) -> bool:
    """Whether it ends as a broken stream must: an error event at the very end, and no end of the framing."""
    last = reply.body.rstrip(b"\n").rpartition(b"\n\n")[2]
    return reply.status == 200 and not reply.whole and last.startswith(b"data:") and b'"error"' in last


Fact = Callable[[], Any]


async def settled(value: Fact) -> Any:
    """A value that does not move any more: the same in fifty looks."""
    last, same = value(), 0
    while same < 50:
        await asyncio.sleep(0.004)
        now = value()
        last, same = now, same + 1 if now == last else 0
    return last
