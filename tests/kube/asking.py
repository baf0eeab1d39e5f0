"""Asking an API server, the fake or a real one, what the contract is about."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any

import httpx2
from tests.kube.fake import FakeCluster

Json = dict[str, Any]

MERGE = {"content-type": "application/merge-patch+json"}


@dataclass
class Server:
    """An API server, and a namespace of the test's own on it."""

    http: httpx2.AsyncClient
    namespace: str
    image: str
    fake: FakeCluster | None

    def path(self, plural: str, name: str = "", *, group: str = "", everywhere: bool = False) -> str:
        """Where a resource is: ``group`` is empty for the core, or ``GROUP/VERSION``."""
        base = f"/apis/{group}" if group else "/api/v1"
        place = "" if everywhere else f"/namespaces/{self.namespace}"
        return f"{base}{place}/{plural}" + (f"/{name}" if name else "")

    async def make(self, name: str, *, labels: Json | None = None, data: Json | None = None, **more: Any) -> Json:
        """A ConfigMap, which every cluster takes and nobody else looks at."""
        reply = await self.http.post(self.path("configmaps"), json=configmap(name, labels=labels, data=data, **more))
        assert reply.status_code == 201, reply.text
        made: Json = reply.json()
        return made

    async def version(self, plural: str = "configmaps") -> str:
        """The version of the collection as it is now."""
        reply = await self.http.get(self.path(plural))
        version: str = reply.json()["metadata"]["resourceVersion"]
        return version

    async def watch(self, path: str, *, enough: int, **query: str) -> list[Json]:
        """The first ``enough`` events of a watch, fewer if it ends before."""
        events: list[Json] = []
        query = {"watch": "true", "timeoutSeconds": "5"} | query
        async with self.http.stream("GET", path, params=query) as reply:
            assert reply.status_code == 200, await reply.aread()
            if enough:
                async for line in reply.aiter_lines():
                    events.append(json.loads(line))
                    if len(events) == enough:
                        break
        return events


def configmap(name: str, *, labels: Json | None = None, data: Json | None = None, **more: Any) -> Json:
    metadata = {"name": name} | ({"labels": labels} if labels else {}) | more
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data or {"x": "1"}}


def refused(reply: Any, code: int, reason: str, message: str = "") -> Json:
    """Check that a reply is a ``Status`` that says so."""
    body: Json = reply.json()
    assert (reply.status_code, body["kind"], body["status"], body["code"]) == (code, "Status", "Failure", code), body
    assert body.get("reason", "") == reason
    assert re.search(message, body["message"]), body["message"]
    return body


async def gone(server: Server, path: str) -> None:
    async with asyncio.timeout(60):
        while (await server.http.get(path)).status_code != 404:  # noqa: ASYNC110 - it is on a server
            await asyncio.sleep(0.01 if server.fake else 0.2)


async def eventually(server: Server, path: str, fact: Any) -> Json:
    """The object as soon as a fact holds of it."""
    async with asyncio.timeout(60):
        while True:
            item: Json = (await server.http.get(path)).json()
            if fact(item):
                return item
            await asyncio.sleep(0.01 if server.fake else 0.2)


def condition(item: Json, kind: str) -> Json:
    conditions = (item.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == kind), {})
