"""The API servers that the contract is asked of: the fake, and a real one where the environment names it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import yaml
from tests.kube.asking import Json, Server
from tests.kube.fake import FakeCluster

URL = "KUBE_CONTRACT_URL"
"""The address of a ``kubectl proxy``, for instance."""
CONFIG = "KUBE_CONTRACT_KUBECONFIG"
"""A kubeconfig whose current context is to be used."""
IMAGE = "KUBE_CONTRACT_IMAGE"
"""An image of a server that the real cluster's nodes have, and that answers on $PORT."""

NUMBERS = itertools.count()


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
