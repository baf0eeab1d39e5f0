"""What is asked of the candidates, and the load generator that asks it."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from bench.edge import workshop
from bench.edge.processes import OTHER_CORE, Process, on_core


@dataclass(frozen=True)
class Shot:
    """One kind of request: where to, and what."""

    name: str
    path: str
    body: dict[str, Any]

    def head(self, key: str) -> str:
        """Request line and headers; the load generator adds the length."""
        lines = [
            f"POST {self.path} HTTP/1.1",
            "Host: bench.test",
            "Content-Type: application/json",
            "User-Agent: bench",
        ]
        return "\r\n".join([*lines, f"Authorization: Bearer {key}"])

    def text(self) -> str:
        return json.dumps(self.body, separators=(",", ":"))

    def files(self, key: str) -> tuple[Path, Path]:
        """Head and body as the load generator wants them."""
        head = workshop.written(f"requests/{self.name}.head", self.head(key))
        return head, workshop.written(f"requests/{self.name}.json", self.text())

    def raw(self, key: str) -> bytes:
        """The whole request as it goes over the wire."""
        return f"{self.head(key)}\r\nContent-Length: {len(self.text())}\r\n\r\n{self.text()}".encode()


PROMPT = "What is a good way to explain to somebody how a graphics processor is shared among models? " * 3


def chat(name: str, model: str, **more: Any) -> Shot:
    """An OpenAI chat request, as most clients send it."""
    messages = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": PROMPT}]
    return Shot(name, "/v1/chat/completions", {"model": model, "messages": messages, **more})


UNARY = chat("unary", "bench")
SLOW = chat("slow", "bench-slow")
PACED = chat("paced", "bench-20ps", stream=True, max_tokens=200)
EAGER = chat("eager", "bench", stream=True, max_tokens=256)
ENDLESS = chat("endless", "bench", stream=True, max_tokens=2_000_000)
SSIS_TO_LLAMACPP = Shot(
    "ssis", "/", {"token": PROMPT, "par": {"max_new_tokens": "200"}, "env": {"MODEL_ID": "bench-llamacpp"}}
)
TGI_TO_VLLM = Shot("tgi", "/models/bench/generate", {"inputs": PROMPT, "parameters": {"max_new_tokens": 200}})
OPENAI_TO_TGI = chat("openai", "bench-tgi")


class Spread(msgspec.Struct, frozen=True):
    """Microseconds."""

    n: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float


class Report(msgspec.Struct, frozen=True):
    """What one run of the load generator saw; `load.c` says what the fields mean."""

    answers: int
    all_answers: int
    errors: int
    chunks: int
    all_chunks: int
    coalesced: int
    last_ns: int
    seconds: float
    latency: Spread
    forward: Spread
    gap: Spread


class Load:
    """One run against ``port``, begun at once; `report` waits for its end. ``count`` is what ``mode`` says it is."""

    def __init__(
        self, mode: str, port: int, count: int, seconds: float, shot: Shot, key: str, status: int = 200
    ) -> None:
        numbers = [str(port), str(count), str(seconds)]
        files = map(str, shot.files(key))
        command = [str(workshop.tool("load")), mode, *numbers, *files, str(status)]
        with on_core(OTHER_CORE):
            self._child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.complaint = ""

    def report(self) -> Report:
        """Raises `RuntimeError` when it did not finish."""
        output, said = self._child.communicate()
        self.complaint = said.decode(errors="replace")
        if self._child.returncode:
            raise RuntimeError(f"the load generator ended with {self._child.returncode}: {self.complaint}")
        return msgspec.json.decode(output, type=Report)

    def stop(self) -> None:
        self._child.kill()
        self._child.communicate()


def until_answered(port: int, key: str) -> None:
    """Raises `RuntimeError` when ``port`` gives no good answer within a minute."""
    until = time.monotonic() + 60.0
    while time.monotonic() < until:
        load = Load("hold", port, 1, 0.5, UNARY, key)
        if load.report().answers:
            return
        time.sleep(0.1)
    raise RuntimeError(f"gives no good answer: {load.complaint.strip()[:200]}")


def upstream(port: int = 0) -> tuple[Process, int]:
    """The fake inference server, running, and its port."""
    log = workshop.WORK / "upstream.log"
    process = Process([workshop.tool("upstream"), "-p", str(port or (port := workshop.free_port()))], OTHER_CORE, log)
    process.wait_until_listening(port)
    return process, port
