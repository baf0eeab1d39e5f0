"""K4. For ten minutes three calls of ten fail, done or not done, while twenty models are asked for: no model has two Knative
Services, everybody is answered, and nothing is left over."""

from __future__ import annotations

import asyncio

import pytest
from tests.assembly.cluster_site import Replica, Site, until
from tests.scorecard.cluster.support import leftovers, servers_per_model

pytestmark = pytest.mark.looptime

MODELS, BAD = 20, 600.0
KINDS = ("error", "timeout", "unavailable", "reset", "done-timeout", "done-reset")


async def answered(one: Replica, model: str) -> int:
    """How often ``model`` had to be asked for until it answered."""
    for attempt in range(1, 100):
        reply = await one.chat(model)
        if reply.status_code == 200:
            return attempt
        assert reply.status_code in (502, 503), reply.text
        assert reply.json()["error"]["code"]
        await asyncio.sleep(10.0)
    raise AssertionError(f"{model} never answers")


async def test_twenty_models_answer_and_nothing_is_doubled_or_left(site: Site) -> None:
    site.cluster.nodes.add("node-b", {"nvidia.com/mig-1g.5gb": 6})
    async with site.dispatcher(dwell=0.0, keep_alive=60.0, launches_per_minute=1000) as one:
        await one.leading()
        loop = asyncio.get_running_loop()
        began = loop.time()
        rules = [site.cluster.faults.add(kind, rate=rate) for kind, rate in zip(KINDS, chances(0.3), strict=True)]
        asked = [loop.create_task(answered(one, f"org/m{number}-1b")) for number in range(MODELS)]
        while loop.time() - began < BAD:
            assert not [model for model, count in servers_per_model(site.cluster).items() if count > 1]
            await asyncio.sleep(1.0)
        for rule in rules:
            assert rule.hits
            rule.remove()
        assert len(await asyncio.gather(*asked)) == MODELS
        await until(lambda: not leftovers(site.cluster), within=60.0 + 60.0)
        assert not one.book.servers
        assert not one.book.waiting


def chances(rate: float) -> list[float]:
    """Of rules that are tried one after the other, each striking alike: the chance of each that ``rate`` of all fail."""
    each = rate / len(KINDS)
    return [each / (1 - number * each) for number in range(len(KINDS))]
