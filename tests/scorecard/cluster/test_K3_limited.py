"""K3. The API server asks for less (429 or 503, with Retry-After): nothing comes again before its time, and a replica makes
at most five calls a second."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from tests.assembly.cluster_site import Site, services
from tests.scorecard.cluster.support import calls, leftovers, most_within, statuses

pytestmark = pytest.mark.looptime

WAIT = 3
SLACK = 0.05
"""Seconds that a call takes."""


@pytest.mark.parametrize("kind", ["limited", "unavailable"])
async def test_what_is_refused_comes_again_when_it_was_told_to(site: Site, kind: str) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        site.cluster.faults.add(kind, verb="create", resource="services", count=3, retry_after=WAIT)
        assert (await one.chat()).status_code == 200
        assert len(services(site)) == 1
        times = [call.at for call in calls(site, "create")]
        gaps = [later - before for before, later in itertools.pairwise(times)]
        assert len(gaps) == 3
        assert all(WAIT <= gap <= WAIT * 1.2 + SLACK for gap in gaps)


async def test_while_limited_a_replica_makes_five_calls_a_second_at_most(site: Site) -> None:
    site.cluster.nodes.add("node-b", {"nvidia.com/mig-1g.5gb": 20})
    async with site.dispatcher(dwell=0.0, keep_alive=20.0) as one:
        await one.leading()
        with site.cluster.faults.add("limited", rate=0.5, retry_after=1) as limited:
            asked = [one.ask(f"org/m{number}-1b") for number in range(20)]
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(60.0)
            ended = asyncio.get_running_loop().time()
        assert limited.hits > 10
        told = next(call.at for call in site.cluster.log if call.at > began)
        times = [call.at for call in site.cluster.log if told + 1.0 < call.at < ended]
        assert 0 < most_within(1.0, times) <= 5
        assert statuses(await asyncio.gather(*asked)) == {200}
        assert one.cluster.leads
        await asyncio.sleep(120.0)
        assert leftovers(site.cluster) == []
