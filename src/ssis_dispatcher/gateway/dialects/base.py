"""What passes between the reading desk and the rest: an `InferenceRequest` in, an `Upstream` out.

INTERFACE (fixed in spirit: the gateway calls exactly these; extend where a dialect needs more).
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from ssis_dispatcher.errors import Problem


class Wish(msgspec.Struct, frozen=True):
    """The model a request names, before it is resolved: everything but ``id`` may be left open.

    ``env`` are the caller's variables as sent (ssis dialect), for the engine to map or refuse. ``token`` is the caller's
    hub token; it never leaves memory.
    """

    id: str
    revision: str = ""
    engine: str = ""
    context: int | None = None
    env: tuple[tuple[str, str], ...] = ()
    token: str | None = None


class InferenceRequest(msgspec.Struct):
    """One request, read once. ``fields`` is the decoded body where the dialect had to decode it, else None."""

    dialect: str
    route: str
    wish: Wish
    stream: bool
    body: bytes
    fields: dict[str, object] | None = None


class Translator(Protocol):
    """Turns an engine's reply into the dialect's, for one request. Only used where the two differ."""

    def head(self, status: int, content_type: bytes) -> tuple[int, bytes]:
        """Status and content type for the caller."""

    def feed(self, data: bytes) -> bytes:
        """Upstream body bytes in, caller's bytes out (may be empty)."""

    def end(self) -> bytes:
        """The rest. Raises `UpstreamError` when the engine's reply was not complete."""


class Upstream(msgspec.Struct):
    """What to send to the engine, and how to read its answer (``reply`` None: bytes pass through untouched)."""

    method: str
    path: str
    body: bytes
    reply: Translator | None = None


class Dialect(Protocol):
    """One wire format."""

    name: str

    def error(self, problem: Problem) -> tuple[bytes, bytes]:
        """Body and content type of an error reply."""

    def error_event(self, problem: Problem) -> bytes:
        """The same inside a stream that has already begun, as SSE bytes."""

    def complete(self, tail: bytes, stream: bool) -> bool:
        """Whether a reply whose last bytes (up to 4 KiB) are ``tail`` came to its proper end."""
