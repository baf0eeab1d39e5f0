"""Kourier in miniature, and the inference servers behind it: one listener that finds the pod by the ``Host`` header."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from tests.kube.clock import Clock
from tests.kube.knative import Knative
from tests.kube.store import Json
from tests.kube.wire import Exchange

SUFFIX = ".svc.cluster.local"
WORDS = ("one ", "two ", "three")


@dataclass(frozen=True)
class Asked:
    """A request that reached a pod, or was answered by the gateway."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    pod: str
    """Empty when no pod got it."""


Reply = Callable[[Asked, Json, Exchange], bool]
"""Answers in place of the pod; returns whether it did."""


class Gateway:
    """Answers on behalf of every pod that is ready: anything but a POST is a health check, POSTs are generation."""

    def __init__(self, knative: Knative | None, clock: Clock) -> None:
        self._knative = knative
        self._clock = clock
        self.asked: list[Asked] = []
        self.pace = 0.0
        """Seconds between two words of a stream, or until a whole answer."""
        self.reply: Reply = lambda asked, pod, exchange: False

    def handle(self, exchange: Exchange) -> None:
        host = exchange.headers.get("host", "").partition(":")[0]
        found, pod = self._find(host)
        name = pod["metadata"]["name"] if pod else ""
        asked = Asked(host, exchange.method, exchange.target, exchange.headers, exchange.body, name)
        self.asked.append(asked)
        if not found:
            exchange.answer(404, b"", "", {"server": "envoy"})
        elif pod is None:
            exchange.answer(503, b"no healthy upstream", "text/plain", {"server": "envoy"})
        elif not self.reply(asked, pod, exchange):
            self._serve(asked, pod, exchange)

    def _find(self, host: str) -> tuple[bool, Json | None]:
        name, _, namespace = host.removesuffix(SUFFIX).partition(".")
        if self._knative is None or not host.endswith(SUFFIX):
            return False, None
        try:
            return True, self._knative.backend(name, namespace)
        except KeyError:
            return False, None

    def _serve(self, asked: Asked, pod: Json, exchange: Exchange) -> None:
        headers = {"server": "envoy", "x-pod": asked.pod, "x-node": pod["spec"].get("nodeName", "")}
        if asked.method != "POST":
            exchange.answer(200, _encoded({"status": "ok", "pod": asked.pod}), "application/json", headers)
            return
        try:
            body: Any = msgspec.json.decode(asked.body)
        except msgspec.DecodeError:
            exchange.answer(400, _encoded({"error": {"message": "this is no JSON"}}), "application/json", headers)
            return
        if body.get("stream"):
            exchange.start(200, "text/event-stream", headers)
            self._stream(asked, exchange, list(WORDS))
        else:
            text = "".join(WORDS)
            usage = {"prompt_tokens": 1, "completion_tokens": len(WORDS), "total_tokens": 1 + len(WORDS)}
            whole = _encoded(_answer(asked, text, "message", "stop") | {"usage": usage})
            self._clock.later(self.pace, exchange.answer, 200, whole, "application/json", headers)

    def _stream(self, asked: Asked, exchange: Exchange, words: list[str]) -> None:
        if exchange.over:
            return
        if not words:
            exchange.send(_event(_answer(asked, "", "delta", "stop")) + b"data: [DONE]\n\n")
            exchange.end()
            return
        exchange.send(_event(_answer(asked, words[0], "delta", None)))
        self._clock.later(self.pace, self._stream, asked, exchange, words[1:])


def _answer(asked: Asked, text: str, part: str, finish: str | None) -> Json:
    """One answer, or one piece of it, that reads as a chat's and as a completion's, and says who gave it."""
    choice = {"index": 0, "text": text, part: {"role": "assistant", "content": text}, "finish_reason": finish}
    kind = "chat.completion" if part == "message" else "chat.completion.chunk"
    return {"id": "x", "object": kind, "created": 1, "model": asked.host.partition(".")[0], "choices": [choice]}


def _event(item: Json) -> bytes:
    return b"data: " + _encoded(item) + b"\n\n"


def _encoded(item: Json) -> bytes:
    return msgspec.json.encode(item)
