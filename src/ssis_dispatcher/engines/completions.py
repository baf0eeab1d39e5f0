"""OpenAI's completions as a way to put a generation to an engine: what vLLM and plain servers have in common.

The reader understands vLLM's additions (token ids, stop reason, prompt probabilities) where they are there, and does
without them where they are not.
"""

from __future__ import annotations

import msgspec

from ssis_dispatcher.engines.replies import Finish, Piece, Reason, Token, understood
from ssis_dispatcher.errors import UpstreamError


class _Logprobs(msgspec.Struct):
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float | None] | None] | None = None


class _PromptToken(msgspec.Struct):
    logprob: float | None = None
    decoded_token: str | None = None


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, _PromptToken] | None] | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Error(msgspec.Struct):
    message: str = ""


class _Completion(msgspec.Struct):
    """A reply of ``/v1/completions``, and each event of its stream."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | str | None = None


_completion = msgspec.json.Decoder(_Completion).decode


class CompletionsReader:
    """Reads ``/v1/completions``. The end of a stream is its ``[DONE]``, since the usage comes after the last choice."""

    def __init__(self) -> None:
        self._reason: Reason | None = None
        self._usage = _Usage()

    def whole(self, body: bytes) -> tuple[Piece, Finish]:
        reply = self._read(body)
        if not reply.choices or self._reason is None:
            raise UpstreamError("The inference server sent a completion without an end.")
        choice = reply.choices[0]
        return _piece(choice), self._finish(_prefill(choice))

    def event(self, data: bytes) -> tuple[Piece | None, Finish | None]:
        if data == b"[DONE]":
            return None, self._finish(())
        reply = self._read(data)
        if not reply.choices or not (reply.choices[0].text or reply.choices[0].logprobs):
            return None, None
        return _piece(reply.choices[0]), None

    def _read(self, data: bytes) -> _Completion:
        reply = understood(_completion, data)
        if reply.error is not None:
            message = reply.error if isinstance(reply.error, str) else reply.error.message
            raise UpstreamError(f"The inference server stopped with an error: {message}")
        if reply.usage is not None:
            self._usage = reply.usage
        if reply.choices and reply.choices[0].finish_reason is not None:
            self._reason = _reason(reply.choices[0])
        return reply

    def _finish(self, prefill: tuple[Token, ...]) -> Finish:
        if self._reason is None:
            raise UpstreamError("The inference server ended a stream in the middle of a completion.")
        return Finish(self._reason, self._usage.completion_tokens, self._usage.prompt_tokens, prefill)


def _reason(choice: _Choice) -> Reason:
    """``stop`` is a stop string only where the engine says which; a token id as the reason is an end token."""
    if choice.finish_reason == "length":
        return Reason.LENGTH
    if choice.finish_reason == "stop":
        return Reason.STOP if isinstance(choice.stop_reason, str) else Reason.EOS
    raise UpstreamError(f"The inference server gave up on a generation ({choice.finish_reason}).")


def _piece(choice: _Choice) -> Piece:
    found, ids = choice.logprobs, choice.token_ids or []
    if found is None or not found.tokens:
        return Piece(choice.text, (Token(ids[-1], choice.text),) if ids else ())
    values = found.token_logprobs + [None] * (len(found.tokens) - len(found.token_logprobs))
    known = [*ids, *[None] * (len(found.tokens) - len(ids))]
    tokens = tuple(Token(id, text, value) for id, text, value in zip(known, found.tokens, values, strict=False))
    top = tuple(
        tuple(Token(None, text, value) for text, value in (others or {}).items()) for others in found.top_logprobs or ()
    )
    return Piece(choice.text, tokens, top)


def _prefill(choice: _Choice) -> tuple[Token, ...]:
    """The prompt's tokens. At each place vLLM gives the real token and perhaps likelier ones; the prompt's ids tell which
    is which, and the first token has no probability."""
    ids = choice.prompt_token_ids or []
    found = []
    for place, others in enumerate(choice.prompt_logprobs or ()):
        id = ids[place] if place < len(ids) else None
        entry = (others or {}).get(str(id)) if id is not None else next(iter((others or {}).values()), None)
        found.append(Token(id, (entry and entry.decoded_token) or "", entry.logprob if entry else None))
    return tuple(found)
