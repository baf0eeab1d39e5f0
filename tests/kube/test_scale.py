"""Large enough for the largest cluster that is promised, 1,000 nodes and 5,000 servers, and quick enough for tests."""

from __future__ import annotations

import json
import time

import httpx2
import pytest
from tests.kube.asking import configmap
from tests.kube.fake import FakeCluster
from tests.kube.kinds import CONFIGMAPS, PODS
from tests.kube.test_world import is_ready, launch

SLICE = "nvidia.com/mig-1g.5gb"


async def test_a_thousand_nodes_and_five_thousand_pods_are_listed_in_a_second() -> None:
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
            begun = time.process_time()
            nodes = (await http.get("/api/v1/nodes")).json()["items"]
            pods = (await http.get("/api/v1/pods", params={"fieldSelector": "status.phase!=Succeeded"})).json()["items"]
            took = time.process_time() - begun
        assert (len(nodes), len(pods)) == (1000, 5000)
        assert took < 1


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


async def test_watches_of_many_events_cost_no_more_each() -> None:
    async with FakeCluster(namespaces=("models",)) as cluster, httpx2.AsyncClient(timeout=60) as http:
        url = f"{cluster.url}/api/v1/namespaces/models/configmaps"
        times: list[float] = []
        for count in (500, 5000):
            version = str(cluster.api.store.version)
            async with http.stream("GET", url, params={"watch": "1", "resourceVersion": version}) as reply:
                begun = time.perf_counter()
                for number in range(count):
                    cluster.create(CONFIGMAPS, configmap(f"a{count}-{number}"), "models")
                seen = 0
                async for line in reply.aiter_lines():
                    seen += json.loads(line)["type"] == "ADDED"
                    if seen == count:
                        break
                times.append((time.perf_counter() - begun) / count)
        assert times[1] < 4 * times[0]
