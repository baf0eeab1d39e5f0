"""The gateway of the fake, and what Knative's version and flags let through."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from tests.kube.fake import FakeCluster
from tests.kube.kinds import SERVICES
from tests.kube.status import Refusal
from tests.kube.store import Json
from tests.kube.test_world import SLICE, is_ready, launch

HOST = {"host": "one.models.svc.cluster.local"}


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(namespaces=("models",)) as cluster:
        cluster.nodes.add("a", {SLICE: 1})
        cluster.behave("*", pull=0.01, ready_after=0.02)
        yield cluster


@pytest.fixture
async def http(cluster: FakeCluster) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=cluster.gateway_url) as http:
        yield http


async def test_hosts_nobody_has(http: httpx2.AsyncClient) -> None:
    for host in ("one.models.svc.cluster.local", "models", "one.models.example.com"):
        reply = await http.get("/", headers={"host": host})
        assert (reply.status_code, reply.content, reply.headers["server"]) == (404, b"", "envoy")


async def test_a_ready_server_answers_and_says_who_it_is(cluster: FakeCluster, http: httpx2.AsyncClient) -> None:
    launch(cluster, "one")
    await cluster.until(lambda: is_ready(cluster, "one"))
    pod = cluster.pods("one")[0]["metadata"]["name"]
    assert (await http.get("/health", headers=HOST)).json() == {"status": "ok", "pod": pod}
    reply = await http.post("/v1/chat/completions", json={"messages": []}, headers=HOST)
    assert reply.json()["choices"][0]["message"]["content"] == "one two three"
    assert (reply.json()["model"], reply.headers["x-pod"], reply.headers["x-node"]) == ("one", pod, "a")
    async with http.stream("POST", "/v1/completions", json={"stream": True}, headers=HOST) as stream:
        lines = [line async for line in stream.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) == 5
    assert [asked.pod for asked in cluster.gateway.asked] == [pod] * 3


async def test_a_server_whose_pod_is_not_there(cluster: FakeCluster, http: httpx2.AsyncClient) -> None:
    launch(cluster, "one")
    await cluster.until(lambda: is_ready(cluster, "one"))
    cluster.crash(cluster.pods("one")[0]["metadata"]["name"])
    assert (await http.get("/", headers=HOST)).status_code == 503
    cluster.delete(SERVICES, "one", "models")
    await cluster.until(lambda: not cluster.knative or not cluster.knative.services)
    assert (await http.get("/", headers=HOST)).status_code == 404


def ksvc(name: str, **spec: object) -> Json:
    container = {"image": "example.com/x:1", "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": True}]}
    volumes = [{"name": "v", "emptyDir": {}}]
    template = {"spec": {"containers": [container], "volumes": volumes} | spec}
    return {"metadata": {"name": name}, "spec": {"template": template}}


@pytest.mark.parametrize(
    ("version", "features", "field", "outcome"),
    [
        ("1.15", {}, "hostIPC", "dropped"),
        ("1.15", {"kubernetes.podspec-hostipc": "enabled"}, "hostIPC", "dropped"),
        ("1.16", {}, "hostIPC", "refused"),
        ("1.16", {"kubernetes.podspec-hostipc": "Enabled"}, "hostIPC", "kept"),
        ("1.15", {}, "nodeSelector", "refused"),
        ("1.15", {"kubernetes.podspec-nodeselector": "allowed"}, "nodeSelector", "kept"),
        ("1.15", {"kubernetes.podspec-nodeselector": "yes"}, "nodeSelector", "refused"),
    ],
)
async def test_flags(version: str, features: dict[str, str], field: str, outcome: str) -> None:
    async with FakeCluster(namespaces=("models",), knative=version, features=features) as cluster:
        body = ksvc("one", **{field: True if field == "hostIPC" else {"a": "b"}})
        if outcome == "refused":
            with pytest.raises(Refusal, match=rf"must not set the field\(s\): spec.template.spec.{field}$"):
                cluster.create(SERVICES, body, "models")
            return
        made = cluster.create(SERVICES, body, "models")
        assert (field in made["spec"]["template"]["spec"]) == (outcome == "kept")


async def test_flags_can_be_set_while_it_runs(cluster: FakeCluster) -> None:
    body = ksvc("one", tolerations=[{"key": "k", "operator": "Exists"}])
    with pytest.raises(Refusal):
        cluster.create(SERVICES, body, "models")
    cluster.feature("kubernetes.podspec-tolerations")
    body = ksvc("one", tolerations=[{"key": "k", "operator": "Exists"}])
    assert cluster.create(SERVICES, body, "models")["spec"]["template"]["spec"]["tolerations"]


@pytest.mark.parametrize(
    ("version", "message"), [("1.16", "expected exactly one, got neither"), ("1.17", r"volumes\[0\].hostPath$")]
)
async def test_host_paths(version: str, message: str) -> None:
    async with FakeCluster(namespaces=("models",), knative=version) as cluster:
        volumes = [{"name": "v", "hostPath": {"path": "/x"}}]
        with pytest.raises(Refusal, match=message):
            cluster.create(SERVICES, ksvc("one", volumes=volumes), "models")
