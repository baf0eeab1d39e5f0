"""Large enough for the largest cluster that is promised: 1,000 nodes and 5,000 servers."""

from __future__ import annotations

import json

import httpx2
import pytest
from tests.kube.asking import configmap
from tests.kube.fake import FakeCluster
from tests.kube.kinds import CONFIGMAPS, PODS
from tests.kube.store import Entry
from tests.kube.test_world import is_ready, launch
from tests.kube.watches import line

SLICE = "nvidia.com/mig-1g.5gb"


async def test_a_thousand_nodes_and_five_thousand_pods_are_listed() -> None:
    async with FakeCluster(namespaces=("models",)) as cluster:
        cluster.behave("*", pull=1000.0)
        for number in range(1000):
            cluster.nodes.add(f"node-{number}", {SLICE: 5})
        container = {"name": "c", "image": "example.com/x:1", "resources": {"limits": {SLICE: "1"}}}
        for number in range(5000):
            spec = {"nodeName": f"node-{number % 1000}", "containers": [container]}
            cluster.create(PODS, {"metadata": {"name": f"p{number}"}, "spec": spec}, "models")
        async with httpx2.AsyncClient(base_url=cluster.url, timeout=60) as http:
            await cluster.until(lambda: len(cluster.kubelet.runs) == 5000)
            nodes = (await http.get("/api/v1/nodes")).json()["items"]
            pods = (await http.get("/api/v1/pods", params={"fieldSelector": "status.phase!=Succeeded"})).json()["items"]
        assert (len(nodes), len(pods)) == (1000, 5000)


@pytest.mark.looptime
async def test_servers_by_the_hundred() -> None:
    async with FakeCluster(namespaces=("models",)) as cluster:
        for number in range(100):
            cluster.nodes.add(f"node-{number}", {SLICE: 5})
        names = [f"m{number}" for number in range(500)]
        for name in names:
            launch(cluster, name)
        await cluster.until(lambda: all(is_ready(cluster, name) for name in names))
        places = [pod["spec"]["nodeName"] for pod in cluster.all(PODS, "models")]
        assert {places.count(place) for place in places} == {5}


async def test_a_watch_of_many_events_writes_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def counted(kind: str, entry: Entry) -> bytes:
        written.append(kind)
        return line(kind, entry)

    monkeypatch.setattr("tests.kube.watches.line", counted)
    async with FakeCluster(namespaces=("models",)) as cluster, httpx2.AsyncClient(timeout=60) as http:
        url = f"{cluster.url}/api/v1/namespaces/models/configmaps"
        version = str(cluster.api.store.version)
        async with http.stream("GET", url, params={"watch": "1", "resourceVersion": version}) as reply:
            for number in range(5000):
                cluster.create(CONFIGMAPS, configmap(f"a{number}"), "models")
            seen = 0
            async for told in reply.aiter_lines():
                seen += json.loads(told)["type"] == "ADDED"
                if seen == 5000:
                    break
    assert written.count("ADDED") == len(written) == 5000
