"""What passes between the reading desk and the rest: an `InferenceRequest` in, an `Upstream` out.

The gateway calls, in this order: `Dialect.read` (before anything is decided), `Dialect.adapt` (when the model's engine is
known, before a seat is taken, so that nothing is started for a request that the engine cannot do), and, while the reply
runs, `Translator` where there is one. Every refusal is a `DispatchError` that names the field.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.errors import Problem

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, as the listener gives them."""


class Wish(msgspec.Struct, frozen=True):
    """The model a request names, before it is resolved: everything but ``id`` may be left open.

    ``env`` are the caller's variables that are left to the engine to map or refuse. ``token`` is the caller's hub token;
    it never leaves memory, and `repr` does not show it. ``embeds``: it is to make embeddings.
    """

    id: str
    revision: str = ""
    engine: str = ""
    context: int | None = None
    env: tuple[tuple[str, str], ...] = ()
    token: str | None = None
    embeds: bool = False

    def __repr__(self) -> str:
        token = ", token=…" if self.token else ""
        return f"Wish({self.id!r}, {self.revision!r}, {self.engine!r}, {self.context!r}, {[k for k, _ in self.env]!r}{token})"


class InferenceRequest(msgspec.Struct):
    """One request, read once.

    ``route`` is the engine route it is meant for (``/v1/chat/completions``, ``/generate``), ``method`` and ``query`` as
    sent. ``body`` is what goes to the engine where dialect and engine agree. ``generation`` is the same in neutral terms,
    for engines that need it translated; None where the bytes can only be passed through. ``labels`` are the caller's own
    words about the request; nothing is decided by them.
    """

    dialect: str
    route: str
    wish: Wish
    stream: bool
    body: bytes
    method: str = "POST"
    query: bytes = b""
    generation: Generation | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        # Without body and query, which belong in no log.
        return f"InferenceRequest({self.dialect} {self.method} {self.route} for {self.wish!r})"


class Translator(Protocol):
    """Turns an engine's reply into the dialect's, for one request. Only used where the two differ."""

    def head(self, status: int, content_type: bytes) -> tuple[int, bytes]:
        """Status and content type for the caller."""

    def feed(self, data: bytes) -> bytes:
        """Upstream body bytes in, caller's bytes out (may be empty). Raises `UpstreamError` when the engine reports an
        error in the middle of its reply, or writes what cannot be understood."""

    def end(self) -> bytes:
        """The rest. Raises `UpstreamError` when the engine's reply was not complete."""


class Upstream(msgspec.Struct):
    """What to send to the engine, and how to read its answer (``reply`` None: bytes pass through untouched). ``path`` is
    the request target: percent-encoded, with the query."""

    method: str
    path: str
    body: bytes
    reply: Translator | None = None


class Dialect(Protocol):
    """One wire format."""

    name: str
    routes: tuple[tuple[str, str], ...]
    """The routes it serves, as (method, path). The method ``*`` is any; a path that ends in ``/*`` is everything below."""

    def read(self, method: str, path: str, query: bytes, headers: Headers, body: bytes) -> InferenceRequest:
        """What the request asks for. ``headers`` are those that begin with ``x-ssis-``. Raises `InvalidRequest` and other
        `CallerError`s."""

    def adapt(self, request: InferenceRequest, engine: Engine, served_as: str) -> Upstream:
        """The request for this engine, whose OpenAI routes know the model as ``served_as``. Raises `Unprocessable` with
        the name and the reason for what the engine cannot do, `NotFound` for routes that it does not have."""

    def error(self, problem: Problem) -> tuple[bytes, bytes]:
        """Body and content type of an error reply."""

    def error_event(self, problem: Problem) -> bytes:
        """The same inside a stream that has already begun, as SSE bytes."""

    def complete(
        self, tail: bytes, stream: bool, content_type: bytes = b"application/json", whole: bool = True
    ) -> bool:
        """Whether a reply whose last bytes (4 KiB will do) are ``tail`` came to its proper end. ``content_type`` is that of
        the reply: one that is neither JSON nor a stream cannot be judged, and counts as complete. ``whole``: this is all of
        a reply of which nobody has said how long it is, so all of it is looked at."""
