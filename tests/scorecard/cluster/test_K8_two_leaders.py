"""K8. A leader is paused, another takes over, the first one wakes up and still believes that it leads: there is one Knative
Service per model, and no write can hit what another wrote."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.assembly.cluster_site import Replica, Site, services, until
from tests.scorecard.cluster.support import calls, servers_per_model, statuses, writes

pytestmark = pytest.mark.looptime


def pause(replica: Replica) -> object:
    """Its lease is not renewed, and it does not learn of it: what it believes stays as it is. Returns what was taken away."""
    lease = replica.cluster._lease
    attempt = lease._attempt

    async def nothing() -> float:
        return 3600.0

    lease._attempt = nothing
    return attempt


async def test_one_who_believes_to_lead_starts_nothing(site: Site) -> None:
    async with site.dispatcher() as one:
        await one.leading()
        async with site.dispatcher() as two:
            await until(lambda: two.cluster.leader() is not None)
            pause(one)
            await until(lambda: two.cluster.leads)
            await two.leading()
            assert one.cluster.leads, "both believe it"
            mark = len(calls(site, "create"))
            of_one = [one.ask("a"), one.ask("b")]
            assert statuses([await two.chat("a"), await two.chat("a")]) == {200}
            await asyncio.sleep(30.0)
            assert len(calls(site, "create")) == mark + 1, "the one of the true leader"
            assert set(servers_per_model(site.cluster).values()) == {1}
            assert one.cluster._tied
            for task in of_one:
                task.cancel()
            await asyncio.gather(*of_one, return_exceptions=True)


async def test_what_is_written_names_the_version_or_the_object_that_it_is_for(site: Site) -> None:
    async with site.dispatcher(keep_alive=5.0) as one, site.dispatcher():
        await one.leading()
        assert (await one.chat()).status_code == 200
        await until(lambda: not services(site))
        await asyncio.sleep(60.0)
    for call in writes(site):
        body = msgspec.json.decode(call.body)
        match call.verb:
            case "update":
                assert body["metadata"]["resourceVersion"]
            case "delete" if call.resource != "secrets":  # a Secret is known by the name of its server, and swept by it
                assert body["preconditions"]["uid"]
            case "create" | "patch":
                assert call.query["fieldManager"] == "ssis-dispatcher"
    assert {call.verb for call in writes(site)} >= {"create", "update", "delete"}
