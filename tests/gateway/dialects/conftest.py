"""Helpers for the tests of the dialects."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from ssis_dispatcher.gateway.dialects.base import Dialect, Headers, InferenceRequest, Translator

Read = Callable[..., InferenceRequest]
Played = Callable[..., tuple[int, bytes, bytes]]


@pytest.fixture
def read() -> Read:
    """A request as a dialect reads it; a body that is not bytes is written as JSON first."""

    def read(
        dialect: Dialect, path: str, body: object, headers: Headers | None = None, method: str = "POST"
    ) -> InferenceRequest:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return dialect.read(method, path, b"", headers or [], data)

    return read


@pytest.fixture
def played() -> Played:
    """An engine's reply through a translator, in pieces of ``size`` bytes: status, content type, body."""

    def play(
        reply: Translator | None,
        body: bytes,
        *,
        status: int = 200,
        content_type: bytes = b"application/json",
        size: int = 37,
    ) -> tuple[int, bytes, bytes]:
        assert reply is not None
        out, kind = reply.head(status, content_type)
        written = b"".join(reply.feed(body[start : start + size]) for start in range(0, len(body), size))
        return out, kind, written + reply.end()

    return play
