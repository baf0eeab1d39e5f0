"""How much a cold start on a real cluster takes, and how much of it is the dispatcher's.

    python -m bench.cluster.cold --url http://127.0.0.1:8080 --model demo [--pairs 10]

Run it inside the cluster's network, against a dispatcher that runs there, with an operator's key in SSIS_API_KEY. Each pair
is one cold request through the dispatcher, and one by a client that does by itself what the dispatcher did: POST the same
Knative Service, watch it become Ready, send the request through the gateway. Which comes first changes from pair to pair;
between two everything is deleted and gone. The difference of the medians is what the dispatcher adds.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import os
import statistics
import time
from contextlib import aclosing
from typing import Any

import httpx2

from ssis_dispatcher.kube.api import PODS, SERVICES, Kube

Object = dict[str, Any]


class Bench:
    def __init__(self, options: argparse.Namespace, kube: Kube, client: httpx2.AsyncClient) -> None:
        self.options = options
        self.kube = kube
        self.client = client
        self.template: Object = {}
        self._number = 0

    @property
    def body(self) -> Object:
        messages = [{"role": "user", "content": "What is a GPU slice?"}]
        return {"model": self.options.model, "messages": messages, "max_tokens": 1}

    async def through_us(self) -> float:
        """Seconds from the request to the first byte of its answer."""
        began = time.perf_counter()
        await self._ask(f"{self.options.url}/v1/chat/completions", {})
        seconds = time.perf_counter() - began
        if not self.template:
            (found, *_), _ = await self.kube.list(SERVICES, self.options.namespace, labels=self.options.selector)
            self.template = found
        name = self.template["metadata"]["name"]
        (await self.client.delete(f"{self.options.url}/api/servers/{name}")).raise_for_status()
        await self._gone(name)
        return seconds

    async def by_hand(self) -> float:
        self._number += 1
        name = f"byhand{self._number}"
        body = copy.deepcopy({key: self.template[key] for key in ("apiVersion", "kind", "spec")})
        body["metadata"] = {
            "name": name,
            "labels": {"networking.knative.dev/visibility": "cluster-local"},
            "annotations": {},
        }
        _, version = await self.kube.list(SERVICES, self.options.namespace, labels="nobody=this")
        began = time.perf_counter()
        await self.kube.create(SERVICES, body, self.options.namespace)
        events = self.kube.stream(
            SERVICES, self.options.namespace, version=version, fields=f"metadata.name={name}", timeout=120.0
        )
        async with aclosing(events):
            async for event in events:
                if _is_ready(event["object"]):
                    break
        host = f"{name}.{self.options.namespace}.svc.cluster.local"
        await self._ask(f"http://{self.options.gateway}/v1/chat/completions", {"host": host})
        seconds = time.perf_counter() - began
        await self.kube.delete(SERVICES, name, self.options.namespace)
        await self._gone(name)
        return seconds

    async def _ask(self, url: str, headers: dict[str, str]) -> None:
        async with self.client.stream("POST", url, json=self.body, headers=headers) as reply:
            reply.raise_for_status()
            await anext(reply.aiter_bytes())

    async def _gone(self, name: str) -> None:
        """Wait until no pod of the service is left; hurry those that only drain."""
        while True:
            pods, _ = await self.kube.list(PODS, self.options.namespace, labels=f"serving.knative.dev/service={name}")
            if not pods:
                return
            for pod in pods:
                await self.kube.delete(PODS, pod["metadata"]["name"], self.options.namespace, grace=1)
            await asyncio.sleep(0.5)


def _is_ready(service: Object) -> bool:
    status = service.get("status") or {}
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or ())
    return ready and status.get("observedGeneration") == service["metadata"]["generation"]


async def run(options: argparse.Namespace) -> None:
    kube = Kube.find()
    key = os.environ.get("SSIS_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx2.AsyncClient(timeout=180.0, trust_env=False, headers=headers) as client:
        bench = Bench(options, kube, client)
        await bench.through_us()  # not counted: it makes the template
        ours: list[float] = []
        theirs: list[float] = []
        for number in range(options.pairs):
            for turn in (0, 1):
                if (number + turn) % 2:
                    ours.append(await bench.through_us())
                else:
                    theirs.append(await bench.by_hand())
            print(f"pair {number + 1}: dispatcher {ours[-1]:.2f} s, by hand {theirs[-1]:.2f} s", flush=True)
    await kube.close()
    added = statistics.median(ours) - statistics.median(theirs)
    print(
        f"medians: dispatcher {statistics.median(ours):.2f} s, by hand {statistics.median(theirs):.2f} s, added {added:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--namespace", default="nthulab")
    parser.add_argument("--gateway", default="kourier-internal.kourier-system.svc.cluster.local")
    parser.add_argument("--selector", default="app.kubernetes.io/managed-by=ssis-dispatcher")
    parser.add_argument("--pairs", type=int, default=10)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
