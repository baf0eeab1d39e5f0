"""What goes wrong on order goes wrong as ordered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from tests.kube.asking import Json, configmap
from tests.kube.fake import FakeCluster
from tests.kube.faults import Fault
from tests.kube.kinds import CONFIGMAPS

PATH = "/api/v1/namespaces/models/configmaps"


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(namespaces=("models",)) as cluster:
        yield cluster


@pytest.fixture
async def http(cluster: FakeCluster) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=cluster.url, timeout=0.2) as http:
        yield http


def there(cluster: FakeCluster) -> list[str]:
    return [item["metadata"]["name"] for item in cluster.all(CONFIGMAPS, "models")]


class Watching:
    """A watch that a test reads line by line."""

    def __init__(self, cluster: FakeCluster, **query: str) -> None:
        self.events: list[Json] = []
        self.ended = ""
        self._url = cluster.url + PATH
        self._query = {"watch": "1"} | query
        self.gone: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Watching:
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self.gone = self._group.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.gone is not None
        self.gone.cancel()
        await self._group.__aexit__(None, None, None)

    async def _read(self) -> None:
        async with httpx2.AsyncClient(timeout=None) as http:
            try:
                async with http.stream("GET", self._url, params=self._query) as reply:
                    async for line in reply.aiter_lines():
                        self.events.append(json.loads(line))
                self.ended = "properly"
            except httpx2.TransportError:
                self.ended = "broken off"

    async def until(self, count: int) -> list[Json]:
        async with asyncio.timeout(5):
            while len(self.events) < count:  # noqa: ASYNC110 - sockets set no event
                await asyncio.sleep(0.002)
        return self.events

    async def end(self) -> str:
        assert self.gone is not None
        async with asyncio.timeout(5):
            await asyncio.wait([self.gone])
        return self.ended


def told(events: list[Json]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]


@pytest.mark.parametrize(
    ("kind", "code", "reason", "wait"),
    [
        (Fault.UNAVAILABLE, 503, "ServiceUnavailable", None),
        (Fault.LIMITED, 429, "TooManyRequests", "1"),
        (Fault.ERROR, 500, "InternalError", None),
        (Fault.CONFLICT, 409, "Conflict", None),
        (Fault.FORBIDDEN, 403, "Forbidden", None),
        (Fault.UNAUTHORIZED, 401, "Unauthorized", None),
        (Fault.TIMEOUT, 504, "Timeout", None),
    ],
)
async def test_refused_before(
    cluster: FakeCluster, http: httpx2.AsyncClient, kind: Fault, code: int, reason: str, wait: str | None
) -> None:
    cluster.faults.add(kind, verb="create", resource="configmaps", count=1)
    reply = await http.post(PATH, json=configmap("a"))
    assert (reply.status_code, reply.json()["reason"], reply.headers.get("retry-after")) == (code, reason, wait)
    assert there(cluster) == []
    assert (await http.post(PATH, json=configmap("a"))).status_code == 201


async def test_how_long_to_wait_can_be_said(cluster: FakeCluster, http: httpx2.AsyncClient) -> None:
    with cluster.faults.add("unavailable", retry_after=7) as rule:
        assert (await http.get(PATH)).headers["retry-after"] == "7"
    assert (await http.get(PATH)).status_code == 200
    assert rule.hits == 1


@pytest.mark.parametrize("kind", [Fault.DONE_LOST, Fault.DONE_RESET, Fault.DONE_TIMEOUT, Fault.LOST, Fault.RESET])
async def test_the_reply_is_lost(cluster: FakeCluster, http: httpx2.AsyncClient, kind: Fault) -> None:
    cluster.faults.add(kind, verb="create|delete", count=1)
    if kind is Fault.DONE_TIMEOUT:
        assert (await http.post(PATH, json=configmap("a"))).status_code == 504
    else:
        with pytest.raises(httpx2.TransportError):
            await http.post(PATH, json=configmap("a"))
    assert there(cluster) == (["a"] if kind.startswith("done") else [])


async def test_slow(cluster: FakeCluster, http: httpx2.AsyncClient) -> None:
    cluster.faults.add("slow", delay=0.3, count=1)
    with pytest.raises(httpx2.ReadTimeout):
        await http.post(PATH, json=configmap("a"))
    async with asyncio.timeout(2):
        while not there(cluster):  # noqa: ASYNC110 - it is carried out although nobody waits
            await asyncio.sleep(0.01)


async def test_some_of_them(cluster: FakeCluster, http: httpx2.AsyncClient) -> None:
    cluster.faults.add("error", verb="get", rate=0.3)
    codes = [(await http.get(f"{PATH}/a")).status_code for _ in range(200)]
    assert 40 < codes.count(500) < 80
    assert codes.count(404) == 200 - codes.count(500)


async def test_what_was_asked_is_written_down(cluster: FakeCluster, http: httpx2.AsyncClient) -> None:
    await http.get(f"{PATH}/a")
    await http.delete(PATH, params={"labelSelector": "a"})
    await http.get("/api/v1/namespaces/models/pods/p/log", params={"container": "c"})
    await http.get("/apis/serving.knative.dev/v1/services", params={"limit": "5"})
    await http.patch("/apis/coordination.k8s.io/v1/namespaces/models/leases/l", json={})
    await http.get("/api/v1/namespaces/models")
    await http.get("/version")
    assert [(*call.rule, call.namespace, call.name) for call in cluster.log if call.verb] == [
        ("", "configmaps", "get", "models", "a"),
        ("", "configmaps", "deletecollection", "models", ""),
        ("", "pods/log", "get", "models", "p"),
        ("serving.knative.dev", "services", "list", "", ""),
        ("coordination.k8s.io", "leases", "patch", "models", "l"),
        ("", "namespaces", "get", "", "models"),
    ]


async def test_tokens_are_checked(cluster: FakeCluster, http: httpx2.AsyncClient) -> None:
    cluster.front.token = "right"
    assert (await http.get(PATH)).status_code == 401
    assert (await http.get(PATH, headers={"authorization": "Bearer right"})).status_code == 200


async def test_an_outage(cluster: FakeCluster, http: httpx2.AsyncClient) -> None:
    version = (await http.get(PATH)).json()["metadata"]["resourceVersion"]
    async with Watching(cluster, resourceVersion=version) as watching:
        await http.post(PATH, json=configmap("a"))
        await watching.until(1)
        async with cluster.outage():
            assert await watching.end() == "broken off"
            with pytest.raises(httpx2.ConnectError):
                await http.get(PATH)
            cluster.create(CONFIGMAPS, configmap("b"), "models")
        assert [item["metadata"]["name"] for item in (await http.get(PATH)).json()["items"]] == ["a", "b"]
        async with Watching(cluster, resourceVersion=version) as again:
            assert told(await again.until(2)) == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_deaf_watch_stays_open(cluster: FakeCluster, http: httpx2.AsyncClient) -> None:
    version = (await http.get(PATH)).json()["metadata"]["resourceVersion"]
    async with Watching(cluster, resourceVersion=version, timeoutSeconds="1") as watching:
        await http.post(PATH, json=configmap("a"))
        await watching.until(1)
        cluster.faults.watches.deaf = True
        await http.post(PATH, json=configmap("b"))
        await asyncio.sleep(0.05)
        assert told(watching.events) == [("ADDED", "a")]
        assert watching.gone is not None
        assert not watching.gone.done()


async def test_watches_are_cut(cluster: FakeCluster) -> None:
    cluster.faults.watches.cut_every = 0.05
    async with Watching(cluster) as watching:
        assert await watching.end() == "broken off"
    cluster.faults.watches.cut_every = None
    async with Watching(cluster) as watching:
        cluster.create(CONFIGMAPS, configmap("a"), "models")
        await watching.until(1)
        cluster.cut_watches()
        assert await watching.end() == "broken off"
    assert not cluster.front.watches


async def test_events_are_garbled(cluster: FakeCluster, http: httpx2.AsyncClient) -> None:
    watches = cluster.faults.watches
    watches.duplicate = watches.stale = watches.reorder = 0.5
    version = (await http.get(PATH)).json()["metadata"]["resourceVersion"]
    async with Watching(cluster, resourceVersion=version) as watching:
        for number in range(50):
            body = configmap(f"a{number % 5}", data={"x": str(number)})
            if number < 5:
                cluster.create(CONFIGMAPS, body, "models")
            else:
                cluster.api.replace(CONFIGMAPS, f"a{number % 5}", body, "models")
        await watching.until(70)
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in watching.events]
    assert len(set(versions)) == 50, "nothing is left out"
    assert len(versions) > 70
    assert versions != sorted(versions)


@pytest.mark.parametrize("at_once", [False, True])
async def test_forgotten_versions_are_gone(cluster: FakeCluster, http: httpx2.AsyncClient, at_once: bool) -> None:
    cluster.front.gone_at_once = at_once
    for name in ("a", "b"):
        cluster.create(CONFIGMAPS, configmap(name), "models")
    page = (await http.get(PATH, params={"limit": "1"})).json()["metadata"]
    cluster.compact()
    reply = await http.get(PATH, params={"watch": "1", "resourceVersion": "2"})
    body = reply.json() if at_once else reply.json()["object"]
    assert reply.status_code == (410 if at_once else 200)
    assert (body["code"], body["reason"]) == (410, "Expired")
    assert body["message"].startswith("too old resource version: 2 (")
    reply = await http.get(PATH, params={"limit": "1", "continue": page["continue"]})
    assert (reply.status_code, reply.json()["reason"]) == (410, "Expired")
    query = {"resourceVersion": page["resourceVersion"], "timeoutSeconds": "1"}
    async with Watching(cluster, **query) as watching:
        cluster.create(CONFIGMAPS, configmap("c"), "models")
        assert told(await watching.until(1)) == [("ADDED", "c")]


async def test_history_is_bounded() -> None:
    async with FakeCluster(namespaces=("models",), history=10) as cluster:
        for number in range(40):
            cluster.create(CONFIGMAPS, configmap(f"a{number}"), "models")
        async with httpx2.AsyncClient(base_url=cluster.url) as http:
            reply = await http.get(PATH, params={"watch": "1", "resourceVersion": "2"})
            assert reply.json()["object"]["code"] == 410


async def test_old_servers_refuse_to_begin_a_watch_with_a_list(cluster: FakeCluster, http: httpx2.AsyncClient) -> None:
    cluster.front.watch_lists = False
    query = {"watch": "1", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    reply = await http.get(PATH, params=query)
    assert (reply.status_code, reply.json()["reason"]) == (422, "Invalid")


async def test_a_cluster_without_knative() -> None:
    async with FakeCluster(knative=None) as cluster, httpx2.AsyncClient(base_url=cluster.url) as http:
        reply = await http.get("/apis/serving.knative.dev/v1/services")
        assert (reply.status_code, reply.text) == (404, "404 page not found\n")
