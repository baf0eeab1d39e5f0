"""K6. Watches stay open and say nothing: it is noticed within a minute, and what happened meanwhile is known."""

from __future__ import annotations

import asyncio

import pytest
from tests.assembly.cluster_site import NS, Site, services, until
from tests.kube.kinds import PODS
from tests.scorecard.cluster.support import is_true

pytestmark = pytest.mark.looptime


async def test_what_a_dead_watch_did_not_say_is_known_within_a_minute(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        assert (await one.chat()).status_code == 200
        (name,) = services(site)
        await asyncio.sleep(7.0)
        site.cluster.faults.watches.deaf = True
        await asyncio.sleep(1.0)
        (pod,) = site.cluster.pods(name, NS)
        site.cluster.delete(PODS, pod["metadata"]["name"], NS, grace=0)
        site.cluster.nodes.add("node-b", {"nvidia.com/mig-1g.5gb": 1})
        await asyncio.sleep(1.0)
        assert not is_true(site, one)
        site.cluster.faults.watches.deaf = False  # those that are open have lost what was said
        assert await until(lambda: name not in one.book.servers and is_true(site, one)) <= 60
        assert (await one.chat()).status_code == 200


async def test_ready_models_answer_while_nothing_is_heard(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        assert (await one.chat()).status_code == 200
        site.cluster.faults.watches.deaf = True
        for _ in range(30):
            assert (await one.chat()).status_code == 200
            await asyncio.sleep(10.0)
        assert len(services(site)) == 1
        site.cluster.faults.watches.deaf = False
        assert await until(lambda: is_true(site, one)) <= 60
