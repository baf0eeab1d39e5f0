"""Large enough for the largest clusters that are promised: 1,000 nodes and 5,000 servers."""

from __future__ import annotations

import json
import time

import httpx2
import pytest
from tests.kube.conftest import configmap
from tests.kube.fake import FakeCluster
from tests.kube.kinds import CONFIGMAPS, PODS, SERVICES
from tests.kube.test_world import is_ready, launch, until

SLICE = "nvidia.com/mig-1g.5gb"


@pytest.mark.looptime
@pytest.mark.timeout(120)
async def test_a_thousand_nodes_and_five_thousand_servers() -> None:
    async with FakeCluster(namespaces=("models",), history=200_000) as cluster:
        cluster.behave("*", ready_after=20.0)
        for number in range(1000):
            cluster.nodes.add(f"node-{number:04}", {SLICE: 5})
        begun = time.perf_counter()
        for number in range(5000):
            launch(cluster, f"m{number}")
        await until(lambda: is_ready(cluster, "m0") and is_ready(cluster, "m4999"), within=600)
        print(f"5,000 servers started in {time.perf_counter() - begun:.1f} s")
        assert all(is_ready(cluster, f"m{number}") for number in range(5000))
        per_node: dict[str, int] = {}
        for pod in cluster.all(PODS, "models"):
            per_node[pod["spec"]["nodeName"]] = per_node.get(pod["spec"]["nodeName"], 0) + 1
        assert set(per_node.values()) == {5}
        async with httpx2.AsyncClient(base_url=cluster.url, timeout=60) as http:
            for path, count in (("/api/v1/pods", 5000), ("/api/v1/nodes", 1000)):
                begun = time.perf_counter()
                reply = await http.get(path)
                took = time.perf_counter() - begun
                print(f"{path}: {took:.2f} s, {len(reply.content) >> 20} MiB")
                assert reply.content.count(b'"uid"') >= count
        assert len(cluster.all(SERVICES, "models")) == 5000


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
        print(f"{times[0] * 1e6:.0f} and {times[1] * 1e6:.0f} µs per event")
        assert times[1] < 3 * times[0]
