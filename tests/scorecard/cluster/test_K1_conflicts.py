"""K1. 409 on create and on update: what is there is adopted, what was read is read again; one Knative Service per model."""

from __future__ import annotations

import asyncio

import pytest
from tests.assembly.cluster_site import NS, Site, services, until
from tests.kube.kinds import CONFIGMAPS, LEASES
from tests.scorecard.cluster.support import calls, statuses

pytestmark = pytest.mark.looptime


async def test_a_server_that_is_there_already_is_adopted(site: Site) -> None:
    """The dispatcher before this one was told of no success, but its server is there when ours is created."""
    async with site.dispatcher() as one:
        await one.leading()
        with site.cluster.faults.add("done-lost", verb="create", resource="services", count=1) as lost:
            replies = await asyncio.gather(*(one.chat() for _ in range(5)))
        assert lost.hits == 1
        assert statuses(replies) == {200}
        assert len(services(site)) == 1


async def test_half_of_all_changes_conflict_and_all_is_written(site: Site) -> None:
    rule = site.cluster.faults.add("conflict", verb="update|patch", rate=0.5)
    async with site.dispatcher() as one, site.dispatcher() as two:
        await one.leading()
        for model in ("a", "b", "large"):
            assert (await one.chat(model)).status_code == 200
        assert len(services(site)) == len(calls(site, "create")) == 3
        await asyncio.sleep(120.0)
        assert rule.hits
        assert (one.cluster.leads, two.cluster.leads) == (True, False)
        assert len(site.cluster.all(LEASES, NS)) == 1
        rule.remove()

        def learned() -> int:
            facts = site.cluster.get(CONFIGMAPS, "dispatcher-learned", NS)
            return len(facts["data"]) if facts else 0

        await until(lambda: learned() == 3)
