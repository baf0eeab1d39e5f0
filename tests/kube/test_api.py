"""The API client against a server that refuses, fails, forgets and falls silent. Times are virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from itertools import pairwise

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kube import kinds
from tests.kube.fake import FakeCluster
from tests.kube.faults import Fault

from ssis_dispatcher.kube import api
from ssis_dispatcher.kube.api import (
    CONFIGMAPS,
    LEASES,
    NODES,
    PODS,
    ApiError,
    Kube,
    Lines,
    Object,
    retry_in,
)

from .support import clustered, config, now, running, until

pytestmark = pytest.mark.looptime


async def refused(call: Awaitable[object]) -> ApiError:
    """What ``call`` is refused with."""
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value


def verbs(cluster: FakeCluster, verb: str) -> list[float]:
    """When the server saw calls of ``verb``."""
    return [call.at for call in cluster.log if call.verb == verb]


# Objects


async def test_what_is_created_is_found_changed_and_gone_after_its_deletion() -> None:
    async with clustered() as (_, kube):
        born = await kube.create(CONFIGMAPS, {"metadata": {"name": "a"}, "data": {"x": "1"}}, "default")
        assert await kube.get(CONFIGMAPS, "a") == born
        grown = await kube.patch(CONFIGMAPS, "a", {"data": {"y": "2"}})
        assert grown["data"] == {"x": "1", "y": "2"}
        shrunk = await kube.patch(CONFIGMAPS, "a", {"data": {"x": None}})
        assert shrunk["data"] == {"y": "2"}
        kept = await kube.replace(CONFIGMAPS, {**shrunk, "data": {"z": "3"}})
        assert kept["data"] == {"z": "3"}
        await kube.delete(CONFIGMAPS, "a", uid=born["metadata"]["uid"])
        assert (await refused(kube.get(CONFIGMAPS, "a"))).missing
        await kube.delete(CONFIGMAPS, "a")  # no error


async def test_the_status_is_written_apart_from_the_rest() -> None:
    async with clustered() as (cluster, kube):
        cluster.create(kinds.NODES, {"metadata": {"name": "n"}})
        node = await kube.patch(NODES, "n", {"status": {"allocatable": {"cpu": "4"}}}, status=True)
        assert node["status"]["allocatable"] == {"cpu": "4"}
        node["status"]["allocatable"] = {"cpu": "5"}
        await kube.replace(NODES, node, status=True)
        assert (await kube.get(NODES, "n"))["status"]["allocatable"] == {"cpu": "5"}


async def test_an_object_without_a_version_is_not_replaced() -> None:
    async with clustered() as (cluster, kube):
        with pytest.raises(ValueError, match="version"):
            await kube.replace(CONFIGMAPS, config("a"))
        assert cluster.log == []


async def test_a_deletion_of_one_object_spares_another_of_its_name() -> None:
    async with clustered() as (_, kube):
        await kube.create(CONFIGMAPS, config("a"))
        await kube.delete(CONFIGMAPS, "a", uid="somebody-else")
        assert await kube.get(CONFIGMAPS, "a")


async def test_a_conflict_of_a_deletion_that_is_none_of_uids_is_told() -> None:
    async with clustered() as (cluster, kube):
        born = await kube.create(CONFIGMAPS, config("a"))
        cluster.faults.add(Fault.CONFLICT, verb="delete", count=1)
        assert (await refused(kube.delete(CONFIGMAPS, "a", uid=born["metadata"]["uid"]))).conflict


async def test_refusals_carry_the_words_of_the_api() -> None:
    async with clustered() as (cluster, kube):
        await kube.create(CONFIGMAPS, config("a"))
        old = await kube.get(CONFIGMAPS, "a")
        await kube.patch(CONFIGMAPS, "a", {"data": {"x": "1"}})
        taken = await refused(kube.create(CONFIGMAPS, config("a")))
        assert (taken.exists, taken.conflict, taken.reason) == (True, False, "AlreadyExists")
        stale = await refused(kube.replace(CONFIGMAPS, old))
        assert (stale.exists, stale.conflict, stale.transient) == (False, True, False)
        invalid = await refused(kube.create(CONFIGMAPS, config("Not A Name")))
        assert invalid.invalid
        assert "Not A Name" in invalid.message
        cluster.faults.add(Fault.FORBIDDEN, verb="list")
        forbidden = await refused(kube.list(PODS, "models"))
        assert (forbidden.forbidden, forbidden.transient) == (True, False)
        assert 'cannot list resource "pods"' in forbidden.message


async def test_logs_and_version_are_read() -> None:
    async with clustered() as (cluster, kube):
        assert await kube.version() == "1.36"
        cluster.front.release = "v1.34.1+k3s1"
        assert await kube.version() == "1.34"
        assert (await refused(kube.logs("default", "nobody", "main"))).missing


# Lists


async def test_a_list_is_followed_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAGE", 7)
    async with clustered(namespaces=("elsewhere",)) as (cluster, kube):
        for number in range(20):
            cluster.create(kinds.CONFIGMAPS, config(f"c{number:02}"), "default")
        cluster.create(kinds.CONFIGMAPS, config("other"), "elsewhere")
        everywhere, version = await kube.list(CONFIGMAPS)
        assert len(everywhere) == 21
        assert version == str(cluster.api.store.version)
        assert all(found["kind"] == "ConfigMap" and found["apiVersion"] == "v1" for found in everywhere)
        here, _ = await kube.list(CONFIGMAPS, "default")
        assert [found["metadata"]["name"] for found in here] == [f"c{number:02}" for number in range(20)]
        one, _ = await kube.list(CONFIGMAPS, fields="metadata.name=c03")
        assert len(one) == 1


async def test_a_list_whose_rest_has_expired_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAGE", 7)
    async with clustered() as (cluster, kube):
        for number in range(20):
            cluster.create(kinds.CONFIGMAPS, config(f"c{number:02}"), "default")
        cluster.faults.add(Fault.SLOW, verb="list", delay=1.0)
        asyncio.get_running_loop().call_later(1.5, cluster.compact)  # while the second page is under way
        found, _ = await kube.list(CONFIGMAPS)
        assert len(found) == len({found["metadata"]["name"] for found in found}) == 20
        assert len(verbs(cluster, "list")) == 3


# Waiting and retrying


@pytest.mark.parametrize("fault", [Fault.LIMITED, Fault.UNAVAILABLE])
@pytest.mark.parametrize("verb", ["get", "create", "patch", "delete", "list"])
async def test_who_is_told_to_come_again_does_so_neither_sooner_nor_much_later(fault: Fault, verb: str) -> None:
    async with clustered() as (cluster, kube):
        cluster.create(kinds.CONFIGMAPS, config("a"), "default")
        cluster.faults.add(fault, verb=verb, count=3, retry_after=3)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "get": lambda: kube.get(CONFIGMAPS, "a"),
            "create": lambda: kube.create(CONFIGMAPS, config("b")),
            "patch": lambda: kube.patch(CONFIGMAPS, "a", {"data": {"x": "1"}}),
            "delete": lambda: kube.delete(CONFIGMAPS, "a"),
            "list": lambda: kube.list(CONFIGMAPS),
        }
        await calls[verb]()
        gaps = [after - before for before, after in pairwise(verbs(cluster, verb))]
        assert len(gaps) == 3
        assert all(3.0 <= gap <= 3.6 for gap in gaps)


async def test_a_wait_that_is_longer_than_the_callers_patience_is_told_at_once() -> None:
    async with clustered() as (cluster, kube):
        cluster.faults.add(Fault.LIMITED, retry_after=120)
        began = now()
        error = await refused(kube.get(CONFIGMAPS, "a", patience=30.0))
        assert (error.limited, error.retry_after) == (True, 120.0)
        assert now() - began < 1.0


async def test_while_limited_no_more_than_five_calls_a_second_are_made() -> None:
    async with clustered() as (cluster, kube):
        cluster.create(kinds.CONFIGMAPS, config("a"), "default")
        with cluster.faults.add(Fault.LIMITED, count=1):
            await kube.get(CONFIGMAPS, "a")
        began = len(cluster.log)
        await asyncio.gather(*(kube.get(CONFIGMAPS, "a") for _ in range(30)), refused(kube.get(LEASES, "none")))
        times = [call.at for call in cluster.log[began:]]
        assert max(sum(at <= other < at + 1.0 for other in times) for at in times) <= 5
        assert len(times) == 31


async def test_a_lease_does_not_wait_behind_others() -> None:
    async with clustered() as (cluster, kube):
        with cluster.faults.add(Fault.LIMITED, count=1):
            await refused(kube.get(CONFIGMAPS, "a"))
        async with running(*(kube.list(CONFIGMAPS) for _ in range(40))):
            began = now()
            await refused(kube.get(LEASES, "none"))
            assert now() - began < 0.1


async def test_after_the_limit_calls_are_as_quick_as_before() -> None:
    async with clustered() as (cluster, kube):
        with cluster.faults.add(Fault.LIMITED, count=1):
            await kube.list(CONFIGMAPS)
        await asyncio.sleep(12.0)
        began = now()
        await asyncio.gather(*(kube.list(CONFIGMAPS) for _ in range(20)))
        assert now() - began < 0.1


async def test_reads_and_deletions_outlast_failures() -> None:
    async with clustered() as (cluster, kube):
        for number in range(20):
            cluster.create(kinds.CONFIGMAPS, config(f"c{number}"), "default")
        for fault in (Fault.ERROR, Fault.RESET, Fault.TIMEOUT, Fault.LOST):
            cluster.faults.add(fault, rate=0.1)
        for number in range(20):
            assert await kube.get(CONFIGMAPS, f"c{number}", patience=300.0)
            assert await kube.list(CONFIGMAPS, patience=300.0)
            await kube.delete(CONFIGMAPS, f"c{number}", patience=300.0)
        assert cluster.all(kinds.CONFIGMAPS, "default") == []
        assert len(cluster.log) > 70  # it did fail


async def test_a_call_ends_when_its_patience_does() -> None:
    async with clustered() as (cluster, kube):
        cluster.faults.add(Fault.ERROR)
        began = now()
        error = await refused(kube.list(CONFIGMAPS, patience=20.0))
        assert (error.status, error.transient) == (500, True)
        assert 5.0 < now() - began <= 20.0
        assert "etcdserver: leader changed" in error.message


def test_failures_are_retried_ever_later_but_at_least_twice_a_minute() -> None:
    broken = ApiError(500, "InternalError", "")
    waits = [retry_in(broken, attempt, repeatable=True) or 0.0 for attempt in range(2000)]
    assert 0.1 < waits[0] <= 0.25
    assert waits[6] > 7.0
    assert 15.0 <= waits[-1] <= max(waits) <= 30.0
    assert retry_in(broken, 0, repeatable=False) is None
    assert retry_in(ApiError(403, "Forbidden", ""), 0, repeatable=True) is None


@pytest.mark.parametrize("fault", [Fault.DONE_TIMEOUT, Fault.DONE_LOST, Fault.DONE_RESET])
async def test_a_create_that_happened_without_an_answer_is_not_made_twice(fault: Fault) -> None:
    async with clustered() as (cluster, kube):
        cluster.faults.add(fault, verb="create", count=1)
        error = await refused(kube.create(CONFIGMAPS, config("a", x="1")))
        assert error.transient  # so the caller looks
        assert (await kube.get(CONFIGMAPS, "a"))["data"] == {"x": "1"}
        assert len(verbs(cluster, "create")) == 1


@pytest.mark.parametrize("fault", [Fault.DONE_TIMEOUT, Fault.DONE_LOST, Fault.DONE_RESET])
async def test_a_deletion_that_happened_without_an_answer_succeeds(fault: Fault) -> None:
    async with clustered() as (cluster, kube):
        born = await kube.create(CONFIGMAPS, config("a"))
        cluster.faults.add(fault, verb="delete", count=1)
        await kube.delete(CONFIGMAPS, "a", uid=born["metadata"]["uid"])
        assert cluster.get(kinds.CONFIGMAPS, "a", "default") is None


async def test_a_server_that_does_not_answer_costs_ten_seconds() -> None:
    async with clustered() as (cluster, kube):
        cluster.faults.add(Fault.LOST)
        began = now()
        error = await refused(kube.get(CONFIGMAPS, "a", patience=0.0))
        assert (error.status, error.reason, error.transient) == (0, "Timeout", True)
        assert now() - began == pytest.approx(10.0, abs=0.1)
        assert not kube.reachable


async def test_reachable_says_whether_the_server_answers() -> None:
    async with clustered() as (cluster, kube):
        assert not kube.reachable
        await refused(kube.get(CONFIGMAPS, "a"))
        assert kube.reachable  # 404 is an answer
        async with cluster.outage():
            error = await refused(kube.get(CONFIGMAPS, "a", patience=3.0))
            assert (error.status, error.reason) == (0, "Unreachable")
            assert not kube.reachable
        await refused(kube.get(CONFIGMAPS, "a"))
        assert kube.reachable


async def test_a_slow_failure_does_not_outweigh_a_later_answer() -> None:
    async with clustered() as (cluster, kube):
        cluster.faults.add(Fault.LOST, resource="pods")
        async with running(refused(kube.list(PODS, patience=0.0))) as (slow,):
            await asyncio.sleep(5.0)
            await kube.list(CONFIGMAPS)
            await slow
        assert kube.reachable


# Fencing


async def test_who_may_not_write_any_more_does_not_even_when_a_write_is_under_way() -> None:
    async with clustered() as (cluster, kube):
        may = True
        kube.fence = lambda: may
        born = await kube.create(CONFIGMAPS, config("a"))
        cluster.faults.add(Fault.LIMITED, verb="create", count=1, retry_after=5)
        async with running(refused(kube.create(CONFIGMAPS, config("b")))) as (late,):
            await asyncio.sleep(2.0)
            may = False
            error = await late
        assert isinstance(error, ApiError)
        assert error.fenced
        assert not error.transient
        for call in (
            kube.replace(CONFIGMAPS, born),
            kube.patch(CONFIGMAPS, "a", {}),
            kube.delete(CONFIGMAPS, "a"),
        ):
            assert (await refused(call)).fenced
        assert [call.verb for call in cluster.log] == ["create", "create"]
        assert await kube.get(CONFIGMAPS, "a")  # reading is free
        await kube.create(LEASES, {"metadata": {"name": "l"}, "spec": {}})  # and so are leases, which decide it


# Watches


async def events_of(kube: Kube, version: str, timeout: float = 30.0) -> list[Object]:
    return [event async for event in kube.stream(CONFIGMAPS, version=version, timeout=timeout)]


async def test_a_watch_tells_what_happens_until_its_time_is_up() -> None:
    async with clustered() as (cluster, kube):
        _, version = await kube.list(CONFIGMAPS)
        async with running(events_of(kube, version, timeout=90.0)) as (watch,):
            began = now()
            await until(lambda: cluster.front.watches)
            await kube.create(CONFIGMAPS, config("a"))
            await kube.delete(CONFIGMAPS, "a")
            events = await watch
        assert isinstance(events, list)
        types = [event["type"] for event in events]
        assert types[:2] == ["ADDED", "DELETED"]
        assert set(types[2:]) == {"BOOKMARK"}
        assert now() - began == pytest.approx(90.0, abs=1.0)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_watch_from_too_old_a_version_is_refused(at_once: bool) -> None:
    async with clustered() as (cluster, kube):
        cluster.front.gone_at_once = at_once
        _, version = await kube.list(CONFIGMAPS)
        await kube.create(CONFIGMAPS, config("a"))
        cluster.compact()
        error = await refused(events_of(kube, version))
        assert error.gone
        assert not error.transient


async def test_a_watch_that_breaks_says_so() -> None:
    async with clustered() as (cluster, kube):
        cluster.faults.watches.cut_every = 5.0
        _, version = await kube.list(CONFIGMAPS)
        error = await refused(events_of(kube, version))
        assert (error.status, error.transient) == (0, True)


async def test_a_watch_that_is_dead_is_noticed() -> None:
    async with clustered() as (cluster, kube):
        cluster.faults.watches.deaf = True
        _, version = await kube.list(CONFIGMAPS)
        began = now()
        error = await refused(events_of(kube, version, timeout=50.0))
        assert (error.status, error.reason) == (0, "Timeout")
        assert now() - began <= 60.0
        assert not kube.reachable


async def test_a_watch_that_is_left_is_closed() -> None:
    async with clustered() as (cluster, kube):
        await kube.create(CONFIGMAPS, config("a"))
        async with aclosing(kube.stream(CONFIGMAPS, version="1", timeout=30.0)) as events:
            async for event in events:
                assert event["object"]["metadata"]["name"] == "a"
                break
        await until(lambda: not cluster.front.watches)


async def test_many_watches_leave_room_for_calls() -> None:
    async with clustered() as (cluster, kube), running(*(events_of(kube, "1", timeout=600.0) for _ in range(40))):
        await until(lambda: len(cluster.front.watches) == 40)
        began = now()
        await asyncio.gather(*(kube.list(PODS) for _ in range(40)))
        assert now() - began < 1.0


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line and line.strip())), st.data())
def test_lines_are_found_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines) + b"rest"
    edges = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    reader, found = Lines(), []
    for begin, end in pairwise([0, *edges, len(stream)]):
        found += reader.feed(stream[begin:end])
    assert found == lines
    assert reader.rest == b"rest"


# What only other servers say


async def test_a_watch_that_talks_nonsense_is_dropped() -> None:
    async def say(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=request.url.params["resourceVersion"].encode())

    kube = Kube.at("http://127.0.0.1:9")
    kube._client = httpx2.AsyncClient(base_url="http://127.0.0.1:9", transport=httpx2.MockTransport(say))
    for line in ("<html>\n", '{"type": "ADDED"}\n', '{"type":"ADDED","object":{}}', '{"type":"ERROR","object":3}\n'):
        error = await refused(events_of(kube, line))
        assert error.transient
    await kube.close()


async def test_a_list_that_is_none_is_an_error() -> None:
    kube = Kube.at("http://127.0.0.1:9")
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, html="<html>Sign in</html>"))
    kube._client = httpx2.AsyncClient(base_url="http://127.0.0.1:9", transport=transport)
    assert (await refused(kube.list(PODS, patience=0.0))).reason == "Malformed"
    assert (await refused(kube.create(PODS, {"metadata": {"name": "a"}}))).transient
    await kube.close()
