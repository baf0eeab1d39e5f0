"""U4. A model whose server dies while it starts (out of memory, a crash): who waits is told why, and it is not started again
and again but after pauses that grow."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from tests.http.support import until
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, chat, request, shape_of

from ssis_dispatcher.core.messages import Failure, FailureKind
from ssis_dispatcher.launchers.fake import Outcome

WAITING = 10
PAUSE = 0.05
KILLED = Outcome(failure=Failure(FailureKind.CRASHED, "exited with 137"))


@pytest.mark.parametrize("kind", [FailureKind.CRASHED, FailureKind.MISCONFIGURED])
async def test_all_who_wait_are_told_why(open_house: OpenHouse, kind: FailureKind) -> None:
    house = await open_house()
    house.platform.outcome = Outcome(failure=Failure(kind, "exited with 137"))
    house.platform.open.clear()
    wires = await house.wires(WAITING)
    for wire in wires:
        await wire.send(chat())
    await until(lambda: house.waiting == WAITING)
    house.platform.open.set()
    replies = await asyncio.gather(*(wire.reply() for wire in wires))

    assert {(reply.status, shape_of(reply, "/v1/")) for reply in replies} == {(503, "model_failed")}
    assert all("exited with 137" in reply.json["error"]["message"] for reply in replies)
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies)
    assert len(house.platform.orders) == 1


async def test_a_model_that_dies_each_time_is_started_after_pauses_that_grow(open_house: OpenHouse) -> None:
    house = await open_house(retry_pause=PAUSE)
    house.platform.outcome = KILLED
    while len(house.platform.orders) < 4:
        reply = await house.ask(chat())
        assert (reply.status, shape_of(reply, "/v1/")) == (503, "model_failed")

    begun = house.platform.begun
    pauses = [later - earlier for earlier, later in pairwise(begun)]
    # Half of what is due, because the loop's clock stands still within a turn.
    assert all(pause >= PAUSE * 2**number / 2 for number, pause in enumerate(pauses)), pauses

    house.platform.outcome = Outcome()
    while (reply := await house.ask(chat())).status != 200:
        assert shape_of(reply, "/v1/") == "model_failed"
    assert reply.body == CHAT


async def test_within_its_pause_it_is_not_started_and_others_are(open_house: OpenHouse) -> None:
    house = await open_house(retry_pause=60.0)
    house.platform.outcome = KILLED
    replies = [await house.ask(chat("solo")) for _ in range(3)]
    house.platform.outcome = Outcome()

    assert [reply.status for reply in replies] == [503] * 3
    assert len(house.platform.orders) == 1
    assert 1 < int(replies[-1].headers["retry-after"]) <= 60
    assert (await house.ask(chat("demo"))).body == CHAT
    assert (await house.ask(request("/readyz", method="GET"))).status == 200


async def test_out_of_memory_is_tried_on_a_larger_slice_once_and_then_told(open_house: OpenHouse) -> None:
    house = await open_house()
    house.platform.outcome = Outcome(failure=Failure(FailureKind.OUT_OF_MEMORY, "exited with 137"))

    reply = await house.ask(chat())

    assert reply.status in (422, 503)
    assert shape_of(reply, "/v1/") in ("model_does_not_fit", "model_failed")
    sizes = [order.pool.slice.memory_mib for order in house.platform.orders]
    assert sizes == sorted(set(sizes))
    assert len(sizes) == 2
