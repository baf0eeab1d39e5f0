"""An operator's word reaches the fleet; one that cannot be understood or obeyed is answered with the reason."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ssis_dispatcher.gateway.dialects.base import Wish

if TYPE_CHECKING:
    from tests.gateway.operations.conftest import House

pytestmark = pytest.mark.looptime

# Stopping


async def test_an_idle_server_is_stopped(house: House) -> None:
    id = await house.ready()
    async with house.client() as client:
        reply = await client.delete(f"/api/servers/{id}")

    assert (reply.status_code, reply.json()) == (202, {"server": id, "state": "stopping"})
    await house.until(lambda: not house.dispatcher.fleet.book.servers)


async def test_a_busy_server_finishes_first(house: House) -> None:
    id = await house.ready()
    servers = house.dispatcher.fleet.book.servers
    async with house.client() as client:
        async with house.held():
            assert (await client.delete(f"/api/servers/{id}")).status_code == 202
            assert servers[id].state == "ready"
        await house.until(lambda: not servers)


async def test_a_server_that_does_not_exist_cannot_be_stopped(house: House) -> None:
    async with house.client() as client:
        reply = await client.delete("/api/servers/nosuch")

    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


# Warming


async def test_warming_a_model_starts_its_server_and_ends_when_it_is_ready(house: House) -> None:
    house.load_slowly()
    async with house.client() as client:
        reply = await client.post("/api/models/warm", json={"model": "demo"})
        id = reply.json()["request"]
        await house.until(lambda: bool(house.dispatcher.fleet.book.servers))
        waiting = (await client.get(f"/api/requests/{id}")).json()
        await asyncio.sleep(6)
        over = await client.get(f"/api/requests/{id}")
        (server,) = (await client.get("/api/servers")).json()["servers"]

    assert reply.status_code == 202
    assert (waiting["id"], waiting["state"], waiting["phase"]) == (id, "waiting", "starting")
    assert over.json() == {"id": id, "model": "demo", "state": "ready", "server": server["id"]}
    assert (server["model"], server["state"], server["busy"]) == ("demo", "ready", 0)
    assert not house.dispatcher.fleet.book.seated


async def test_a_warming_is_told_of_to_who_asked_for_it_and_to_operators(house: House) -> None:
    house.load_slowly()
    async with house.client("operate", name="one") as one, house.client("use", name="two") as two:
        id = (await one.post("/api/models/warm", json={"model": "demo"})).json()["request"]
        for _ in range(2):
            assert (await one.get(f"/api/requests/{id}")).status_code == 200
            assert (await two.get(f"/api/requests/{id}")).status_code == 404
            await asyncio.sleep(6)
    async with house.client("use", name="one") as again, house.client("operate", name="three") as operator:
        assert (await again.get(f"/api/requests/{id}")).json()["state"] == "ready"
        assert (await operator.get(f"/api/requests/{id}")).json()["state"] == "ready"


async def test_warming_a_warm_model_leaves_everything_as_it_is(house: House) -> None:
    server = await house.ready()
    async with house.client() as client:
        reply = await client.post("/api/models/warm", json={"model": "demo"})
        over = await client.get(f"/api/requests/{reply.json()['request']}")

    assert (reply.status_code, over.json()["state"], over.json()["server"]) == (202, "ready", server)
    assert list(house.dispatcher.fleet.book.servers) == [server]
    assert not house.dispatcher.fleet.book.seated


async def test_whoever_follows_a_warming_that_fails_is_told_why(house: House) -> None:
    house.load_in_vain("the file is damaged")
    async with house.client() as client:
        id = (await client.post("/api/models/warm", json={"model": "demo"})).json()["request"]
        await asyncio.sleep(6)
        told = await client.get(f"/api/requests/{id}")

    assert (told.status_code, told.json()["code"]) == (503, "model_failed")
    assert told.json()["detail"] == "demo failed: the file is damaged"
    assert int(told.headers["retry-after"]) >= 1


async def test_a_warming_that_is_refused_at_once_is_answered_with_the_reason(house: House) -> None:
    await house.dispatcher.drain(1.0)
    async with house.client() as client:
        reply = await client.post("/api/models/warm", json={"model": "demo"})

    assert (reply.status_code, reply.json()["code"]) == (503, "draining")


async def test_a_model_that_fits_nowhere_is_refused_with_the_arithmetic(house: House) -> None:
    async with house.client() as client:
        id = (await client.post("/api/models/warm", json={"model": "org/large"})).json()["request"]
        await house.until(lambda: not house.dispatcher.fleet.book.waiting)
        told = await client.get(f"/api/requests/{id}")

    assert told.status_code in (422, 503)
    assert "org/large" in told.json()["detail"]


async def test_only_so_many_ends_are_kept(house: House) -> None:
    house.load_slowly()
    async with house.client() as client:
        replies = [await client.post("/api/models/warm", json={"model": f"org/m{n}"}) for n in range(260)]
        ids = [reply.json()["request"] for reply in replies]
        await house.dispatcher.drain(1.0)
        statuses = [(await client.get(f"/api/requests/{id}")).status_code for id in (ids[0], ids[-1])]

    assert statuses == [404, 503]


# Pinning


async def test_a_pinned_model_is_pinned_until_it_is_let_go(house: House) -> None:
    await house.ready()
    async with house.client() as client:
        pinned = await client.post("/api/models/pin", json={"model": "demo", "pinned": True})
        (held,) = (await client.get("/api/servers")).json()["servers"]
        let_go = await client.post("/api/models/pin", json={"model": "demo", "pinned": False})
        (free,) = (await client.get("/api/servers")).json()["servers"]

    assert (pinned.status_code, pinned.json()) == (200, {"model": "demo", "pinned": True})
    assert let_go.json() == {"model": "demo", "pinned": False}
    assert (held["pinned"], free["pinned"]) == (True, False)


# Planning


async def test_a_plan_shows_the_decision_and_every_candidate(house: House) -> None:
    async with house.client("use") as client:
        plan = (await client.post("/api/plan", json={"model": "demo", "context": 512, "concurrency": 2})).json()

    assert (plan["decision"], plan["slice"], plan["node"]) == ("launch", "cpu-1gib", "node-1")
    assert plan["why"] == "The smallest slice that fits and is free."
    assert [candidate["fit"]["slice"]["name"] for candidate in plan["candidates"]] == ["cpu-1gib", "cpu-4gib"]
    assert plan["candidates"][1]["why"] == "a smaller slice will do"


async def test_planning_starts_nothing(house: House) -> None:
    async with house.client("use") as client:
        await client.post("/api/plan", json={"model": "demo"})

    assert not house.dispatcher.fleet.book.models


async def test_a_model_that_is_too_large_is_a_plan_too(house: House) -> None:
    async with house.client("use") as client:
        reply = await client.post("/api/plan", json={"model": "org/large"})

    assert (reply.status_code, reply.json()["decision"]) == (200, "refuse")


# What is understood


async def test_everything_that_names_a_model_is_taken_over(house: House) -> None:
    body = {"model": "org/name@v1", "engine": "vllm", "context": 4096, "revision": None}
    async with house.client() as client:
        await client.post("/api/models/warm", json=body, headers={"X-SSIS-HF-Token": "hf_abc"})

    assert house.wishes == [Wish("org/name", "v1", "vllm", 4096, token="hf_abc")]


async def test_a_token_makes_no_difference_for_a_public_model(house: House) -> None:
    async with house.client() as client:
        for headers in ({}, {"X-SSIS-HF-Token": "hf_abc"}):
            await client.post("/api/models/warm", json={"model": "open/model"}, headers=headers)
            await house.until(lambda: not house.dispatcher.fleet.book.waiting)

    assert len(house.dispatcher.fleet.book.servers) == 1


@pytest.mark.parametrize("path", ["/api/plan", "/api/models/warm", "/api/models/pin"])
async def test_a_model_that_the_key_may_not_use_is_refused(house: House, path: str) -> None:
    async with house.client("operate", ("org/*",)) as client:
        body = {"model": "demo"} | ({"pinned": True} if path.endswith("pin") else {})
        reply = await client.post(path, json=body)

    assert (reply.status_code, reply.json()["code"]) == (403, "model_not_allowed")


@pytest.mark.parametrize("path", ["/api/plan", "/api/models/warm", "/api/models/pin"])
async def test_a_model_that_cannot_be_served_is_said_to_be_unknown(house: House, path: str) -> None:
    async with house.client() as client:
        body = {"model": "nobody/knows"} | ({"pinned": True} if path.endswith("pin") else {})
        reply = await client.post(path, json=body)

    assert (reply.status_code, reply.json()["code"]) == (404, "model_not_found")
