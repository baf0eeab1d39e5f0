"""Bodies are read strictly, and what is wrong with one is said by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.gateway.operations.conftest import House

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (b'{"modle": "demo"}', "modle", "`modle` is not known here. Did you mean `model`?"),
        (b'{"model": "demo", "zzz": 1}', "zzz", "The fields are model, revision, engine, context, concurrency."),
        (b"{}", "model", "`model` is missing."),
        (b'{"model": 3}', "model", "`model`: Expected `str`, got `int`."),
        (b'{"model": ""}', "model", ""),
        (b'{"model": "../etc/passwd"}', "model", ""),
        (b'{"model": "demo", "context": 0}', "context", "`context`: Expected `int` >= 1."),
        (b'{"model": "demo", "context": "many"}', "context", "`context`: Expected `int | null`, got `str`."),
        (b'{"model": "demo", "concurrency": -1}', "concurrency", "`concurrency`: Expected `int` >= 1."),
        (b'{"model": "demo@a", "revision": "b"}', "revision", "another revision than `model` names"),
        (b'{"model": "demo", "revision": "--flag"}', "revision", ""),
        (b'{"model": "demo", "engine": "a b"}', "engine", ""),
        (b"[1, 2]", None, "The body must be a JSON object: Expected `object`, got `array`."),
        (b"", None, "The body is not JSON: Input data was truncated."),
        (b'{"model": "demo"} x', None, "The body is not JSON: JSON is malformed: trailing characters"),
        (b'{"model": "\xff"}', None, "The body is not JSON: 'utf-8' codec"),
        (b'{"model":' + b"[" * 100_000, "model", "`model`: Expected `str`, got `array`."),
    ],
    ids=lambda value: value[:20].decode(errors="replace") if isinstance(value, bytes) else "",
)
async def test_a_body_that_is_not_as_it_should_be(house: House, body: bytes, param: str | None, said: str) -> None:
    async with house.client() as client:
        reply = await client.post("/api/plan", content=body, headers=JSON)

    assert (reply.status_code, reply.json().get("param")) == (400, param)
    assert said in reply.json()["detail"]
    assert house.wishes == []


async def test_what_is_missing_for_a_pin_is_named(house: House) -> None:
    async with house.client() as client:
        reply = await client.post("/api/models/pin", json={"model": "demo"})

    assert (reply.status_code, reply.json()["param"]) == (400, "pinned")


async def test_a_long_name_of_an_unknown_field_is_not_echoed_whole(house: House) -> None:
    async with house.client() as client:
        reply = await client.post("/api/plan", json={"x" * 10_000: 1})

    assert reply.status_code == 400
    assert len(reply.content) < 1_000


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
async def test_only_json_is_taken(house: House, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    async with house.client() as client:
        reply = await client.post("/api/models/warm", content=b'{"model": "demo"}', headers=headers)

    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")
    assert "application/json" in reply.json()["detail"]
    assert not house.dispatcher.fleet.book.models


async def test_a_charset_beside_the_type_is_fine(house: House) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    async with house.client() as client:
        reply = await client.post("/api/plan", content=b'{"model": "demo"}', headers=headers)

    assert reply.status_code == 200
