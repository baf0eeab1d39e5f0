"""TGI's replies, written from any engine's: what the ssis and tgi dialects share.

A stream carries one event per token as it comes, without holding any back, and one more at the end with the whole text
and, when asked for, the details; TGI puts those on the last token's event. Token probabilities are null unless
``details`` or ``top_n_tokens`` asked for them, since most engines only work them out on demand.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.engines.replies import LARGEST_REPLY, Events, Finish, Piece, Reader, Token
from ssis_dispatcher.errors import UpstreamError
from ssis_dispatcher.gateway.dialects.base import InferenceRequest, Upstream
from ssis_dispatcher.gateway.dialects.problems import PROBLEM_JSON, engine_problem, problem_json
from ssis_dispatcher.gateway.dialects.sse import EVENT_STREAM


class Form(StrEnum):
    """How a reply that is not a stream is wrapped."""

    LIST = "list"
    """``[{"generated_text": …}]``, as from TGI's ``/``."""
    OBJECT = "object"
    """``{"generated_text": …}``, as from its ``/generate``."""


class _Token(msgspec.Struct, gc=False):
    id: int | None
    text: str
    logprob: float | None
    special: bool | msgspec.UnsetType = msgspec.UNSET


class _Details(msgspec.Struct):
    finish_reason: str
    generated_tokens: int | None
    seed: int | None
    prefill: list[_Token] | msgspec.UnsetType = msgspec.UNSET
    tokens: list[_Token] | msgspec.UnsetType = msgspec.UNSET
    top_tokens: list[list[_Token]] | msgspec.UnsetType = msgspec.UNSET
    input_length: int | msgspec.UnsetType | None = msgspec.UNSET


class _Reply(msgspec.Struct):
    generated_text: str
    details: _Details | msgspec.UnsetType = msgspec.UNSET


class _Event(msgspec.Struct):
    index: int
    token: _Token
    top_tokens: list[_Token] | msgspec.UnsetType = msgspec.UNSET
    generated_text: str | None = None
    details: _Details | None = None


_encode = msgspec.json.Encoder().encode


def upstream(request: InferenceRequest, engine: Engine, served_as: str, form: Form) -> Upstream:
    """A generation for ``engine``, whose reply comes back in ``form``. Raises `Unprocessable`."""
    generation = request.generation
    assert generation is not None  # only requests for a generation come here
    ask = engine.ask(generation, served_as)
    if ask.reader is None:
        return Upstream("POST", ask.path if form is Form.LIST else request.route, ask.body)
    writer = StreamWriter if generation.stream else WholeWriter
    return Upstream("POST", ask.path, ask.body, writer(ask.reader, generation, form))


class _Writer:
    """What both writers share: an engine's refusal becomes a problem document."""

    def __init__(self, reader: Reader, generation: Generation, form: Form) -> None:
        self._reader = reader
        self._generation = generation
        self._form = form
        self._refused = 0
        self._held = bytearray()

    def _head(self, status: int, content_type: bytes) -> tuple[int, bytes]:
        if status < 400:
            return status, content_type
        self._refused = status
        return engine_problem(status).status, PROBLEM_JSON

    def _hold(self, data: bytes) -> bytes:
        self._held += data
        if len(self._held) > LARGEST_REPLY:
            raise UpstreamError("The inference server sent a reply without end.")
        return b""

    def _text(self, text: str) -> str:
        return self._generation.prompt + text if self._generation.parameters.get("return_full_text") else text

    def _seed(self) -> int | None:
        return None if self._generation.greedy else self._generation.parameters.get("seed")


class WholeWriter(_Writer):
    """A reply that is not a stream."""

    def head(self, status: int, content_type: bytes) -> tuple[int, bytes]:
        return self._head(status, b"application/json")

    def feed(self, data: bytes) -> bytes:
        return self._hold(data)

    def end(self) -> bytes:
        if self._refused:
            return problem_json(engine_problem(self._refused, bytes(self._held)))
        piece, finish = self._reader.whole(bytes(self._held))
        reply = _Reply(self._text(piece.text))
        if self._generation.parameters.get("details"):
            reply.details = self._details(piece, finish)
        return _encode([reply] if self._form is Form.LIST else reply)

    def _details(self, piece: Piece, finish: Finish) -> _Details:
        wants = self._generation.parameters
        details = _Details(finish.reason, finish.generated, self._seed())
        details.prefill = (
            [_Token(t.id, t.text, t.logprob) for t in finish.prefill] if "decoder_input_details" in wants else []
        )
        details.tokens = [_shown(token) for token in piece.tokens]
        if "top_n_tokens" in wants:
            details.top_tokens = [[_shown(token) for token in others] for others in piece.top]
        return details


class StreamWriter(_Writer):
    """A stream of server-sent events."""

    def __init__(self, reader: Reader, generation: Generation, form: Form) -> None:
        super().__init__(reader, generation, form)
        self._events = Events()
        self._pieces: list[str] = []
        self._index = 0
        self._last: Token | None = None
        self._finished = False

    def head(self, status: int, content_type: bytes) -> tuple[int, bytes]:
        return self._head(status, EVENT_STREAM)

    def feed(self, data: bytes) -> bytes:
        if self._refused:
            return self._hold(data)
        return self._write(self._events.feed(data))

    def end(self) -> bytes:
        if self._refused:
            return problem_json(engine_problem(self._refused, bytes(self._held)))
        rest = self._write(self._events.end())
        if not self._finished:
            raise UpstreamError("The inference server ended the stream in the middle of a generation.")
        return rest

    def _write(self, events: list[bytes]) -> bytes:
        out = []
        for data in events:
            if self._finished:
                break
            piece, finish = self._reader.event(data)
            if piece is not None:
                self._pieces.append(piece.text)
                out += self._tokens(piece)
            if finish is not None:
                out.append(self._final(finish))
        return b"".join(out)

    def _tokens(self, piece: Piece) -> list[bytes]:
        """One event per token where their texts are known to add up to the piece's, else one for the piece."""
        tokens = piece.tokens
        if not tokens or "".join(token.text for token in tokens) != piece.text:
            last = tokens[-1] if tokens else Token(None, "")
            self._index += max(len(tokens) - 1, 0)
            tokens = (Token(last.id, piece.text, last.logprob, last.special),)
        wants_top = "top_n_tokens" in self._generation.parameters
        out = []
        for place, token in enumerate(tokens):
            self._index += 1
            event = _Event(self._index, _shown(token))
            if wants_top and place < len(piece.top):
                event.top_tokens = [_shown(other) for other in piece.top[place]]
            out.append(b"data:" + _encode(event) + b"\n\n")
        self._last = tokens[-1]
        return out

    def _final(self, finish: Finish) -> bytes:
        self._finished = True
        last = self._last.id if self._last else None
        event = _Event(self._index + 1, _Token(last, "", None, True), generated_text=self._text("".join(self._pieces)))
        if self._generation.parameters.get("details"):
            event.details = _Details(finish.reason, finish.generated, self._seed(), input_length=finish.prompt)
        return b"data:" + _encode(event) + b"\n\n"


def _shown(token: Token) -> _Token:
    return _Token(token.id, token.text, token.logprob, token.special)
