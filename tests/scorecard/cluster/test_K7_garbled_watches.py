"""K7. For ten minutes watches break every five seconds, and events come twice, late and in the wrong order: in the end the
book is what the cluster is, and nothing was started or stopped for it."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.assembly.cluster_site import NS, Site, services, until
from tests.kube.kinds import PODS
from tests.scorecard.cluster.support import calls, is_true

pytestmark = pytest.mark.looptime


async def test_after_ten_bad_minutes_the_book_is_true(site: Site) -> None:
    chance = random.Random(7)
    watches = site.cluster.faults.watches
    async with site.dispatcher(keep_alive=3600.0) as one:
        await one.leading()
        assert (await one.chat()).status_code == 200
        (lasting,) = services(site)
        watches.cut_every, watches.duplicate, watches.stale, watches.reorder = 5.0, 0.3, 0.3, 0.3
        for number in range(30):
            await asyncio.sleep(20.0)
            site.cluster.nodes.resize("node-a", {"nvidia.com/mig-1g.5gb": 2 + chance.randrange(3)})
            if number % 10 == 3:
                site.cluster.create(PODS, {"metadata": {"name": f"theirs-{number}"}, "spec": spec()}, "default")
            if number % 10 == 6:
                site.cluster.delete(PODS, f"theirs-{number - 3}", "default", grace=0)
            assert (await one.chat()).status_code == 200
        await until(lambda: is_true(site, one), within=10.0)
        assert services(site) == [lasting]
        assert site.cluster.pods(lasting, NS)
        assert len(calls(site, "create")) == 1
        assert calls(site, "delete") == []


def spec() -> dict[str, object]:
    """A stranger's pod on a slice."""
    return {"containers": [{"name": "c", "image": "x", "resources": {"limits": {"nvidia.com/mig-1g.5gb": "1"}}}]}
