"""How late the loop runs."""

from __future__ import annotations

import asyncio
import time

import pytest

from ssis_dispatcher.telemetry.lag import EVERY, LoopLag
from ssis_dispatcher.telemetry.metrics import LAG_SECONDS, Histogram


@pytest.mark.looptime
async def test_an_idle_loop_is_on_time_and_looked_at_regularly() -> None:
    histogram = Histogram(LAG_SECONDS)
    lag = LoopLag(asyncio.get_running_loop(), histogram)
    lag.start()
    await asyncio.sleep(10 * EVERY + EVERY / 2)
    lag.stop()
    assert sum(histogram.counts) == 10


async def test_a_blocked_loop_shows() -> None:
    histogram = Histogram(LAG_SECONDS)
    lag = LoopLag(asyncio.get_running_loop(), histogram)
    lag.start()
    asyncio.get_running_loop().call_soon(time.sleep, EVERY + 0.12)  # the fault: something blocks the loop
    await asyncio.sleep(EVERY)  # due after the look, which was asked for before
    lag.stop()
    assert histogram.sum >= 0.1


@pytest.mark.looptime
async def test_after_stopping_nothing_is_looked_at() -> None:
    histogram = Histogram(LAG_SECONDS)
    lag = LoopLag(asyncio.get_running_loop(), histogram)
    lag.start()
    lag.stop()
    await asyncio.sleep(100 * EVERY)
    assert sum(histogram.counts) == 0
