"""What the routes show is what the fleet says, in the shapes of the operations API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ssis_dispatcher.core.messages import Failure, FailureKind
from ssis_dispatcher.launchers.fake import Outcome

if TYPE_CHECKING:
    from tests.gateway.operations.conftest import House

pytestmark = pytest.mark.looptime


async def test_servers_are_listed_with_all_that_is_known_of_them(house: House) -> None:
    id = await house.ready()
    async with house.client() as client:
        reply = await client.get("/api/servers")

    (server,) = reply.json()["servers"]
    assert reply.status_code == 200
    assert server.pop("idle_seconds") == 0
    assert server.pop("age_seconds") == 0
    assert server.pop("key").startswith("demo#")
    assert server == {
        "id": id,
        "model": "demo",
        "revision": "main",
        "engine": "llamacpp",
        "state": "ready",
        "phase": "ready",
        "detail": "",
        "slice": "cpu-1gib",
        "count": 1,
        "node": "node-1",
        "seats": 64,
        "busy": 0,
        "waiting": 0,
        "context": 1024,
        "address": "127.0.0.1:9",
        "pinned": False,
        "extra": False,
    }


async def test_slices_say_who_holds_them(house: House) -> None:
    await house.ready()
    async with house.client() as client:
        slices = (await client.get("/api/slices")).json()["slices"]

    small = next(slice for slice in slices if slice["name"] == "cpu-1gib")
    assert small == {
        "node": "node-1",
        "name": "cpu-1gib",
        "kind": "cpu",
        "memory_mib": 1024,
        "compute": 1.0,
        "source": "setting",
        "total": 1,
        "taken": 0,
        "ours": 1,
        "free": 0,
    }


async def test_the_queue_shows_who_waits_for_what(house: House) -> None:
    house.load_slowly()
    async with house.held(id="r-7"), house.client() as client:
        await house.until(house.loading)
        queue = (await client.get("/api/queue")).json()

    (line,) = queue["lines"]
    (waiting,) = line.pop("requests")
    assert (queue["waiting"], queue["bytes"]) == (1, 0)
    assert (line["model"], line["phase"], line["waiting"]) == ("demo", "starting", 1)
    assert line["why"].endswith("is starting: loading.")
    assert line["expected_seconds"] == 2.0
    assert (waiting["id"], waiting["caller"], waiting["position"]) == ("r-7", "somebody", 1)


async def test_an_empty_queue_is_empty(house: House) -> None:
    async with house.client() as client:
        assert (await client.get("/api/queue")).json() == {"waiting": 0, "bytes": 0, "lines": []}


async def test_a_waiting_request_can_be_followed_until_it_has_ended(house: House) -> None:
    house.load_slowly()
    async with house.client("use") as client:
        async with house.held(id="r-7"):
            await house.until(house.loading)
            waiting = (await client.get("/api/requests/r-7")).json()
            await asyncio.sleep(6)
            seated = (await client.get("/api/requests/r-7")).json()
        ended = await client.get("/api/requests/r-7")

    (server,) = house.dispatcher.fleet.book.servers
    assert waiting.pop("expected_seconds") == 2.0
    assert waiting.pop("why")
    assert waiting == {
        "id": "r-7",
        "model": "demo",
        "state": "waiting",
        "phase": "starting",
        "position": 1,
        "server": server,
        "detail": "loading",
    }
    assert (seated["state"], seated["server"], seated["position"]) == ("seated", server, None)
    assert (ended.status_code, ended.json()["code"]) == (404, "not_found")


async def test_the_last_lines_of_a_server_can_be_read(house: House) -> None:
    id = await house.ready()
    async with house.client() as client:
        assert (await client.get(f"/api/servers/{id}/logs")).json() == {"server": id, "lines": ["loading", "ready"]}


async def test_a_server_that_is_gone_keeps_its_lines(house: House) -> None:
    id = await house.ready()
    house.platform.crash(id, Failure(FailureKind.CRASHED, "out of luck"))
    assert not house.dispatcher.fleet.book.servers
    async with house.client() as client:
        lines = (await client.get(f"/api/servers/{id}/logs")).json()["lines"]

    assert lines == ["loading", "ready", "out of luck"]


async def test_a_server_that_has_printed_nothing_has_no_lines_and_one_that_never_was_is_not_found(house: House) -> None:
    house.outcome = Outcome(5.0)
    async with house.held(), house.client() as client:
        await house.until(lambda: bool(house.dispatcher.fleet.book.servers))
        (id,) = house.dispatcher.fleet.book.servers
        assert (await client.get(f"/api/servers/{id}/logs")).json()["lines"] == []
        assert (await client.get("/api/servers/nosuch/logs")).status_code == 404


async def test_models_are_those_of_the_directory_and_those_that_run(house: House) -> None:
    await house.ready("org/extra")
    async with house.client("use") as client:
        listed = (await client.get("/v1/models")).json()

    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["demo", "org/extra", "org/large"]
    cold, running, _ = listed["data"]
    assert cold == {
        "id": "demo",
        "created": house.desk.began,
        "owned_by": "ssis",
        "ssis": {"state": "cold", "servers": 0, "seats": 0, "busy": 0, "waiting": 0, "pinned": False},
        "object": "model",
    }
    assert running["owned_by"] == "org"
    assert running["ssis"] == {"state": "ready", "servers": 1, "seats": 64, "busy": 0, "waiting": 0, "pinned": False}


async def test_several_servers_of_a_model_count_as_one(house: House) -> None:
    house.load_slowly()
    async with house.client() as client, house.held("demo", "r-1", "a"), house.held("demo", "r-2", "b"):
        await house.until(lambda: len(house.dispatcher.fleet.book.servers) == 2)
        (demo, _) = (await client.get("/v1/models")).json()["data"]

    assert demo["ssis"] == {"state": "starting", "servers": 2, "seats": 0, "busy": 0, "waiting": 2, "pinned": False}


async def test_one_model_is_found_by_its_whole_name(house: House) -> None:
    async with house.client("use") as client:
        found = await client.get("/v1/models/org/large")

    assert (found.status_code, found.json()["id"], found.json()["object"]) == (200, "org/large", "model")


async def test_a_model_that_is_not_listed_is_an_error_in_the_shape_of_openai(house: House) -> None:
    async with house.client("use") as client:
        missing = await client.get("/v1/models/org/unheard-of")

    error = missing.json()["error"]
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/json"
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "model_not_found", "model")
    assert "/api/plan" in error["message"]


async def test_a_key_sees_only_its_own_models(house: House) -> None:
    async with house.client("use", ("org/*",)) as client:
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["org/large"]
        assert (await client.get("/v1/models/demo")).status_code == 404


async def test_a_model_that_runs_for_somebody_with_a_token_of_his_own_is_not_listed(house: House) -> None:
    async with house.client() as client:
        body = {"model": "org/secret"}
        assert (
            await client.post("/api/models/warm", json=body, headers={"x-ssis-hf-token": "hf_x"})
        ).status_code == 202
        await house.until(lambda: bool(house.dispatcher.fleet.book.servers))
        names = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]

    assert names == ["demo", "org/large"]
