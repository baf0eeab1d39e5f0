"""D8. SIGTERM under load and with requests held: not ready at once, what runs is finished, and what is held is answered by
the next replica."""

from __future__ import annotations

import asyncio

import pytest
from tests.assembly.cluster_site import Site, services, until
from tests.scorecard.cluster.support import calls, statuses

pytestmark = pytest.mark.looptime

QUIET, GRACE = 5.0, 30.0
RUNNING, HELD = 8, 50


async def test_nothing_accepted_is_lost(site: Site) -> None:
    site.cluster.behave("*org/b*", ready_after=20.0)
    async with site.dispatcher(drain_quiet=QUIET, drain_grace=GRACE) as one, site.dispatcher() as two:
        await one.leading()
        await until(lambda: two.cluster.leader() is not None)
        assert (await one.chat()).status_code == 200
        site.cluster.gateway.pace = 3.0
        streams = [one.ask("a", stream=True) for _ in range(RUNNING)]
        await until(lambda: one.book.seated)
        held = [one.ask("b") for _ in range(HELD)]
        await until(lambda: len(one.book.waiting) >= HELD)
        loop = asyncio.get_running_loop()
        began = loop.time()
        leaving = loop.create_task(one.leave())
        await asyncio.sleep(0.1)
        assert (await one.client.get("/readyz")).status_code == 503
        assert (await one.client.get("/healthz")).status_code == 200
        late = await one.chat()
        assert late.status_code == 200, "in the quiet period balancers do not know yet"
        for stream in streams:
            reply = await stream
            assert reply.status_code == 200
            assert reply.text.endswith("data: [DONE]\n\n")
        site.cluster.gateway.pace = 0.0
        assert statuses(await asyncio.gather(*held)) == {200}
        await leaving
        assert loop.time() - began <= QUIET + GRACE + 5.0
        assert two.cluster.leads
        assert len(services(site)) == len(calls(site, "create")) == 2, "what runs was adopted, not started again"
