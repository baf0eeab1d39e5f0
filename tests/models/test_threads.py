"""Blocking calls beside the loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ssis_dispatcher.models.threads import Threads


async def test_results_and_errors_come_back() -> None:
    threads = Threads(2, "test")
    assert await threads.run(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)


async def test_no_more_run_at_once_than_allowed() -> None:
    threads, gate = Threads(2, "test-bound"), threading.Event()
    running = asyncio.gather(*(threads.run(lambda: gate.wait(5)) for _ in range(5)))
    await asyncio.sleep(0)
    assert sum(thread.name == "test-bound" for thread in threading.enumerate()) == 2
    gate.set()
    assert await running == [True] * 5


async def test_what_nobody_waits_for_any_more_is_handed_over_and_its_place_given_back() -> None:
    threads, gate = Threads(1, "test"), threading.Event()
    unwanted: list[bool] = []
    task = asyncio.get_running_loop().create_task(threads.run(lambda: gate.wait(5), unwanted.append))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert unwanted == []
    gate.set()
    assert await threads.run(lambda: 1) == 1
    assert unwanted == [True]


def test_a_call_that_never_ends_does_not_keep_the_loop_from_closing() -> None:
    gate, unwanted = threading.Event(), threading.Event()

    async def leave() -> None:
        threads = Threads(1, "test-left")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(threads.run(lambda: gate.wait(5), lambda _: unwanted.set()), 0.01)

    asyncio.run(leave())
    gate.set()
    assert unwanted.wait(5)
