"""U2. A server that refuses, or dies before its first byte: at most one more try, and all tries together a small share."""

from __future__ import annotations

from tests.http.support import OriginCall
from tests.scorecard.conftest import OpenHouse
from tests.scorecard.support import CHAT, House, answer, chat, proper_reply, shape_of

REQUESTS = 100


async def test_a_refused_connection_is_tried_once_more_and_the_caller_told(house: House) -> None:
    await house.warm()
    await house.origin.stop()

    reply = await house.ask(chat())

    assert (reply.status, shape_of(reply, "/v1/")) == (502, "upstream_unreachable")
    assert house.program.pool.retries == 1

    await house.origin.start()
    assert (await house.ask(chat())).body == CHAT


async def test_a_kept_connection_that_dies_is_replaced_and_the_caller_notices_nothing(open_house: OpenHouse) -> None:
    async def dies_when_used_again(call: OriginCall) -> None:
        if call.number == 0:
            call.reset()
        else:
            await answer(call)

    house = await open_house(dies_when_used_again)
    await house.warm()

    reply = await house.ask(chat())

    assert (reply.status, reply.body) == (200, CHAT)
    assert len(house.origin.calls) == 2


async def test_a_server_that_always_dies_is_asked_twice_at_most(open_house: OpenHouse) -> None:
    async def dies(call: OriginCall) -> None:
        call.reset()

    house = await open_house(dies)
    await house.warm()

    on_a_kept_one = await house.ask(chat())
    assert (on_a_kept_one.status, shape_of(on_a_kept_one, "/v1/")) == (502, "upstream_closed")
    assert len(house.origin.calls) == 2

    on_a_new_one = await house.ask(chat())
    assert (on_a_new_one.status, shape_of(on_a_new_one, "/v1/")) == (502, "upstream_closed")
    assert len(house.origin.calls) == 3


async def test_second_tries_are_a_small_share_of_the_traffic(open_house: OpenHouse) -> None:
    """Every connection of this server works once."""
    served: set[object] = set()

    async def works_once(call: OriginCall) -> None:
        if call.writer in served:
            call.reset()
        else:
            served.add(call.writer)
            await call.say(proper_reply(call))

    house = await open_house(works_once)
    await house.warm()
    statuses = [(await house.ask(chat())).status for _ in range(REQUESTS)]

    pool = house.program.pool
    assert set(statuses) == {200, 502}
    assert 0 < pool.retries <= pool.limits.retry_reserve + pool.limits.retry_budget * pool.sent
    assert len(house.origin.calls) == REQUESTS + pool.retries
