"""K2. 410 on a watch and on the rest of a list: all is listed again; the book has missed nothing and counts nothing twice."""

from __future__ import annotations

import asyncio

import pytest
from tests.assembly.cluster_site import NS, Site, services, until
from tests.kube.kinds import PODS
from tests.scorecard.cluster.support import calls, is_true

from ssis_dispatcher.kube import watch

pytestmark = pytest.mark.looptime


async def test_a_history_that_is_gone_costs_a_list_and_nothing_else(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        for model in ("a", "b"):
            assert (await one.chat(model)).status_code == 200
        lists = len(calls(site, "list", "pods"))
        stays, goes = sorted(services(site))
        for number in range(5):
            await asyncio.sleep(30.0)
            site.cluster.cut_watches()
            site.cluster.nodes.add(f"node-{number}", {"nvidia.com/mig-1g.5gb": 1})
            if number == 2:
                (pod,) = site.cluster.pods(goes, NS)
                site.cluster.delete(PODS, pod["metadata"]["name"], NS, grace=0)
            site.cluster.compact()
            assert await until(lambda: is_true(site, one)) <= 10
        assert list(one.book.servers) == [stays]
        assert len(calls(site, "list", "pods")) > lists
        assert len(calls(site, "create")) == 2


async def test_a_list_whose_rest_expires_between_two_pages_is_begun_anew(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PAGE", 2)
    for number in range(5):
        site.cluster.nodes.add(f"node-{number}", {"nvidia.com/mig-1g.5gb": 1})
    site.cluster.faults.add("slow", verb="list", delay=1.0)
    asyncio.get_running_loop().call_later(2.5, site.cluster.compact)
    async with site.dispatcher() as one:
        await one.leading()
        assert is_true(site, one)
        assert (await one.chat()).status_code == 200
    answered = [call for call in calls(site, "list", "nodes") if "continue" not in call.query]
    assert len(answered) > 1, "it did expire"
