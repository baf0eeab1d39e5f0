"""The whole program on the fake cluster, in virtual time: `opened` gives a `Site`, which starts dispatchers on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.kube.fake import FakeCluster
from tests.kube.kinds import CONFIGMAPS, SERVICES

from ssis_dispatcher.assembly import running
from ssis_dispatcher.assembly.program import Program
from ssis_dispatcher.models.threads import Threads
from ssis_dispatcher.settings import Settings

NS = "nthulab"
CATALOGUE = (
    "models:\n"
    + "".join(f"  {name}: {{id: org/{name}, weights: 1GiB, context: 1024, seats: 4}}\n" for name in "abcd")
    + "  large: {id: org/large, weights: 6GiB, context: 1024}\n"
)


def config(**data: str) -> dict[str, Any]:
    return {"metadata": {"name": "dispatcher-config"}, "data": {"catalogue": CATALOGUE, **data}}


class Site:
    """A cluster, and dispatchers on it."""

    def __init__(self, cluster: FakeCluster, folder: Path) -> None:
        self.cluster = cluster
        self._folder = folder
        self._numbers = iter(range(100))

    @contextlib.asynccontextmanager
    async def dispatcher(self, **given: Any) -> AsyncIterator[Replica]:
        number = next(self._numbers)
        kubeconfig = self._folder / "kubeconfig"
        kubeconfig.write_text(self.cluster.kubeconfig)
        settings = Settings(
            **{
                "port": 0,
                "platform": "knative",
                "namespace": NS,
                "gateway": self.cluster.gateway_url.removeprefix("http://"),
                "hub_offline": True,
                "state_dir": self._folder / f"state-{number}",
                "cache_dir": self._folder / "cache",
                "access_log": False,
                **given,
            }
        )
        program = Program(settings)
        port = await program.server.listen("127.0.0.1", 0)
        assert program.cluster is not None
        replica = Replica(program, settings, port)
        program.cluster._settings = settings
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ssis_dispatcher.assembly.cluster.identity", lambda: f"replica-{number}")
            patch.setattr("ssis_dispatcher.assembly.cluster._own_address", lambda port: f"127.0.0.1:{port}")
            program.start(port)
        try:
            yield replica
        finally:
            await replica.client.aclose()
            if not replica.ended:
                await program.close()


class Replica:
    def __init__(self, program: Program, settings: Settings, port: int) -> None:
        self.program = program
        self.settings = settings
        self.port = port
        self.ended = False
        self.client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=600.0)

    @property
    def cluster(self) -> Any:
        return self.program.cluster

    @property
    def book(self) -> Any:
        return self.program.dispatcher.fleet.book

    async def leading(self) -> None:
        await until(lambda: self.cluster.leads and self.book.stock.known)

    async def chat(self, model: str = "a", **fields: Any) -> httpx2.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    def ask(self, model: str = "a", **fields: Any) -> asyncio.Task[httpx2.Response]:
        return asyncio.get_running_loop().create_task(self.chat(model, **fields))

    async def die(self) -> None:
        """As by SIGKILL: nothing is said to anybody, connections are cut."""
        self.ended = True
        self.program.cluster._lease._ours = False  # type: ignore[union-attr]
        await self.program.close()

    async def leave(self) -> None:
        """As by SIGTERM."""
        self.ended = True
        await running._drain(self.program, self.settings)
        await self.program.close()


async def until(fact: Callable[[], object], within: float = 60.0) -> float:
    """Wait for a fact; the seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(within):
        while not fact():  # noqa: ASYNC110 - facts of a program that is not to know of tests
            await asyncio.sleep(0.05)
    return loop.time() - began


async def _at_once(self: Threads, call: Callable[[], Any], unwanted: Any = None) -> Any:
    """Virtual time does not wait for threads: what they would do (nothing but looking at names, here) is done at once."""
    return call()


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Site]:
    """A cluster of one node with three slices, whose kubeconfig is the environment's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        patch.setenv("HF_HOME", str(folder / "hf"))
        patch.setattr(Threads, "run", _at_once)
        async with FakeCluster(namespaces=(NS,)) as cluster:
            cluster.nodes.add("node-a", {"nvidia.com/mig-1g.5gb": 2, "nvidia.com/mig-2g.10gb": 1})
            cluster.create(CONFIGMAPS, config(), NS)
            yield Site(cluster, folder)


def services(site: Site) -> list[str]:
    return [service["metadata"]["name"] for service in site.cluster.all(SERVICES, NS)]
