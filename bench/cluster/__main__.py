"""What a dispatcher on a large cluster costs: memory, processor time, and the time until it knows everything after a restart.

    python -m bench.cluster [--nodes 1000] [--servers 5000]

The cluster is the fake API server of the tests, in this process; the dispatcher is ``ssis serve`` in another. Rows are for
growing clusters, so that what should not grow can be seen not to.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench.cluster.dispatcher import NAMESPACE, Dispatcher
from tests.kube.fake import FakeCluster
from tests.kube.kinds import PODS, SERVICES

from ssis_dispatcher.core.messages import Launch, Model
from ssis_dispatcher.core.servers import server_name
from ssis_dispatcher.core.sizing import ModelFacts, Profile
from ssis_dispatcher.core.slices import Pool, parse_resource
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.launchers.knative import manifests, specs
from ssis_dispatcher.launchers.knative.features import Features
from ssis_dispatcher.launchers.knative.options import KnativeOptions, PodSource

SLICE = "nvidia.com/mig-1g.5gb"
EDITS = 300
"""Pods that are changed one after the other, to see what one event costs."""


def order(number: int, node: str) -> Launch:
    slice = parse_resource(SLICE)
    assert slice is not None
    model = Model.of(f"org/model-{number}", engine="tgi")
    profile = Profile(ModelFacts("safetensors", 1 << 30, 32768, 8192), context=1024)
    return Launch("bench", server_name(model, 0), model, profile, Pool(node, slice, 7), 1, 8, 1024, 120.0)


async def filled(cluster: FakeCluster, nodes: int, servers: int) -> None:
    """``servers`` that run, on ``nodes`` with seven slices each."""
    cluster.behave("*", pull=0.0, ready_after=0.0)
    for number in range(nodes):
        cluster.nodes.add(f"node-{number}", {SLICE: 7})
    for number in range(servers):
        made = order(number, f"node-{number % nodes}")
        spec = specs.spec_of(made, ENGINES["tgi"], PodSource(made.model.id), KnativeOptions(), Features(), "")
        cluster.create(SERVICES, manifests.service(spec), NAMESPACE)
        if number % 50 == 0:
            await asyncio.sleep(0)
    while sum(_is_ready(pod) for pod in cluster.all(PODS, NAMESPACE)) < servers:  # noqa: ASYNC110
        await asyncio.sleep(0.5)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


async def measure(nodes: int, servers: int) -> list[str]:
    async with FakeCluster(namespaces=(NAMESPACE,)) as cluster:
        await filled(cluster, nodes, servers)
        with tempfile.TemporaryDirectory() as folder:
            dispatcher = await Dispatcher.start(cluster, Path(folder), "--log-level", "warning")
            try:
                await dispatcher.until(lambda found: len(found["slices"]) == nodes, "/api/slices")
                await dispatcher.until(lambda found: len(found["servers"]) == servers, "/api/servers")
                seconds, cpu, rss = time.monotonic() - dispatcher.started, dispatcher.cpu, dispatcher.rss_mib
                event = await _event_cost(cluster, dispatcher)
            finally:
                await dispatcher.end()
    return [f"{nodes:,}", f"{servers:,}", f"{seconds:.1f}", f"{cpu:.1f}", f"{rss:.0f}", f"{event * 1e6:.0f}"]


async def _event_cost(cluster: FakeCluster, dispatcher: Dispatcher) -> float:
    """Seconds of processor time for one change of one pod, where nothing is to be done about it."""
    pods = [pod["metadata"]["name"] for pod in cluster.all(PODS, NAMESPACE)[:EDITS]]
    await asyncio.sleep(2.0)
    began = dispatcher.cpu
    idle = time.perf_counter()
    for number, name in enumerate(pods):
        cluster.edit(PODS, name, NAMESPACE, partial(_renumber, str(number)))
        await asyncio.sleep(0.01)
    await asyncio.sleep(1.0)
    spent, took = dispatcher.cpu - began, time.perf_counter() - idle
    began = dispatcher.cpu
    await asyncio.sleep(took)
    return max(0.0, spent - (dispatcher.cpu - began)) / len(pods)


def _renumber(number: str, pod: dict[str, Any]) -> None:
    pod["metadata"].setdefault("labels", {})["number"] = number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--servers", type=int, default=5000)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("| nodes | servers | restart until all is known, s | processor time, s | RSS, MiB | one pod event, µs |")
    print("|---:|---:|---:|---:|---:|---:|")
    for share in (0.02, 0.2, 1.0):
        row = asyncio.run(measure(max(1, round(options.nodes * share)), max(1, round(options.servers * share))))
        print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
