"""What the tests of the Kubernetes client need: a cluster with a client, and work in the background."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from tests.kube.fake import FakeCluster

from ssis_dispatcher.kube.api import Kube, Object


def now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def clustered(**how: Any) -> AsyncIterator[tuple[FakeCluster, Kube]]:
    """A cluster, without Knative unless asked for, and a client of its API."""
    async with FakeCluster(**{"knative": None, **how}) as cluster:
        kube = Kube.at(cluster.url)
        try:
            yield cluster, kube
        finally:
            await kube.close()


@contextlib.asynccontextmanager
async def running(*work: Coroutine[Any, Any, object]) -> AsyncIterator[list[asyncio.Task[object]]]:
    """Run ``work`` beside the block, and not after it. What it raises is raised."""
    tasks = [asyncio.get_running_loop().create_task(each) for each in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def until(fact: Callable[[], object], within: float = 60.0) -> float:
    """Wait for a fact, at most ``within`` seconds of the loop's time; the seconds it took."""
    began = now()
    async with asyncio.timeout(within):
        while not fact():  # noqa: ASYNC110 - a fact of another task sets no event
            await asyncio.sleep(within / 500)
    return now() - began


def config(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
