"""What engines say, in one form: the pieces of a generation as they come, and how it ended.

Every engine brings a `Reader` that turns its own replies into these; the dialects write them down again. `Events` cuts
a byte stream into server-sent events, whatever way the network has cut it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol, TypeVar

import msgspec

from ssis_dispatcher.errors import UpstreamError

LARGEST_EVENT = 4 * 1024 * 1024
LARGEST_REPLY = 16 * 1024 * 1024
"""Bytes of one event, and of a reply that is not a stream, beyond which the engine is taken to have gone wrong."""


class Token(msgspec.Struct, gc=False):
    """One token. ``logprob`` is None where the engine was not asked for it or does not tell."""

    id: int | None
    text: str
    logprob: float | None = None
    special: bool = False


class Piece(msgspec.Struct):
    """Some more text. ``tokens`` are its tokens as far as the engine tells them; ``top``, per token, the most likely
    ones at that place."""

    text: str
    tokens: tuple[Token, ...] = ()
    top: tuple[tuple[Token, ...], ...] = ()


class Reason(StrEnum):
    """Why a generation ended, in TGI's words."""

    LENGTH = "length"
    EOS = "eos_token"
    STOP = "stop_sequence"


class Finish(msgspec.Struct):
    """The end of a generation. ``prefill`` are the tokens of the prompt, where they were asked for. A token count is
    None where the engine does not tell."""

    reason: Reason
    generated: int | None = None
    prompt: int | None = None
    prefill: tuple[Token, ...] = ()


class Reader(Protocol):
    """Reads one reply of one engine. Both methods raise `UpstreamError` for what cannot be understood, and for an error
    that the engine reports after it has begun."""

    def whole(self, body: bytes) -> tuple[Piece, Finish]:
        """A reply that is not a stream."""

    def event(self, data: bytes) -> tuple[Piece | None, Finish | None]:
        """The data of one event of a stream. A `Finish` comes once, with or after the last piece."""


class Events:
    """Cuts a stream into the data of its server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html):
    lines end with LF or CRLF, comments and other fields are left out. One per reply."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The events that ``data`` completes. Raises `UpstreamError` for an event without end."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *blocks, self._rest = data.split(b"\n\n")
        if len(self._rest) > LARGEST_EVENT:
            raise UpstreamError("The inference server sent an event without end.")
        return [found for block in blocks if (found := _data(block)) is not None]

    def end(self) -> list[bytes]:
        """What a stream that ended without an empty line still held."""
        found = _data(self._rest.rstrip(b"\r\n"))
        self._rest = b""
        return [found] if found is not None else []


def _data(block: bytes) -> bytes | None:
    if block.startswith(b"data:") and b"\n" not in block:
        return block[5:].lstrip(b" ")
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    if not lines:
        # llama.cpp reports an error inside a stream under a field name of its own.
        lines = [b'{"error":' + line[6:].strip() + b"}" for line in block.split(b"\n") if line.startswith(b"error:")]
    return b"\n".join(lines) if lines else None


T = TypeVar("T")


def understood(decode: Callable[[bytes], T], data: bytes) -> T:
    """``data`` decoded; `UpstreamError` where the engine wrote something else than it should."""
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamError("The inference server sent a reply that cannot be understood.") from error


class _Message(msgspec.Struct):
    message: str = ""


class _Reported(msgspec.Struct):
    error: _Message | str | None = None
    message: str = ""
    detail: msgspec.Raw = msgspec.Raw()


_reported = msgspec.json.Decoder(_Reported).decode


def reported(body: bytes) -> str:
    """The sentence in an engine's error body, "" when there is none: OpenAI's and llama.cpp's ``{"error": {"message"}}``,
    TGI's ``{"error": "…"}``, FastAPI's ``{"detail"}``, or plain text."""
    try:
        found = _reported(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[:1000].decode("utf-8", "replace").strip()
        return "" if text.startswith(("<", "{", "[")) else text
    if isinstance(found.error, _Message):
        return found.error.message
    return found.error or found.message or bytes(found.detail).decode("utf-8", "replace").strip('"')
