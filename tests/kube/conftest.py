"""The API servers that the contract is asked of: the fake, and a real one where the environment names it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from tests.kube.fake import FakeCluster

Json = dict[str, Any]

URL = "KUBE_CONTRACT_URL"
"""The address of a ``kubectl proxy``, for instance."""
CONFIG = "KUBE_CONTRACT_KUBECONFIG"
"""A kubeconfig whose current context is to be used."""
IMAGE = "KUBE_CONTRACT_IMAGE"
"""An image of a server that the real cluster's nodes have, and that answers on $PORT."""

NUMBERS = itertools.count()


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


@pytest.fixture(params=["fake", "real"] if URL in os.environ or CONFIG in os.environ else ["fake"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    namespace = f"contract-{os.getpid()}-{next(NUMBERS)}"
    async with contextlib.AsyncExitStack() as stack:
        fake: FakeCluster | None = None
        if request.param == "fake":
            fake = await stack.enter_async_context(FakeCluster())
            fake.nodes.add("rig")
            fake.behave("*", pull=0.02, ready_after=0.05, drain=0.3, logs=["hello"])
            http = httpx2.AsyncClient(base_url=fake.url)
            image = "example.com/hello:1"
        else:
            http, image = real(), os.environ.get(IMAGE, "")
        await stack.enter_async_context(http)
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        reply = await http.post("/api/v1/namespaces", json=body)
        assert reply.status_code == 201, reply.text
        yield Server(http, namespace, image, fake)
        await http.delete(f"/api/v1/namespaces/{namespace}")


def real() -> httpx2.AsyncClient:
    """A client of the real API server that the environment names."""
    if URL in os.environ:
        return httpx2.AsyncClient(base_url=os.environ[URL], timeout=30)
    config = yaml.safe_load(Path(os.environ[CONFIG]).read_text())
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    trust = ssl.create_default_context(cadata=_text(cluster, "certificate-authority"))
    with tempfile.TemporaryDirectory() as folder:
        if "client-certificate-data" in user or "client-certificate" in user:
            certificate, key = Path(folder) / "certificate", Path(folder) / "key"
            certificate.write_text(_text(user, "client-certificate"))
            key.write_text(_text(user, "client-key"))
            trust.load_cert_chain(certificate, key)
    headers = {"authorization": f"Bearer {user['token']}"} if "token" in user else {}
    return httpx2.AsyncClient(base_url=cluster["server"], verify=trust, headers=headers, timeout=30)


def _named(items: list[Json], name: str) -> Json:
    return next(item for item in items if item["name"] == name)


def _text(item: Json, key: str) -> str:
    if f"{key}-data" in item:
        return base64.b64decode(item[f"{key}-data"]).decode()
    return Path(item[key]).read_text()
