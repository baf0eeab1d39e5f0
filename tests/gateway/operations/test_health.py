"""Alive, ready, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssis_dispatcher.core.messages import InventoryChanged
from ssis_dispatcher.errors import Problem

if TYPE_CHECKING:
    from tests.gateway.operations.conftest import House


async def test_the_process_is_alive_for_anybody_who_asks(house: House) -> None:
    async with house.client(role=None) as client:
        reply = await client.get("/healthz")

    assert (reply.status_code, reply.json()) == (200, {"status": "ok", "program": "ssis-dispatcher"})


async def test_it_is_ready_once_the_inventory_is_known(house: House) -> None:
    async with house.client(role=None) as client:
        reply = await client.get("/readyz")

    assert (reply.status_code, reply.json()) == (200, {"status": "ready"})


async def test_it_is_not_ready_before_the_first_inventory(house: House) -> None:
    house.dispatcher.fleet.book.stock.known = False
    async with house.client(role=None) as client:
        before = await client.get("/readyz")
        house.dispatcher.post(InventoryChanged("launcher", ()))
        after = await client.get("/readyz")

    assert (before.status_code, before.json()["code"]) == (503, "no_inventory")
    assert before.headers["retry-after"] == "1"
    assert after.status_code == 200


async def test_draining_makes_it_unready_and_leaves_it_alive(house: House) -> None:
    await house.dispatcher.drain(1.0)
    async with house.client(role=None) as client:
        ready, alive = await client.get("/readyz"), await client.get("/healthz")

    assert (ready.status_code, ready.json()["code"]) == (503, "draining")
    assert ready.headers["content-type"] == "application/problem+json"
    assert alive.status_code == 200


async def test_it_is_not_ready_when_whoever_built_it_says_so(house: House) -> None:
    house.unready = Problem(503, "leaving", "Going away in 5 s.")
    async with house.client(role=None) as client:
        reply = await client.get("/readyz")

    assert (reply.status_code, reply.json()["code"], reply.json()["detail"]) == (503, "leaving", "Going away in 5 s.")
    assert "retry-after" not in reply.headers


async def test_metrics_are_the_exposition_as_it_is(house: House) -> None:
    async with house.client("use") as client:
        reply = await client.get("/metrics")

    assert reply.content == b"ssis_build_info 1\n"
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
