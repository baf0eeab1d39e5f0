"""C5. JSON that is deep, wide or odd is refused with a 400 that says why; it starts nothing and breaks nothing."""

from __future__ import annotations

import pytest
from tests.http.support import until
from tests.scorecard.support import CHAT, House, chat, request, shape_of

START = {
    "/v1/chat/completions": b'{"model":"demo","messages":[{"role":"user","content":"a"}],',
    "/": b'{"env":{"MODEL_ID":"demo"},"token":"a",',
    "/models/demo/generate": b'{"inputs":"a",',
}
ODD = {
    "deep lists": b'"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "deep and never closed": b'"x":' + b"[" * 100_000,
    "a million digits": b'"x":' + b"1" * 1_000_000 + b"}",
    "NaN": b'"x":NaN}',
    "Infinity": b'"x":-Infinity}',
    "half a surrogate": b'"x":"\\ud800"}',
    "NUL": b'"x":"a\\u0000b"}',
    "a raw NUL": b'"x":"a\0b"}',
    "not UTF-8": b'"x":"\xff"}',
    "a comma too many": b'"x":1,}',
    "bytes behind": b'"x":1}{}',
    "nothing": b"",
}
TWICE = {
    "/v1/chat/completions": b'"model":"solo"}',
    "/": b'"env":{"MODEL_ID":"solo"}}',
}


@pytest.mark.parametrize("path", START)
@pytest.mark.parametrize("kind", ODD)
async def test_odd_json_is_refused(house: House, path: str, kind: str) -> None:
    """In a field that only the server knows, or (the seed's dialect, which has none) in the parameters."""
    odd = ODD[kind].replace(b'"x"', b'"par"') if path == "/" else ODD[kind]
    reply = await house.ask(request(path, START[path] + odd))

    assert reply.status == 400
    assert shape_of(reply, path) in (("invalid_json", "invalid_request") if path == "/" else ("invalid_json",))
    await until(lambda: not house.program.server.inflight)
    assert not house.platform.orders
    assert (await house.ask(chat())).body == CHAT


@pytest.mark.parametrize("path", TWICE)
async def test_a_model_that_is_named_twice_is_refused(house: House, path: str) -> None:
    reply = await house.ask(request(path, START[path] + TWICE[path]))

    assert (reply.status, shape_of(reply, path)) == (400, "invalid_request")
    assert not house.platform.orders


@pytest.mark.parametrize("path", START)
async def test_a_mebibyte_of_empty_objects_is_no_request(house: House, path: str) -> None:
    reply = await house.ask(request(path, b"[" + b"{}," * 350_000 + b"{}]"))

    assert (reply.status, shape_of(reply, path)) == (400, "invalid_json")
    assert not house.platform.orders
