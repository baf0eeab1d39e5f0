"""Servers in memory, by virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ssis_dispatcher.core.messages import Failure, FailureKind, InventoryChanged, Launch, ServerFailed, ServerProgressed
from ssis_dispatcher.core.slices import Pool, cpu_slice
from ssis_dispatcher.launchers.base import LaunchFailed
from ssis_dispatcher.launchers.fake import FakeLauncher, Outcome
from ssis_dispatcher.launchers.last_lines import FAILED_KEPT

POOLS = (Pool("local", cpu_slice(512, 0.5), 4),)
CRASH = Failure(FailureKind.CRASHED, "it crashed")


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.looptime
async def test_a_start_takes_as_long_as_ordered(make_order: Any, reports: Any) -> None:
    launcher = FakeLauncher(POOLS, {"demo": Outcome(seconds=90.0)}, address="10.0.0.1:80")
    began = now()
    ready = await launcher.launch(make_order(), reports)
    assert now() - began == pytest.approx(90.0)
    assert ready.address == "10.0.0.1:80"


@pytest.mark.looptime
async def test_phases_come_at_their_times_and_count_towards_the_start(make_order: Any) -> None:
    seen: list[tuple[float, str]] = []
    outcome = Outcome(seconds=30.0, phases=((20.0, "downloading"), (5.0, "loading")))
    launcher, began = FakeLauncher(POOLS, {"demo": outcome}), now()
    await launcher.launch(make_order(), lambda event: seen.append((now() - began, getattr(event, "phase", ""))))
    assert [phase for _, phase in seen] == ["downloading", "loading"]
    assert [at for at, _ in seen] == pytest.approx([0.0, 20.0])
    assert now() - began == pytest.approx(30.0)


@pytest.mark.looptime
async def test_a_stop_takes_as_long_as_ordered_but_no_longer_than_its_grace(make_order: Any, reports: Any) -> None:
    launcher = FakeLauncher(POOLS, stop_seconds=5.0)
    for grace, expected in ((10.0, 5.0), (1.0, 1.0)):
        order = make_order()
        await launcher.launch(order, reports)
        began = now()
        await launcher.stop(order.server, grace)
        assert now() - began == pytest.approx(expected)
    assert launcher.running == ()


async def test_a_function_can_decide_what_becomes_of_each_launch(make_order: Any, reports: Any) -> None:
    def too_small(order: Launch) -> Outcome:
        if order.pool.slice.memory_mib < 1024:
            return Outcome(failure=Failure(FailureKind.OUT_OF_MEMORY, "too small"))
        return Outcome(address="10.0.0.2:80")

    launcher = FakeLauncher(POOLS, too_small)
    with pytest.raises(LaunchFailed, match="too small"):
        await launcher.launch(make_order(), reports)
    ready = await launcher.launch(make_order(pool=Pool("local", cpu_slice(2048), 1)), reports)
    assert ready.address == "10.0.0.2:80"


async def test_a_changed_inventory_is_reported_whole(reports: Any, watching: Any) -> None:
    launcher = FakeLauncher(POOLS)
    launcher.change_inventory(())
    async with watching(launcher):
        await reports.wait_for(InventoryChanged)
        launcher.change_inventory(POOLS)
    assert [event.pools for event in reports.of(InventoryChanged)] == [(), POOLS]


async def test_only_a_ready_server_can_crash(make_order: Any, reports: Any, watching: Any) -> None:
    launcher = FakeLauncher(POOLS, {"slow": Outcome(seconds=3600.0, phases=((0.0, "loading"),))})
    order = make_order(model_id="slow")
    async with watching(launcher), asyncio.TaskGroup() as group:
        task = group.create_task(launcher.launch(order, reports))
        await reports.wait_for(ServerProgressed)
        launcher.crash(order.server, CRASH)
        launcher.crash("no-such-server", CRASH)
        task.cancel()
    assert reports.of(ServerFailed) == []
    assert launcher.running == (order,)
    assert repr(launcher) == "<FakeLauncher: 0 ready, 1 not, 0 failed>"


async def test_the_lines_of_the_latest_failures_only_are_kept(make_order: Any, reports: Any) -> None:
    launcher = FakeLauncher(POOLS, {"demo": Outcome(failure=CRASH)})
    orders = [make_order() for _ in range(FAILED_KEPT + 1)]
    for order in orders:
        with pytest.raises(LaunchFailed):
            await launcher.launch(order, reports)
    assert await launcher.logs(orders[0].server) == []
    assert await launcher.logs(orders[-1].server) == ["it crashed"]
