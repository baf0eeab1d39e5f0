"""The local copy equals what the server has, whatever happens on the way; and nothing is told twice or not at all.

First the bookkeeping alone, on histories made up by Hypothesis, then the whole against an API server with faults, in
virtual time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kube import kinds
from tests.kube.fake import FakeCluster
from tests.kube.faults import Fault
from tests.kube.watches import Watch

from ssis_dispatcher.kube import watch
from ssis_dispatcher.kube.api import CONFIGMAPS, SERVICES, ApiError, Kube, Object
from ssis_dispatcher.kube.watch import Key, Mirror, Replica, is_older

from .support import clustered, config, now, running, until


class Ledger:
    """Whoever is told of changes. Keeps its own copy by them, and checks that each of them is one, and news."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.told = 0
        self._newest: dict[Key, int] = {}

    def __call__(self, old: Object | None, new: Object | None) -> None:
        self.told += 1
        known = new if new is not None else old
        assert known is not None
        assert old != new
        key = (known["metadata"].get("namespace", ""), known["metadata"]["name"])
        assert self.objects.get(key) == old
        if new is None:
            del self.objects[key]
        else:
            self.objects[key] = new
            version = int(new["metadata"].get("resourceVersion", self.told))
            assert version > self._newest.get(key, -1)
            self._newest[key] = version


# The bookkeeping alone


def thing(name: str, uid: int, version: int) -> Object:
    return {"metadata": {"name": name, "uid": str(uid), "resourceVersion": str(version)}}


class Past:
    """A history: what was done to three objects, one version for each."""

    def __init__(self, names: Iterable[str]) -> None:
        self.events: list[Object] = []
        self.states: list[dict[Key, Object]] = [{}]
        uids: dict[str, int] = {}
        for version, step in enumerate(names, 1):
            name, end = step[0], step.isupper()
            state, key = dict(self.states[-1]), ("", name.lower())
            there = key in state
            if not there:
                uids[name.lower()] = version
            found = thing(key[1], uids[name.lower()], version)
            if there and end:
                del state[key]
                self.events.append({"type": "DELETED", "object": found})
            else:
                state[key] = found
                self.events.append({"type": "MODIFIED" if there else "ADDED", "object": found})
            self.states.append(state)

    def __len__(self) -> int:
        return len(self.events)


PASTS = st.lists(st.sampled_from("abcABC"), max_size=30).map(Past)


def garbled(events: list[Object], draw: random.Random) -> list[Object]:
    """With repetitions, news of the past, and neighbours of different names in the wrong order."""
    result: list[Object] = []
    for index, event in enumerate(events):
        result.append(event)
        if draw.random() < 0.3:
            result.append(event)
        if index and draw.random() < 0.3:
            result.append(draw.choice(events[:index]))
        if len(result) > 1 and draw.random() < 0.3 and name_of(result[-1]) != name_of(result[-2]):
            result[-2:] = reversed(result[-2:])
    return result


def name_of(event: Object) -> str:
    return str(event["object"]["metadata"]["name"])


@given(PASTS, st.randoms(use_true_random=False), st.data())
def test_any_mixture_of_lists_and_garbled_watches_ends_in_the_truth(
    past: Past, draw: random.Random, data: st.DataObject
) -> None:
    ledger = Ledger()
    replica = Replica(ledger)
    vouched = 0
    for at in [*sorted(data.draw(st.lists(st.integers(0, len(past)), max_size=6))), len(past)]:
        if data.draw(st.booleans(), "list") or not vouched:
            replica.settle(replica.draft(past.states[at].values()), str(at))
            vouched = at
        else:
            heard = garbled(past.events[vouched:at], draw)
            cut = data.draw(st.integers(0, len(heard)), "cut")
            for event in heard[:cut]:
                replica.apply(event)
            if cut == len(heard) and data.draw(st.booleans(), "bookmark"):
                vouched = at
    for event in past.events[vouched:]:
        replica.apply(event)
    assert replica.objects == past.states[-1]
    assert ledger.objects == past.states[-1]


@given(PASTS)
def test_an_orderly_history_is_told_once_step_by_step(past: Past) -> None:
    ledger = Ledger()
    replica = Replica(ledger)
    for event, state in zip(past.events, past.states[1:], strict=True):
        replica.apply(event)
        assert replica.objects == state
    assert ledger.told == len(past)


def test_a_list_tells_only_what_differs() -> None:
    ledger = Ledger()
    replica = Replica(ledger)
    replica.settle(replica.draft([thing("a", 1, 1), thing("b", 2, 2)]), "2")
    replica.settle(replica.draft([thing("a", 1, 1), thing("b", 2, 2)]), "3")
    assert ledger.told == 2
    replica.settle(replica.draft([thing("a", 1, 4), thing("c", 5, 5)]), "5")
    assert ledger.told == 5
    assert set(replica.objects) == {("", "a"), ("", "c")}


def test_another_object_of_the_same_name_is_not_the_old_one_changed() -> None:
    told: list[tuple[Any, Any]] = []
    replica = Replica(lambda old, new: told.append((old and old["metadata"]["uid"], new and new["metadata"]["uid"])))
    replica.settle(replica.draft([thing("a", 1, 1)]), "1")
    replica.settle(replica.draft([thing("a", 2, 5)]), "5")
    assert told == [(None, "1"), ("1", None), (None, "2")]


def test_changes_in_what_is_not_kept_are_not_told() -> None:
    ledger = Ledger()
    replica = Replica(ledger, trim=lambda found: {"metadata": {"name": found["metadata"]["name"]}})
    for version in range(1, 4):
        replica.apply({"type": "MODIFIED", "object": thing("a", 1, version)})
    replica.settle(replica.draft([thing("a", 1, 9)]), "9")
    assert ledger.told == 1
    replica.apply({"type": "MODIFIED", "object": thing("a", 1, 3)})
    assert replica.objects == {("", "a"): {"metadata": {"name": "a"}}}


def test_a_deletion_under_the_last_version_counts() -> None:
    replica = Replica()
    replica.apply({"type": "ADDED", "object": thing("a", 1, 1)})
    replica.apply({"type": "DELETED", "object": thing("a", 1, 1)})
    assert replica.objects == {}


def test_not_all_that_ever_was_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "GRAVES", 10)
    replica = Replica()
    for version in range(1, 100, 2):
        replica.apply({"type": "ADDED", "object": thing(f"a{version}", version, version)})
        replica.apply({"type": "DELETED", "object": thing(f"a{version}", version, version + 1)})
    replica.apply({"type": "ADDED", "object": thing("a99", 99, 99)})  # buried lately
    assert replica.objects == {}
    assert len(replica._graves) == 10


@pytest.mark.parametrize(
    ("one", "other", "older"), [("9", "10", True), ("10", "9", False), ("9", "9", False), ("a", "b", False)]
)
def test_versions_are_numbers_or_not_compared(one: str, other: str, older: bool) -> None:
    assert is_older(one, other) is older


# Against a server


class Watched:
    """A cluster whose config maps are mirrored and, by `play`, changed at random."""

    def __init__(self, cluster: FakeCluster, kube: Kube, **how: Any) -> None:
        self.cluster = cluster
        self.ledger = Ledger()
        self.mirror = Mirror(kube, CONFIGMAPS, changed=self.ledger, **how)
        self._draw = random.Random(7)

    def step(self) -> None:
        name = f"c{self._draw.randrange(12)}"
        found = self.cluster.get(kinds.CONFIGMAPS, name, "default")
        if found is None:
            self.cluster.create(kinds.CONFIGMAPS, config(name), "default")
        elif self._draw.random() < 0.3:
            self.cluster.delete(kinds.CONFIGMAPS, name, "default")
        else:

            def write(item: Object) -> None:
                item["data"] = {"at": str(self._draw.random())}

            self.cluster.api.edit(kinds.CONFIGMAPS, name, "default", write)

    async def play(self, seconds: float, steps_per_second: float = 4.0) -> None:
        end = now() + seconds
        while now() < end:
            self.step()
            await asyncio.sleep(self._draw.expovariate(steps_per_second))

    @property
    def is_true(self) -> bool:
        stored = {("default", item["metadata"]["name"]): item for item in self.cluster.all(kinds.CONFIGMAPS)}
        return stored == self.mirror.objects == self.ledger.objects

    @property
    def watches(self) -> int:
        return sum(call.verb == "watch" for call in self.cluster.log)

    @property
    def lists(self) -> int:
        return sum(call.verb == "list" for call in self.cluster.log)


class Silence:
    """A connection that stands and brings nothing."""

    def send(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def cut(self) -> None: ...


@asynccontextmanager
async def watched(**how: Any) -> AsyncIterator[Watched]:
    async with clustered() as (cluster, kube):
        seen = Watched(cluster, kube, **how)
        async with running(seen.mirror.run()):
            yield seen


@pytest.mark.looptime
async def test_what_is_there_and_what_comes_is_seen_at_once() -> None:
    async with watched() as seen:
        assert not seen.mirror.synced.is_set()
        await seen.mirror.synced.wait()
        for _ in range(50):
            seen.step()
            await until(lambda: seen.is_true, within=0.1)
        assert seen.mirror.error is None
        assert (seen.lists, seen.watches) == (1, 1)


@pytest.mark.looptime
async def test_a_selection_is_seen_and_nothing_else() -> None:
    async with watched(namespace="default", labels="team=ours") as seen:
        await seen.mirror.synced.wait()
        for name, team in (("a", "ours"), ("b", "theirs")):
            body = {"metadata": {"name": name, "labels": {"team": team}}}
            seen.cluster.create(kinds.CONFIGMAPS, body, "default")
        await until(lambda: seen.mirror.objects)
        assert set(seen.mirror.objects) == {("default", "a")}

        def leave(item: Object) -> None:
            item["metadata"]["labels"]["team"] = "theirs"

        seen.cluster.api.edit(kinds.CONFIGMAPS, "a", "default", leave)
        await until(lambda: not seen.mirror.objects)


@pytest.mark.looptime
async def test_watches_that_end_as_they_should_are_begun_again_without_a_list() -> None:
    async with watched() as seen:
        await seen.play(600.0, steps_per_second=1.0)
        await until(lambda: seen.is_true)
        assert seen.lists == 1
        assert 12 <= seen.watches <= 17


@pytest.mark.looptime
async def test_a_server_without_bookmarks_is_followed_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "bookmark", lambda self, **_: None)
    async with clustered(history=30) as (cluster, kube):
        seen = Watched(cluster, kube)
        async with running(seen.mirror.run()):
            await seen.play(600.0, steps_per_second=0.5)
            await until(lambda: seen.is_true)
            assert seen.lists == 1


@pytest.mark.looptime
async def test_a_quiet_hour_costs_a_watch_a_minute() -> None:
    async with watched() as seen:
        await asyncio.sleep(3600.0)
        assert seen.lists == 1
        assert seen.watches <= 95


@pytest.mark.looptime
async def test_a_version_that_is_too_old_means_a_list() -> None:
    async with watched() as seen:
        for _ in range(3):
            await seen.play(10.0)
            async with seen.cluster.outage():
                await seen.play(10.0)
                seen.cluster.compact()
            await until(lambda: seen.is_true)
        assert seen.lists == 4


@pytest.mark.looptime
async def test_a_list_whose_rest_has_expired_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAGE", 2)
    async with clustered() as (cluster, kube):
        for number in range(6):
            cluster.create(kinds.CONFIGMAPS, config(f"c{number}"), "default")
        cluster.faults.add(Fault.SLOW, verb="list", delay=1.0)
        asyncio.get_running_loop().call_later(1.5, cluster.compact)
        seen = Watched(cluster, kube)
        async with running(seen.mirror.run()):
            await seen.mirror.synced.wait()
            assert seen.is_true
            assert seen.ledger.told == 6


@pytest.mark.looptime
async def test_a_watch_that_is_silently_dead_is_noticed_within_a_minute() -> None:
    async with watched() as seen:
        await seen.mirror.synced.wait()
        for quiet in (0.0, 7.0, 33.0):
            await asyncio.sleep(quiet)
            for open_watch in seen.cluster.front.watches:
                open_watch._stream = Silence()
            died = now()
            seen.step()
            await asyncio.sleep(1.0)
            assert not seen.is_true
            await until(lambda: seen.is_true)
            assert now() - died <= 60.0


@pytest.mark.looptime
@pytest.mark.parametrize("seed", range(3))
async def test_ten_minutes_of_everything_at_once_end_in_the_truth(seed: int) -> None:
    async with clustered(seed=seed, history=100) as (cluster, kube):
        seen = Watched(cluster, kube)
        wrong = cluster.faults.watches
        wrong.cut_every, wrong.duplicate, wrong.stale, wrong.reorder = 5.0, 0.2, 0.2, 0.2
        for fault in (Fault.ERROR, Fault.LIMITED, Fault.RESET):
            cluster.faults.add(fault, rate=0.1)
        async with running(seen.mirror.run()):
            for minute in range(10):
                await seen.play(25.0, steps_per_second=3.0)
                if minute % 3 == seed % 3:
                    async with cluster.outage():
                        await seen.play(35.0, steps_per_second=2.0)
                else:
                    await seen.play(35.0, steps_per_second=2.0)
            cluster.faults.clear()
            await until(lambda: seen.is_true)
        assert seen.watches > 60


@pytest.mark.looptime
async def test_who_cannot_watch_asks_ever_less_often_and_says_why() -> None:
    async with clustered() as (cluster, kube):
        seen = Watched(cluster, kube)
        cluster.faults.add(Fault.FORBIDDEN, verb="watch")
        async with running(seen.mirror.run()):
            await asyncio.sleep(600.0)
            assert seen.mirror.error is not None
            assert seen.mirror.error.forbidden
            assert len(cluster.log) < 100
            before = now()
            cluster.faults.clear()
            seen.step()
            await until(lambda: seen.is_true)
            assert now() - before <= 31.0
            assert seen.mirror.error is None


@pytest.mark.looptime
async def test_a_refused_connection_does_not_mean_a_list() -> None:
    async with watched() as seen:
        await seen.play(5.0)
        async with seen.cluster.outage():
            await seen.play(120.0)
            assert seen.mirror.error is not None
        await until(lambda: seen.is_true, within=31.0)
        assert seen.lists == 1


@pytest.mark.looptime
async def test_a_version_that_is_refused_again_and_again_is_given_up() -> None:
    async with watched() as seen:
        await seen.play(10.0)
        seen.cluster.faults.add(Fault.ERROR, verb="watch", count=3)
        for open_watch in list(seen.cluster.front.watches):
            open_watch.cut()
        seen.step()
        await until(lambda: seen.is_true)
        assert seen.lists == 2


@pytest.mark.looptime
async def test_a_server_that_ends_every_watch_at_once_is_not_overrun() -> None:
    async with watched() as seen:
        await seen.mirror.synced.wait()

        async def end_all() -> None:
            while True:
                for open_watch in list(seen.cluster.front.watches):
                    open_watch.finish()
                await asyncio.sleep(0.05)

        async with running(end_all()):
            await asyncio.sleep(60.0)
        assert seen.watches < 20


async def test_its_error_is_that_of_the_api() -> None:
    async with clustered() as (_, kube):
        mirror = Mirror(kube, SERVICES)
        async with running(mirror.run()):
            await until(lambda: mirror.error)
        assert isinstance(mirror.error, ApiError)
        assert mirror.error.missing
        assert not mirror.synced.is_set()
