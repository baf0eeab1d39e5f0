"""How long to wait."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.kube.pace import GAP, LIMITED_FOR, LONGEST, Pace, at_least, backoff


@given(st.integers(0, 10_000))
def test_a_pause_grows_to_half_a_minute_and_no_further(attempt: int) -> None:
    assert min(0.125 * 2 ** min(attempt, 9), LONGEST / 2) <= backoff(attempt) <= LONGEST


@given(st.floats(0.0, 1e6))
def test_what_was_told_is_kept_and_exceeded_by_a_fifth_at_most(seconds: float) -> None:
    assert seconds <= at_least(seconds) <= seconds * 1.2


async def turns(pace: Pace, number: int, urgent: bool = False) -> list[float]:
    """When each of ``number`` callers that come together may go on."""
    clock = asyncio.get_running_loop().time
    began, times = clock(), []

    async def caller() -> None:
        await pace.turn(urgent)
        times.append(clock() - began)

    await asyncio.gather(*(caller() for _ in range(number)))
    return times


@pytest.mark.looptime
async def test_turns_are_free_until_there_is_a_limit_and_after_it() -> None:
    pace = Pace()
    assert await turns(pace, 10) == [0.0] * 10
    pace.limited(3.0)
    assert await turns(pace, 4) == pytest.approx([0.0, GAP, 2 * GAP, 3 * GAP])
    assert await turns(pace, 4, urgent=True) == [0.0] * 4
    await asyncio.sleep(3.0 + LIMITED_FOR)
    assert await turns(pace, 10) == [0.0] * 10
