"""K9. Our objects are edited and deleted by others, again and again: the book follows, and nobody is fought (at most three
writes a minute)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.assembly.cluster_site import NS, Site, services, until
from tests.kube.kinds import PODS, SERVICES, Kind
from tests.scorecard.cluster.support import is_true, most_within, writes

from ssis_dispatcher.launchers.knative.pods import is_ready

pytestmark = pytest.mark.looptime


async def test_edits_are_left_as_they_are(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        assert (await one.chat()).status_code == 200
        (name,) = services(site)
        mark = len(writes(site, "services", "pods", "secrets"))
        for number in range(36):

            def edit(service: Any, note: str = str(number)) -> None:
                service["metadata"]["annotations"]["example.com/note"] = note
                service["metadata"]["labels"]["auto-scaler"] = "scaling"

            site.cluster.edit(SERVICES, name, NS, edit)
            await asyncio.sleep(5.0)
            assert (await one.chat()).status_code == 200
        assert len(writes(site, "services", "pods", "secrets")) == mark
        assert site.cluster.get(SERVICES, name, NS)["metadata"]["annotations"]["example.com/note"] == "35"  # type: ignore[index]


@pytest.mark.parametrize("kind", [SERVICES, PODS])
async def test_who_deletes_it_again_and_again_is_not_fought(site: Site, kind: Kind) -> None:
    """Ten minutes in which somebody deletes whatever comes up, and callers go on asking. Writes to pods do not count: they
    only hasten the end of what is going, so that its slice is free."""
    loop = asyncio.get_running_loop()
    async with site.dispatcher() as one:
        await one.leading()
        assert (await one.chat()).status_code == 200
        mark = len(writes(site))
        end = loop.time() + 600
        while loop.time() < end:
            for found in site.cluster.all(kind, NS):
                if kind is SERVICES or is_ready(found):
                    site.cluster.delete(kind, found["metadata"]["name"], NS)
            asking = one.ask()
            await asyncio.sleep(1.0)
            asking.cancel()
        written = [call for call in writes(site)[mark:] if call.rule[1] in ("services", "secrets")]
        created = [call.at for call in written if call.verb == "create"]
        assert 3 < len(created) < 12, "at once for who asks, and then once a minute at most, and less and less often"
        assert most_within(60.0, created) <= 2
        assert most_within(60.0, [call.at for call in written]) <= 3


async def test_what_others_delete_comes_back_for_those_who_ask_and_for_nobody_else(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        for number in range(3):
            assert (await one.chat()).status_code == 200
            mark = len(writes(site))
            (name,) = services(site)
            site.cluster.delete(SERVICES, name, NS)
            await until(lambda: is_true(site, one))
            await asyncio.sleep(60.0)
            assert services(site) == []
            written = [call for call in writes(site)[mark:] if call.rule[1] not in ("leases", "configmaps")]
            assert len(written) <= 3, "it clears away what is left, once"
            assert len([call for call in writes(site, "services") if call.verb == "create"]) == number + 1
