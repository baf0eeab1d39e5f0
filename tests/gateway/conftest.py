"""The whole program in front of an inference server that a test steers: real sockets on loopback on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ssis_dispatcher.assembly.program import Program
from ssis_dispatcher.core.slices import Pool, cpu_slice
from ssis_dispatcher.gateway.keys import KeyFile
from ssis_dispatcher.launchers.fake import FakeLauncher, Outcome
from ssis_dispatcher.models.catalogue import demo_path
from ssis_dispatcher.settings import Settings
from ssis_dispatcher.settings.commands import EngineCommand

CHAT = {"model": "mine", "messages": [{"role": "user", "content": "Hello"}]}
ANSWER = {"id": "c-1", "object": "chat.completion", "choices": [{"message": {"role": "assistant", "content": "Hi"}}]}
EVENTS = (b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n', b"data: [DONE]\n\n")

Respond = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Upstream:
    """An inference server of OpenAI's routes. ``manner`` is what it does with a request: ``answer`` it, answer with
    ``bad`` status 500, begin to ``stream`` and wait for ``go_on``, send ``half`` an answer and hang up, or ``hang``."""

    def __init__(self) -> None:
        self.manner = "answer"
        self.bodies: list[dict[str, Any]] = []
        self.go_on = asyncio.Event()
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                self.bodies.append(json.loads(await reader.readexactly(length)))
                self.asked.set()
                if not await self._reply(reader, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection lives on."""
        stream = bool(self.bodies[-1].get("stream"))
        if self.manner == "hang" or (stream and self.manner == "stream"):
            if self.manner == "stream":
                writer.write(
                    _head(200, b"text/event-stream") + b"transfer-encoding: chunked\r\n\r\n" + _chunk(EVENTS[0])
                )
            return await self._until_told(reader, writer)
        if stream:
            events = EVENTS[:1] if self.manner == "half" else EVENTS
            writer.write(_head(200, b"text/event-stream") + b"transfer-encoding: chunked\r\n\r\n")
            writer.write(b"".join(map(_chunk, events)) + (b"" if self.manner == "half" else b"0\r\n\r\n"))
            return self.manner != "half"
        body = json.dumps(ANSWER).encode()
        status = 500 if self.manner == "bad" else 200
        writer.write(_head(status, b"application/json") + b"content-length: %d\r\n\r\n" % len(body))
        writer.write(body[:20] if self.manner == "half" else body)
        return self.manner != "half"

    async def _until_told(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Go on when the test says so; notice when the dispatcher hangs up before."""
        told = asyncio.get_running_loop().create_task(self.go_on.wait())
        gone = asyncio.get_running_loop().create_task(reader.read(1))
        try:
            done, _ = await asyncio.wait([told, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            gone.cancel()
        if gone in done:
            self.left.set()
            return False
        writer.write(_chunk(EVENTS[1]) + b"0\r\n\r\n")
        await writer.drain()
        return False

    def hang_up(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()


def _head(status: int, content_type: bytes) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-type: %b\r\n" % (status, content_type)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class House:
    """The running program and what is around it. ``outcome`` is what becomes of the launches to come; ``client`` calls it
    as a program of this machine would."""

    def __init__(self, program: Program, upstream: Upstream, url: str, keys: dict[str, str], outcomes: list[Outcome]):
        self.program = program
        self.upstream = upstream
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.keys = keys
        self.lines: list[dict[str, Any]] = []
        self._outcomes = outcomes
        self.client = httpx2.AsyncClient(base_url=url, trust_env=False, timeout=20.0)

    def launches_take(self, outcome: Outcome) -> None:
        self._outcomes[:] = [outcome]

    def as_key(self, name: str) -> dict[str, str]:
        """The header of the key called ``name``."""
        return {"authorization": f"Bearer {self.keys[name]}"}

    async def chat(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
        return await self.client.post("/v1/chat/completions", json={**CHAT, **fields}, headers=headers)

    def begin_chat(self, **fields: Any) -> asyncio.Task[httpx2.Response]:
        return asyncio.get_running_loop().create_task(self.chat(**fields))

    async def until(self, fact: Callable[[], object]) -> None:
        """Wait for a fact."""
        async with asyncio.timeout(10.0):
            while not fact():  # noqa: ASYNC110 - facts of a program that is not to know of tests
                await asyncio.sleep(0.002)

    @property
    def in_flight(self) -> int:
        """Requests that any key still counts, the keyless ones among them."""
        callers: Any = self.program.door._callers
        keys = [*getattr(callers, "_by_digest", {}).values(), *getattr(callers, "_keys", {}).values()]
        return sum(key.in_flight for key in keys)

    async def at_rest(self) -> None:
        """Wait until nothing is held, seated or counted: every ending must lead here."""
        book = self.program.dispatcher.fleet.book
        await self.until(lambda: not book.seated and not book.waiting and not self.program.gateway.requests)
        assert self.in_flight == 0
        assert book.waiting_bytes == 0
        assert not self.program.gateway._held
        assert not any(server.busy for server in book.servers.values())

    @property
    def counted(self) -> dict[tuple[str, str, str], int]:
        """Finished requests by dialect, status class and outcome."""
        return self.program.metrics.requests

    def access(self) -> list[dict[str, Any]]:
        """The access log so far."""
        if self.program.access is not None:
            self.program.access.flush()
        return self.lines


Build = Callable[..., contextlib.AbstractAsyncContextManager[House]]


@contextlib.asynccontextmanager
async def _house(
    tmp_path: Path, *, keys: dict[str, dict[str, Any]] | None = None, **given: Any
) -> AsyncIterator[House]:
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(
        "models:\n" + "".join(f"  {name}: {{path: {demo_path()}, engine: vllm}}\n" for name in ("mine", "other"))
    )
    keyfile = KeyFile(tmp_path / "keys.jsonl")
    secrets = {name: keyfile.create(name, **limits) for name, limits in (keys or {}).items()}
    settings = Settings(
        **{
            "host": "0.0.0.0" if keys else "127.0.0.1",
            "port": 0,
            "keys_file": tmp_path / "keys.jsonl",
            "catalogue": catalogue,
            "engines": (EngineCommand("vllm", "vllm", kinds=("cpu",)),),
            "state_dir": tmp_path,
            "cache_dir": tmp_path / "cache",
            "hub_offline": True,
            **given,
        }
    )
    upstream, outcomes = Upstream(), [Outcome()]
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    launcher = FakeLauncher([Pool("here", cpu_slice(4096), 4)], lambda order: outcomes[0], address=f"127.0.0.1:{port}")
    program = Program(settings, launcher)
    house = House(
        program, upstream, f"http://127.0.0.1:{await program.server.listen(settings.host, 0)}", secrets, outcomes
    )
    if program.access is not None:
        program.access._write = lambda text: house.lines.extend(map(json.loads, text.splitlines()))
    program.start()
    try:
        await house.until(lambda: program.dispatcher.fleet.book.stock.known)
        yield house
    finally:
        await house.client.aclose()
        await program.close()
        upstream.hang_up()
        await house.until(lambda: not upstream._writers)
        server.close()
        await server.wait_closed()


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Build a house with these settings; with ``keys`` (limits by name) it is reachable by others, and asks for them."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return lambda **given: _house(tmp_path, **given)


@pytest.fixture
async def house(build: Build) -> AsyncIterator[House]:
    """One that listens on loopback and needs no keys."""
    async with build() as house:
        yield house
