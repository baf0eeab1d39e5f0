"""One leads, whatever happens to the others, to the API server and to itself. Times are virtual."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, tzinfo
from typing import Any

import pytest
from tests.kube import kinds
from tests.kube.fake import FakeCluster
from tests.kube.faults import Fault

from ssis_dispatcher.kube import lease
from ssis_dispatcher.kube.api import CONFIGMAPS, LEASES, ApiError, Kind, Kube, Object
from ssis_dispatcher.kube.lease import ADDRESS, Lease

from .support import clustered, config, now, until

pytestmark = pytest.mark.looptime

NAME, SPACE = "ssis-dispatcher", "default"
KILLED_AT = [0.01, 0.5, 1.3, 1.99]
"""Seconds after a renewal."""


class Line(Kube):
    """A client whose line can be unplugged while others' lines work."""

    plugged = True

    async def get(self, kind: Kind, name: str, namespace: str | None = None, **how: Any) -> Object:
        self._check()
        return await super().get(kind, name, namespace, **how)

    async def replace(self, kind: Kind, body: Object, namespace: str | None = None, **how: Any) -> Object:
        self._check()
        return await super().replace(kind, body, namespace, **how)

    def _check(self) -> None:
        if not self.plugged:
            raise ApiError(0, "Unreachable", "unplugged")


class Replica:
    """A dispatcher as far as the election goes. It can be killed, and paused: then nothing of it runs."""

    def __init__(self, url: str, identity: str) -> None:
        self.kube = Line(url)
        self.identity = identity
        self.told: list[tuple[float, bool, bool]] = []
        self.lease = Lease(self.kube, SPACE, NAME, identity, f"http://{identity}", changed=self._note)
        self.kube.fence = lambda: self.lease.holds(now())
        self._run: asyncio.Task[None] | None = None

    def _note(self) -> None:
        self.told.append((now(), self.lease.leading, self.lease.certain))

    def go_on(self) -> None:
        self._run = asyncio.get_running_loop().create_task(self.lease.run())

    async def pause(self) -> None:
        if self._run is not None:
            self._run.cancel()
            await asyncio.gather(self._run, return_exceptions=True)
            assert self._run.cancelled() or self._run.exception() is None
            self._run = None

    @property
    def paused(self) -> bool:
        return self._run is None


@asynccontextmanager
async def replicas(cluster: FakeCluster, *names: str) -> AsyncIterator[list[Replica]]:
    """Some replicas, the first of which leads."""
    async with AsyncExitStack() as stack:
        found = []
        for name in names:
            replica = Replica(cluster.url, name)
            stack.push_async_callback(replica.kube.close)
            stack.push_async_callback(replica.pause)
            replica.go_on()
            found.append(replica)
            await until(lambda: found[0].lease.leading, within=1.0)
        yield found


def leaders(found: Iterable[Replica]) -> list[str]:
    return [replica.identity for replica in found if replica.lease.leading]


def record(cluster: FakeCluster) -> Object:
    found = cluster.get(kinds.LEASES, NAME, SPACE)
    assert found is not None
    return found


async def until_renewed(cluster: FakeCluster) -> None:
    before = record(cluster)["spec"]["renewTime"]
    await until(lambda: record(cluster)["spec"]["renewTime"] != before, within=5.0)


async def test_the_first_leads_and_the_others_know_where_it_is() -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b", "c") as found:
        await asyncio.sleep(60.0)
        assert leaders(found) == ["a"]
        assert [replica.lease.certain for replica in found] == [True, False, False]
        assert {replica.lease.holder for replica in found} == {"a"}
        assert {replica.lease.address for replica in found} == {"http://a"}
        spec = record(cluster)["spec"]
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("a", 10, 0)
        assert len(found[0].told) == 1


async def test_of_those_that_come_together_one_leads() -> None:
    async with clustered() as (cluster, _):
        found = [Replica(cluster.url, name) for name in "abcde"]
        for replica in found:
            replica.go_on()
        await asyncio.sleep(20.0)
        assert len(leaders(found)) == 1
        assert len({replica.lease.address for replica in found}) == 1
        for replica in found:
            await replica.pause()
            await replica.kube.close()


@pytest.mark.parametrize("phase", KILLED_AT)
async def test_a_dead_leader_is_succeeded_within_twelve_seconds(phase: float) -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        await asyncio.sleep(7.0)
        await until_renewed(cluster)
        await asyncio.sleep(phase)
        await a.pause()
        died = now()
        await until(lambda: b.lease.leading, within=20.0)
        assert 6.0 <= now() - died <= 12.0
        assert b.lease.certain
        assert b.lease.address == "http://b"
        assert record(cluster)["spec"]["leaseTransitions"] == 1


async def test_who_gives_it_back_is_succeeded_at_once() -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        for seconds in (5.0, 0.3, 0.9):
            await asyncio.sleep(seconds)
            leader, other = (a, b) if a.lease.leading else (b, a)
            began = now()
            await leader.lease.release()
            assert not leader.lease.leading
            assert not leader.lease.holds(now())
            await until(lambda other=other: other.lease.leading, within=5.0)  # type: ignore[misc]
            assert now() - began <= 1.1
            await leader.pause()
            leader.lease = Lease(leader.kube, SPACE, NAME, leader.identity, "http://again", changed=lambda: None)
            leader.go_on()


async def test_a_release_ends_the_run_and_is_harmless_for_who_does_not_lead() -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        await b.lease.release()
        assert b._run is not None
        await b._run
        assert leaders([a, b]) == ["a"]
        async with cluster.outage():
            await a.lease.release()  # cannot be told
        assert leaders([a, b]) == []


@pytest.mark.parametrize("how", ["refused", "silent", "broken"])
async def test_in_an_outage_the_leader_stays_but_is_not_certain_and_nobody_takes_over(how: str) -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        await asyncio.sleep(10.0)
        began = now()
        async with AsyncExitStack() as stack:
            if how == "refused":
                await stack.enter_async_context(cluster.outage())
            else:
                stack.enter_context(cluster.faults.add(Fault.LOST if how == "silent" else Fault.ERROR))
            await until(lambda: not a.lease.certain, within=10.0)
            assert 3.9 <= now() - began <= 6.1
            await asyncio.sleep(0.05)
            assert a.told[-1][1:] == (True, False)
            for _ in range(150):
                await asyncio.sleep(2.0)
                assert leaders([a, b]) == ["a"]
                assert not a.lease.certain
                assert b.lease.address == "http://a"
        back = now()
        await until(lambda: a.lease.certain, within=5.0)
        assert now() - back <= 4.0
        await asyncio.sleep(30.0)
        assert leaders([a, b]) == ["a"]
        assert record(cluster)["spec"]["leaseTransitions"] == 0


async def test_who_sees_again_first_after_an_outage_does_not_take_over() -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        await asyncio.sleep(5.0)
        a.kube.plugged = b.kube.plugged = False
        await asyncio.sleep(60.0)
        b.kube.plugged = True
        await asyncio.sleep(8.0)
        assert leaders([a, b]) == ["a"]
        a.kube.plugged = True
        await asyncio.sleep(30.0)
        assert leaders([a, b]) == ["a"]


async def test_a_clock_that_stands_still_is_no_sign_of_death(monkeypatch: pytest.MonkeyPatch) -> None:
    class Still(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Still:
            return cls(2026, 1, 1, tzinfo=tz)

    monkeypatch.setattr(lease, "datetime", Still)
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as found:
        await asyncio.sleep(30.0)
        assert leaders(found) == ["a"]
        assert record(cluster)["spec"]["leaseTransitions"] == 0


async def test_a_leader_that_dies_in_an_outage_is_succeeded_after_it() -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        await asyncio.sleep(5.0)
        async with cluster.outage():
            await a.pause()
            await asyncio.sleep(60.0)
            assert not b.lease.leading
        await until(lambda: b.lease.leading, within=15.0)


async def test_who_is_cut_off_alone_steps_down_when_it_is_back() -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        await asyncio.sleep(5.0)
        a.kube.plugged = False
        await until(lambda: b.lease.leading, within=13.0)
        assert not a.lease.certain
        assert a.lease.leading  # it cannot know
        a.kube.plugged = True
        await until(lambda: not a.lease.leading, within=3.0)
        assert a.lease.address == "http://b"


@pytest.mark.parametrize("seconds", [7.0, 9.0, 13.0, 300.0])
async def test_a_leader_that_was_paused_notices_before_it_writes(seconds: float) -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        await asyncio.sleep(5.0)
        await a.kube.create(CONFIGMAPS, config("before"))
        await until_renewed(cluster)
        await a.pause()
        await asyncio.sleep(seconds)
        assert not a.lease.certain
        assert not a.lease.holds(now())
        with pytest.raises(ApiError) as caught:
            await a.kube.create(CONFIGMAPS, config("after"))
        assert caught.value.fenced
        if seconds > 12.0:
            assert leaders([a, b]) == ["b"]
        a.go_on()
        await until(lambda: a.lease.holder == record(cluster)["spec"]["holderIdentity"], within=0.5)
        assert leaders([a, b]) == (["b"] if seconds > 12.0 else ["a"])


async def test_a_paused_leader_does_not_send_others_to_itself() -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a") as (a,):
        await a.pause()
        await asyncio.sleep(30.0)
        assert (a.lease.leading, a.lease.holder, a.lease.address) == (False, "", "")
        async with cluster.outage():
            a.go_on()
            await asyncio.sleep(10.0)
            assert not a.lease.leading  # it may have been succeeded meanwhile
        await until(lambda: a.lease.certain, within=5.0)


async def test_a_follower_that_was_paused_counts_anew() -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        await asyncio.sleep(5.0)
        await b.pause()
        await asyncio.sleep(60.0)
        await a.pause()
        await asyncio.sleep(0.5)
        b.go_on()
        await asyncio.sleep(9.0)
        assert not b.lease.leading
        await until(lambda: b.lease.leading, within=3.0)


async def test_who_comes_back_under_its_own_name_goes_on_at_once() -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        await asyncio.sleep(5.0)
        await a.pause()
        a.lease = Lease(a.kube, SPACE, NAME, "a", "http://a2", changed=lambda: None)
        a.go_on()
        await until(lambda: a.lease.certain, within=0.5)
        await until(lambda: b.lease.address == "http://a2", within=2.0)
        assert record(cluster)["spec"]["leaseTransitions"] == 0


@pytest.mark.parametrize("fault", [Fault.DONE_TIMEOUT, Fault.DONE_LOST, Fault.DONE_RESET])
async def test_a_renewal_that_happened_without_an_answer_costs_nothing(fault: Fault) -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        cluster.faults.add(fault, verb="update", rate=0.5)
        for _ in range(300):
            await asyncio.sleep(0.5)
            assert leaders([a, b]) == ["a"]


async def test_a_record_that_somebody_deletes_is_written_anew_by_its_holder() -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        for wait in (0.4, 1.1, 1.9):
            await until_renewed(cluster)
            await asyncio.sleep(wait)
            cluster.delete(kinds.LEASES, NAME, SPACE)
            await until(lambda: cluster.get(kinds.LEASES, NAME, SPACE), within=3.0)
            assert a.lease.certain
            await asyncio.sleep(15.0)
            assert leaders([a, b]) == ["a"]


async def test_who_labels_the_record_neither_renews_nor_takes_it() -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a", "b") as (a, b):
        await asyncio.sleep(5.0)

        def label(item: Object) -> None:
            item["metadata"].setdefault("labels", {})["at"] = str(int(now() * 10))

        for _ in range(20):
            cluster.api.edit(kinds.LEASES, NAME, SPACE, label)
            await asyncio.sleep(0.7)
            assert a.lease.certain
        assert "labels" in record(cluster)["metadata"]
        await a.pause()
        died = now()
        while not b.lease.leading:
            cluster.api.edit(kinds.LEASES, NAME, SPACE, label)
            await asyncio.sleep(0.5)
        assert now() - died <= 12.5


async def test_who_may_not_have_leases_never_leads() -> None:
    async with clustered() as (cluster, _):
        cluster.faults.add(Fault.FORBIDDEN, resource="leases")
        a = Replica(cluster.url, "a")
        a.go_on()
        await asyncio.sleep(60.0)
        assert not a.lease.leading
        assert a.told == []
        assert len(cluster.log) <= 61
        await a.pause()
        await a.kube.close()


async def test_a_limited_leader_waits_as_told_and_is_no_pause() -> None:
    async with clustered() as (cluster, _), replicas(cluster, "a") as (a,):
        await asyncio.sleep(5.0)
        cluster.faults.add(Fault.LIMITED, resource="leases", count=2, retry_after=20)
        before = len(cluster.log)
        for _ in range(35):
            await asyncio.sleep(1.0)
            assert a.lease.leading
        assert len(cluster.log) - before <= 3
        await until(lambda: a.lease.certain, within=20.0)


async def test_a_record_of_another_program_is_respected() -> None:
    async with clustered() as (cluster, kube):
        body = {"metadata": {"name": NAME}, "spec": {"holderIdentity": "x", "leaseDurationSeconds": 30}}
        await kube.create(LEASES, body, SPACE)
        a = Replica(cluster.url, "a")
        a.go_on()
        await asyncio.sleep(29.0)
        assert (a.lease.leading, a.lease.holder, a.lease.address) == (False, "x", "")
        await until(lambda: a.lease.leading, within=3.0)
        assert record(cluster)["metadata"]["annotations"][ADDRESS] == "http://a"
        await a.pause()
        await a.kube.close()


@pytest.mark.parametrize("seed", range(3))
async def test_never_are_two_certain_and_in_the_end_one_leads(seed: int) -> None:
    draw = random.Random(seed)
    async with clustered(seed=seed) as (cluster, _), replicas(cluster, "a", "b", "c") as found:
        handovers = set()
        for _ in range(40):
            what = draw.randrange(5)
            victim = draw.choice(found)
            if what == 0:
                await victim.pause()
            elif what == 1:
                victim.kube.plugged = not victim.kube.plugged
            elif what == 2:
                cluster.faults.add(draw.choice([Fault.LOST, Fault.ERROR, Fault.DONE_LOST]), rate=0.3)
            elif what == 3:
                cluster.faults.clear()
            else:
                for replica in found:
                    replica.kube.plugged = True
                    if replica.paused:
                        replica.go_on()
            end = now() + draw.uniform(0.0, 20.0)
            while now() < end:
                certain = [replica.identity for replica in found if replica.lease.certain]
                assert len(certain) <= 1
                handovers.update(certain)
                await asyncio.sleep(0.5)
        cluster.faults.clear()
        for replica in found:
            replica.kube.plugged = True
            if replica.paused:
                replica.go_on()
        await asyncio.sleep(15.0)
        assert len(leaders(found)) == 1
        assert len({replica.lease.holder for replica in found}) == 1
        assert len(handovers) > 1
