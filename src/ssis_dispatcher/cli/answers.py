"""What a stream of completion events amounts to. Pure."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ssis_dispatcher.cli.client import problem_in
from ssis_dispatcher.cli.failures import Failure
from ssis_dispatcher.cli.sse import Event


class Piece(NamedTuple):
    """What one event adds: to the answer, and to the thoughts that some models put before it."""

    text: str = ""
    thought: str = ""


class Answer:
    """The answer so far. It is complete when ``done``; anything else is a broken one."""

    def __init__(self) -> None:
        self.text = ""
        self.done = False
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.pieces = 0

    @property
    def tokens(self) -> int:
        """Generated tokens: as the server counted them, else the number of pieces, which is nearly the same."""
        counted = self.usage.get("completion_tokens")
        return counted if isinstance(counted, int) else self.pieces

    def take(self, event: Event) -> Piece:
        """Add an event of `/v1/chat/completions` or `/v1/completions`. Raises `Failure` for one that says an error."""
        if event.data == "[DONE]":
            self.done = True
            return Piece()
        try:
            chunk = json.loads(event.data)
        except ValueError:
            raise Failure("the answer holds something that is not JSON; is that a dispatcher?") from None
        if not isinstance(chunk, dict):
            return Piece()
        if event.name == "error" or "error" in chunk:
            raise Failure(problem_in(event.data)[0] or "the model failed while it was answering")
        self.usage = chunk.get("usage") or self.usage
        choices = chunk.get("choices") or [{}]
        return self._choice(choices[0])

    def _choice(self, choice: dict[str, Any]) -> Piece:
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        delta = choice.get("delta") or {}
        text = delta.get("content") or choice.get("text") or ""
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        self.text += text
        self.pieces += bool(text or thought)
        return Piece(text, thought)
