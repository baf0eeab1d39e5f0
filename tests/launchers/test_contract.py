"""What `launchers.base` promises, asked of every launcher that can run here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from tests.kube.fake import FakeCluster

from ssis_dispatcher.core.messages import Failure, FailureKind, InventoryChanged, ServerFailed, ServerProgressed
from ssis_dispatcher.core.slices import Pool, cpu_slice
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.errors import ModelNotServable
from ssis_dispatcher.kube.api import Kube
from ssis_dispatcher.launchers.base import Launcher, LaunchFailed
from ssis_dispatcher.launchers.fake import FakeLauncher, Outcome
from ssis_dispatcher.launchers.knative.launcher import KnativeLauncher
from ssis_dispatcher.launchers.knative.options import CpuShare, KnativeOptions, PodSource
from ssis_dispatcher.launchers.process import ModelSource, ProcessLauncher, ProcessOptions

POOLS = (Pool("local", cpu_slice(512, 0.5), 4),)


@dataclass
class Platform:
    """A launcher, and what it takes to make things happen on it. ``broken`` is a model that cannot start, ``slow`` one that
    never becomes ready. ``outlives``: its servers go on when the launcher is closed."""

    launcher: Launcher
    crash: Callable[[str], Any]
    broken: str = "broken"
    slow: str = "slow"
    pools: tuple[Pool, ...] = POOLS
    outlives: bool = False


@pytest.fixture
async def responder() -> AsyncIterator[str]:
    """A real address that answers: what the fake's servers are said to listen on."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"{host}:{port}"
    server.close()
    await server.wait_closed()


def fake_platform(address: str) -> Platform:
    broken = Outcome(failure=Failure(FailureKind.MISCONFIGURED, "it is broken"), phases=((0.0, "loading"),))
    script = {"broken": broken, "slow": Outcome(seconds=3600.0, phases=((0.0, "loading"),))}
    launcher = FakeLauncher(POOLS, script, address=address)
    return Platform(launcher, lambda server: launcher.crash(server, Failure(FailureKind.CRASHED, "it crashed")))


def process_platform(demo: str) -> Platform:
    async def resolve(model: Any, phase: Callable[[str, str], None]) -> ModelSource:
        phase("resolving", model.id)
        if model.id == "broken":
            raise ModelNotServable("it is broken")
        if model.id == "slow":
            await asyncio.sleep(3600.0)
        return ModelSource(demo)

    launcher = ProcessLauncher(ProcessOptions(pools=POOLS), ENGINES, resolve)
    return Platform(launcher, lambda server: os.kill(launcher.pid(server) or 0, signal.SIGKILL))


@contextlib.asynccontextmanager
async def knative_platform() -> AsyncIterator[Platform]:
    async with FakeCluster(namespaces=("nthulab",)) as cluster:
        cluster.nodes.add("local", cpu="2", memory="2200Mi")
        cluster.behave("*", pull=0.0, ready_after=0.05)
        cluster.behave("slow", stuck=True)
        kube = Kube.at(cluster.url)

        async def resolve(model: Any, phase: Callable[[str, str], None]) -> PodSource:
            if model.id == "broken":
                raise ModelNotServable("it is broken")
            return PodSource(model.id)

        def crash(server: str) -> None:
            (pod,) = cluster.pods(server, "nthulab")
            cluster.crash(pod["metadata"]["name"], "Error", "it crashed")

        gateway = cluster.gateway_url.removeprefix("http://")
        options = KnativeOptions(cpu_shares=(CpuShare(512, 100),))
        launcher = KnativeLauncher(
            kube, options, ENGINES, resolve, gateway=gateway, log=lambda event, *level, **fields: None
        )
        yield Platform(launcher, crash, pools=(Pool("local", cpu_slice(512, 0.05), 4),), outlives=True)
        await kube.close()


@pytest.fixture(params=["fake", "process", "knative"])
async def platform(request: pytest.FixtureRequest, responder: str, demo: str) -> AsyncIterator[Platform]:
    if request.param == "knative":
        async with knative_platform() as made:
            yield made
        return
    made = fake_platform(responder) if request.param == "fake" else process_platform(demo)
    yield made
    await made.launcher.close()


async def answers(address: str) -> bool:
    where, _, host = address.partition("/")
    async with httpx2.AsyncClient(headers={"host": host} if host else None) as client:
        return (await client.get(f"http://{where}/health")).status_code == 200


async def is_gone(address: str) -> bool:
    try:
        await answers(address)
    except httpx2.TransportError:
        return True
    return False


async def test_the_inventory_comes_first(platform: Platform, watching: Any, reports: Any) -> None:
    async with watching(platform.launcher):
        await reports.wait_for(InventoryChanged)
    assert [event.pools for event in reports.events] == [platform.pools]


@pytest.fixture
async def watched(platform: Platform, watching: Any, reports: Any) -> AsyncIterator[Platform]:
    """The platform with somebody who watches, as the dispatcher does before it launches anything."""
    async with watching(platform.launcher):
        await reports.wait_for(InventoryChanged)
        yield platform


async def test_a_launched_server_answers(watched: Platform, make_order: Any, reports: Any) -> None:
    order = make_order()
    ready = await watched.launcher.launch(order, reports)
    assert (ready.server, ready.cause) == (order.server, order.cause)
    assert await answers(ready.address)


async def test_a_launch_tells_its_phases_with_its_cause(watched: Platform, make_order: Any, reports: Any) -> None:
    order = make_order(model_id=watched.slow)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watched.launcher.launch(order, reports))
        await reports.wait_for(ServerProgressed)
        task.cancel()
    await watched.launcher.stop(order.server, 5.0)
    phases = reports.of(ServerProgressed)
    assert phases
    assert {(phase.cause, phase.server) for phase in phases} == {(order.cause, order.server)}


async def test_a_stopped_server_is_gone_and_is_no_failure(watched: Platform, make_order: Any, reports: Any) -> None:
    order = make_order()
    await watched.launcher.launch(order, reports)
    await watched.launcher.stop(order.server, 5.0)
    assert await watched.launcher.logs(order.server) == []
    assert reports.of(ServerFailed) == []


async def test_unknown_servers_are_already_stopped(watched: Platform) -> None:
    await watched.launcher.stop("no-such-server", 5.0)


async def test_nothing_is_known_of_unknown_servers(watched: Platform) -> None:
    assert await watched.launcher.logs("no-such-server") == []


async def test_a_launch_that_fails_says_why_and_can_be_tried_again(
    watched: Platform, make_order: Any, reports: Any
) -> None:
    order = make_order(model_id=watched.broken)
    for _ in range(2):
        with pytest.raises(LaunchFailed, match="it is broken") as caught:
            await watched.launcher.launch(order, reports)
        assert caught.value.failure.kind is FailureKind.MISCONFIGURED
    await watched.launcher.stop(order.server, 0.0)


async def test_a_failed_launch_is_told_by_the_launch_alone(watched: Platform, make_order: Any, reports: Any) -> None:
    with pytest.raises(LaunchFailed):
        await watched.launcher.launch(make_order(model_id=watched.broken), reports)
    assert reports.of(ServerFailed) == []


async def test_the_last_lines_of_a_failed_server_are_kept(watched: Platform, make_order: Any, reports: Any) -> None:
    order = make_order()
    await watched.launcher.launch(order, reports)
    watched.crash(order.server)
    failed = await reports.wait_for(ServerFailed)
    assert (await watched.launcher.logs(order.server))[-1] == failed.failure.message


async def test_a_crash_is_reported_once(watched: Platform, make_order: Any, reports: Any) -> None:
    order = make_order()
    ready = await watched.launcher.launch(order, reports)
    watched.crash(order.server)
    failed = await reports.wait_for(ServerFailed)
    assert failed.server == order.server
    await watched.launcher.stop(order.server, 5.0)
    if isinstance(watched.launcher, ProcessLauncher):
        assert await is_gone(ready.address)
    assert len(reports.of(ServerFailed)) == 1


async def test_a_crash_that_nobody_watched_is_reported_to_who_watches_next(
    platform: Platform, make_order: Any, watching: Any, reports: Any
) -> None:
    if platform.outlives:
        pytest.skip("servers that outlive their dispatcher are found anew by who watches next")
    order = make_order()
    await platform.launcher.launch(order, reports)
    platform.crash(order.server)
    async with watching(platform.launcher):
        failed = await reports.wait_for(ServerFailed)
    assert failed.server == order.server
    kinds = [type(event) for event in reports.events if not isinstance(event, ServerProgressed)]
    assert kinds == [InventoryChanged, ServerFailed]


async def test_a_cancelled_launch_is_left_to_stop(watched: Platform, make_order: Any, reports: Any) -> None:
    order = make_order(model_id=watched.slow)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watched.launcher.launch(order, reports))
        await reports.wait_for(ServerProgressed)
        task.cancel()
    await watched.launcher.stop(order.server, 5.0)
    assert await watched.launcher.logs(order.server) == []


async def test_closing_stops_every_server_that_cannot_outlive_its_dispatcher(
    watched: Platform, make_order: Any, reports: Any
) -> None:
    orders = [make_order() for _ in range(2)]
    ready = [await watched.launcher.launch(order, reports) for order in orders]
    await watched.launcher.close()
    if watched.outlives:
        assert all([await answers(one.address) for one in ready])
        return
    assert [await watched.launcher.logs(order.server) for order in orders] == [[] for _ in orders]
    if isinstance(watched.launcher, ProcessLauncher):
        assert all([await is_gone(one.address) for one in ready])
