"""Errors have one shape, say nothing that they should not, and every reply carries the safe headers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from ssis_dispatcher.gateway.limits import Key
from ssis_dispatcher.gateway.operations import operations
from ssis_dispatcher.gateway.operations.replies import LastResort
from ssis_dispatcher.http.asgi import ClientLeft

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send
    from tests.gateway.operations.conftest import House


async def test_a_problem_is_problem_json(house: House) -> None:
    async with house.client() as client:
        reply = await client.get("/api/requests/nosuch")

    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "No request nosuch is waiting or being served. It may have ended.",
        "code": "not_found",
    }


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/servers/", "/api/servers/a/b", "/openapi.json"])
async def test_a_path_that_does_not_exist_is_not_found(house: House, path: str) -> None:
    async with house.client() as client:
        reply = await client.get(path)

    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    assert path in reply.json()["detail"]


async def test_below_v1_a_path_that_does_not_exist_is_an_error_in_the_shape_of_openai(house: House) -> None:
    async with house.client() as client:
        reply = await client.get("/v1/nothing")

    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/servers", "GET, HEAD"),
        ("GET", "/api/plan", "POST"),
        ("OPTIONS", "/api/plan", "POST"),
        ("POST", "/api/servers/x", "DELETE"),
        ("DELETE", "/v1/models", "GET, HEAD"),
    ],
)
async def test_a_method_that_does_not_exist_is_answered_with_those_that_do(
    house: House, method: str, path: str, allowed: str
) -> None:
    async with house.client() as client:
        reply = await client.request(method, path)

    said = reply.json()
    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)
    assert (said.get("error") or said)["code"] == "method_not_allowed"


async def test_an_unexpected_error_is_logged_and_tells_nothing(house: House, caplog: pytest.LogCaptureFixture) -> None:
    def broken(id: str, key: Key) -> int | None:
        raise RuntimeError("the secret of the house")

    object.__setattr__(house.desk, "lookup", broken)
    with caplog.at_level(logging.ERROR, "ssis"):
        async with house.client() as client:
            reply = await client.get("/api/requests/r-1")

    assert (reply.status_code, reply.json()["code"]) == (500, "internal_error")
    assert "secret" not in reply.text
    assert reply.headers["x-content-type-options"] == "nosniff"
    (record,) = caplog.records
    assert record.getMessage() == "operation failed"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "the secret of the house"


@pytest.mark.parametrize("path", ["/healthz", "/api/servers", "/v1/models", "/nothing", "/metrics"])
async def test_every_reply_carries_the_safe_headers(house: House, path: str) -> None:
    async with house.client() as client:
        headers = (await client.get(path)).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


PREFLIGHT = {
    "origin": "https://app.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type",
}


async def test_no_page_of_another_origin_may_call_by_default(house: House) -> None:
    async with house.client() as client:
        asked = await client.options("/api/plan", headers=PREFLIGHT)
        called = await client.get("/healthz", headers={"origin": "https://app.example"})

    assert asked.status_code == 405
    assert not any(name.startswith("access-control") for name in (*asked.headers, *called.headers))


async def test_pages_of_origins_that_are_allowed_may_call(house: House) -> None:
    house.application = operations(house.desk, ("https://app.example",))
    async with house.client() as client:
        asked = await client.options("/api/plan", headers=PREFLIGHT)
        other = await client.options("/api/plan", headers=PREFLIGHT | {"origin": "https://evil.example"})
        called = await client.get("/healthz", headers={"origin": "https://app.example"})

    assert (asked.status_code, other.status_code) == (200, 400)
    assert asked.headers["access-control-allow-origin"] == "https://app.example"
    assert called.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in other.headers


async def test_a_client_that_leaves_before_its_body_has_come_is_no_error(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    stream = house.follow("/api/plan", method="POST", headers=((b"content-type", b"application/json"),))
    await stream.leave()

    assert caplog.records == []
    assert house.wishes == []


async def test_a_caller_who_leaves_in_the_middle_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def gone(message: Message) -> None:
        raise ClientLeft

    async def nothing() -> Message:
        raise AssertionError

    await LastResort(app)({"type": "http", "method": "GET", "path": "/api/servers"}, nothing, gone)
    assert caplog.records == []
