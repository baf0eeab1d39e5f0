"""D9. Of two replicas the leader goes every half minute, and a new one comes, while somebody asks twice a second. If they
leave in order, no request fails; if they are killed, one in a hundred at most."""

from __future__ import annotations

import asyncio
import contextlib

import httpx2
import pytest
from tests.assembly.cluster_site import Replica, Site, services, until
from tests.scorecard.cluster.support import calls

pytestmark = pytest.mark.looptime

EVERY, LASTS = 30.0, 300.0
PROBES = 400


class Prober:
    """Asks the replicas in turn, of those that say that they are ready, as a load balancer would."""

    def __init__(self) -> None:
        self.ready: list[Replica] = []
        self.asked = 0
        self.failed: list[str] = []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(int(LASTS * 2)):
                group.create_task(self._ask(self.ready[number % len(self.ready)]))
                await asyncio.sleep(0.5)

    async def _ask(self, replica: Replica) -> None:
        self.asked += 1
        try:
            reply = await replica.chat()
        except httpx2.TransportError as error:
            self.failed.append(repr(error))
        else:
            if reply.status_code != 200:
                self.failed.append(reply.text)


async def go_round(site: Site, prober: Prober, *, graceful: bool) -> None:
    """Replace the replica that leads, again and again."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:

        async def another() -> Replica:
            replica = await stack.enter_async_context(site.dispatcher(drain_quiet=2.0, drain_grace=20.0))
            await until(lambda: replica.cluster.leads or replica.cluster.leader() is not None)
            return replica

        prober.ready = [await another(), await another()]
        await prober.ready[0].leading()
        began = loop.time()
        probing = loop.create_task(prober.run())
        for number in range(int(LASTS / EVERY)):
            await asyncio.sleep(began + number * EVERY + 10.25 - loop.time())
            leader = next(one for one in prober.ready if one.cluster.leads)
            prober.ready = [*(one for one in prober.ready if one is not leader), await another()]
            await (leader.leave() if graceful else leader.die())
        await probing


async def test_those_that_leave_in_order_cost_no_request(site: Site) -> None:
    prober = Prober()
    await go_round(site, prober, graceful=True)
    assert prober.asked >= PROBES
    assert prober.failed == []
    assert len(services(site)) == len(calls(site, "create")) == 1


async def test_those_that_are_killed_cost_one_in_a_hundred_at_most(site: Site) -> None:
    prober = Prober()
    await go_round(site, prober, graceful=False)
    assert prober.asked >= PROBES
    assert len(prober.failed) <= prober.asked / 100
    assert len(services(site)) == len(calls(site, "create")) == 1
