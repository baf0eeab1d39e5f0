"""S1. Without a key nothing opens: every route there is, by every method, answers 401, but for the two of health checks.
The cases are made from the tables of routes, so a new route is among them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import House, chat_body, request, settings, shape_of

from ssis_dispatcher.assembly.program import callers
from ssis_dispatcher.errors import DispatchError
from ssis_dispatcher.gateway.dialects.openai import OpenAI
from ssis_dispatcher.gateway.dialects.ssis import SSIS
from ssis_dispatcher.gateway.dialects.tgi import TGI
from ssis_dispatcher.gateway.operations import needs

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PUBLIC = {(method, path) for method in ("GET", "HEAD") for path in ("/healthz", "/readyz")}

OPERATIONS = {(row.method, re.sub(r"{[^}]*}", "some", row.path)) for row in needs()}
INFERENCE = {
    (each, path.replace("*", "demo/generate" if path.startswith("/models") else "chat/completions"))
    for dialect in (SSIS(), OpenAI(), TGI())
    for method, path in dialect.routes
    for each in (METHODS if method == "*" else (method,))
}
ROUTES = OPERATIONS | INFERENCE
KEYS = {"somebody": {"role": "admin"}}


async def status_of(house: House, method: str, path: str, *headers: bytes) -> int:
    wire = await house.wire()
    await wire.send(request(path, chat_body(), *headers, method=method))
    reply = await wire.reply(head=method == "HEAD")
    if reply.status == 401 and method != "HEAD":
        assert shape_of(reply, path) in ("missing_api_key", "invalid_api_key")
    await wire.close()
    return reply.status


@pytest.mark.parametrize(
    "headers",
    [(), (b"Authorization: Bearer ssis-guessed",), (b"X-Api-Key: ",), (b"Authorization: Basic c29tZWJvZHk6eA==",)],
    ids=["none", "a guess", "empty", "another scheme"],
)
async def test_every_route_of_the_tables_asks_for_a_key(open_house: OpenHouse, headers: tuple[bytes, ...]) -> None:
    house = await open_house(keys=KEYS)

    answers = {route: await status_of(house, *route, *headers) for route in sorted(ROUTES)}

    assert {route for route, status in answers.items() if status != 401} == PUBLIC
    assert {answers[route] for route in PUBLIC} == {200}
    assert not house.platform.orders
    assert not house.origin.calls


async def test_methods_that_no_table_names_do_nothing_either(open_house: OpenHouse) -> None:
    house = await open_house(keys=KEYS)
    others = {(method, path) for method in METHODS for _, path in ROUTES} - ROUTES

    answers = {route: await status_of(house, *route) for route in sorted(others)}

    assert set(answers.values()) <= {401, 404, 405}
    assert not house.platform.orders


async def test_the_same_routes_open_with_the_key(open_house: OpenHouse) -> None:
    """Or the tests above would pass with a door that is nailed up."""
    house = await open_house(keys=KEYS)
    bearer = b"Authorization: Bearer " + house.secrets["somebody"].encode()

    streams = {route for route in ROUTES if route[1] == "/api/events"}
    answers = {route: await status_of(house, *route, bearer) for route in sorted(ROUTES - streams)}

    assert 401 not in answers.values()
    assert 403 not in answers.values()
    assert answers["POST", "/v1/chat/completions"] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "some.name"])
def test_beyond_loopback_it_does_not_start_without_a_key(tmp_path: Path, host: str) -> None:
    with pytest.raises(DispatchError, match="Keys are needed"):
        callers(settings(tmp_path, host=host))
    assert settings(tmp_path).host == "127.0.0.1"
