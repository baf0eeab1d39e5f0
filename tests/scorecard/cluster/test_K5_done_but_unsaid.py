"""K5. The API server does what it was asked and its answer is lost: there is one object after a create, none after a
delete."""

from __future__ import annotations

import pytest
from tests.assembly.cluster_site import NS, Site, services, until

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize("kind", ["done-lost", "done-reset", "done-timeout"])
async def test_one_after_a_create_and_none_after_a_delete(site: Site, kind: str) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        with site.cluster.faults.add(kind, verb="create", resource="services", count=1) as lost:
            assert (await one.chat()).status_code == 200
        assert lost.hits == 1
        (name,) = services(site)
        with site.cluster.faults.add(kind, verb="delete", resource="services", count=1) as lost:
            await one.client.delete(f"/api/servers/{name}")
            await until(lambda: not site.cluster.pods(name, NS))
        assert lost.hits == 1
        await until(lambda: name not in one.book.servers)
        assert services(site) == []
        assert (await one.chat()).status_code == 200, "and its slice is free again"
