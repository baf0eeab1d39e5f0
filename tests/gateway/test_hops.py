"""Whose answer it is: the server's, or that of a gateway before it."""

from __future__ import annotations

import pytest

from ssis_dispatcher.gateway.hops import of_a_hop


@pytest.mark.parametrize(
    ("status", "content_type", "body", "says"),
    [
        (404, b"", b"", "does not know this server"),
        (503, b"text/plain", b"upstream connect error or disconnect/reset before headers", "upstream connect error"),
        (503, b"text/plain", b"no healthy upstream", "no healthy upstream"),
        (502, b"", b"", "it answered 502"),
        (504, b"text/plain; charset=utf-8", b"request timeout\n", "request timeout"),
        (504, b"", b"", "its time is over"),
    ],
)
def test_a_gateways_own_words_are_not_the_servers(status: int, content_type: bytes, body: bytes, says: str) -> None:
    error = of_a_hop(status, content_type, body)
    assert error is not None
    assert says in error.problem.message
    assert error.problem.status == (504 if status == 504 else 502)


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (200, b"application/json", b"{}"),
        (404, b"application/json", b'{"error": "no such route"}'),
        (404, b"text/plain", b"not found"),
        (503, b"application/json", b'{"error": "model is loading"}'),
        (422, b"text/plain", b"bad parameters"),
        (500, b"text/plain", b"oops"),
    ],
)
def test_what_a_server_says_is_its_own(status: int, content_type: bytes, body: bytes) -> None:
    assert of_a_hop(status, content_type, body) is None
