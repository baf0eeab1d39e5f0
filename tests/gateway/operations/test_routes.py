"""The table of routes: everything states its need, and the need is enforced."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from ssis_dispatcher.gateway.needs import Need
from ssis_dispatcher.gateway.operations import ROUTES, need_of, needs
from ssis_dispatcher.gateway.operations.looking import servers
from ssis_dispatcher.gateway.operations.table import Route

if TYPE_CHECKING:
    from tests.gateway.operations.conftest import House

OPEN_TO_ALL = {"/healthz", "/readyz"}

EVERY_ROUTE = [pytest.param(row, id=f"{row.method} {row.path}") for row in needs()]
GUARDED = [pytest.param(row, id=f"{row.method} {row.path}") for row in needs() if row.need is not Need.PUBLIC]
OPERATORS = [pytest.param(row, id=f"{row.method} {row.path}") for row in needs() if row.need is Need.OPERATE]


def example(template: str) -> str:
    """A path that the template means."""
    return re.sub(r"{[^}]*}", "some", template)


def test_only_health_is_public() -> None:
    assert {row.path for row in needs() if row.need is Need.PUBLIC} == OPEN_TO_ALL


@pytest.mark.parametrize("row", EVERY_ROUTE)
def test_the_need_of_every_route_is_found(row: Any) -> None:
    assert need_of(row.method, example(row.path)) is row.need


@pytest.mark.parametrize("row", GUARDED)
async def test_nothing_opens_without_a_key(house: House, row: Any) -> None:
    async with house.client(role=None) as client:
        reply = await client.request(row.method, example(row.path), json={"model": "demo"})

    assert reply.status_code == 401


@pytest.mark.parametrize("row", OPERATORS)
async def test_what_is_an_operators_does_not_open_for_a_user(house: House, row: Any) -> None:
    async with house.client("use") as client:
        reply = await client.request(row.method, example(row.path), json={"model": "demo"})

    assert reply.status_code == 403


def test_a_route_cannot_be_made_without_a_need() -> None:
    with pytest.raises(TypeError):
        Route("GET", "/x", servers, says="nothing")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="say who may use it: public, use, operate, admin"):
        Route("GET", "/x", servers, need=None, says="nothing")  # type: ignore[arg-type]


async def test_what_steers_or_shows_others_takes_an_operator(house: House) -> None:
    for path in ("/api/servers", "/api/slices", "/api/queue", "/api/events"):
        assert need_of("GET", path) is Need.OPERATE
    assert need_of("DELETE", "/api/servers/x") is Need.OPERATE
    assert need_of("POST", "/api/models/warm") is Need.OPERATE


async def test_the_index_names_every_route(house: House) -> None:
    async with house.client("use") as client:
        listed = (await client.get("/")).json()["routes"]
        page = await client.get("/", headers={"accept": "text/html,*/*"})

    assert {f"{route.method} {route.path}" for route in ROUTES} < set(listed)
    assert page.headers["content-type"].startswith("text/plain")
    assert all(name in page.text for name in listed)


async def test_head_is_answered_wherever_get_is(house: House) -> None:
    async with house.client() as client:
        for row in needs():
            if row.method == "HEAD" and "{" not in row.path:
                assert (await client.head(row.path)).status_code == 200, row.path
