"""Nodes, pods and Knative Services of the fake in the long run, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.kube.fake import FakeCluster
from tests.kube.kinds import NAMESPACES, NODES, PODS, QUOTAS, REVISIONS, SERVICES
from tests.kube.store import Json

pytestmark = pytest.mark.looptime

SLICE = "nvidia.com/mig-1g.5gb"


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(namespaces=("models",)) as cluster:
        yield cluster


def launch(cluster: FakeCluster, name: str, *, deadline: str = "60s", limits: Json | None = None) -> None:
    resources = {"limits": limits or {SLICE: "1"}}
    container = {"image": f"example.com/{name}:1", "resources": resources}
    metadata = {"annotations": {"serving.knative.dev/progress-deadline": deadline}}
    template = {"metadata": metadata, "spec": {"timeoutSeconds": 600, "containers": [container]}}
    cluster.create(SERVICES, {"metadata": {"name": name}, "spec": {"template": template}}, "models")


def condition(item: Json | None, kind: str = "Ready") -> Json:
    conditions = ((item or {}).get("status") or {}).get("conditions") or ()
    return next((dict(condition) for condition in conditions if condition["type"] == kind), {})


def is_ready(cluster: FakeCluster, name: str) -> bool:
    return condition(cluster.get(SERVICES, name, "models")).get("status") == "True"


def scheduled(cluster: FakeCluster, name: str) -> str:
    """What the scheduler says of a Service's pod."""
    pods = cluster.pods(name)
    return str(condition(pods[0], "PodScheduled").get("message", "")) if pods else ""


def waiting_reason(cluster: FakeCluster, name: str) -> str:
    pods = cluster.pods(name)
    states = pods[0]["status"].get("containerStatuses") or () if pods else ()
    return next((str((state["state"].get("waiting") or {}).get("reason", "")) for state in states), "")


async def test_slices_are_handed_out_once(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 2})
    names = ("one", "two", "three")
    for name in names:
        launch(cluster, name)
    await cluster.until(lambda: sum(is_ready(cluster, name) for name in names) == 2)
    left = next(name for name in names if not is_ready(cluster, name))
    why = scheduled(cluster, left)
    assert why.startswith(f"0/1 nodes are available: 1 Insufficient {SLICE}. no new claims to deallocate, preemption: ")
    assert why.endswith("1 No preemption victims found for incoming pod.")
    assert condition(cluster.get(SERVICES, left, "models"), "ConfigurationsReady")["status"] == "False"
    cluster.delete(SERVICES, next(name for name in names if name != left), "models")
    took = await cluster.until(lambda: is_ready(cluster, left))
    assert 30 < took < 33, "the slice is held while queue-proxy drains"


async def test_words_of_the_scheduler(cluster: FakeCluster) -> None:
    cluster.nodes.add("full", {SLICE: 1}, cpu="1")
    cluster.nodes.add("cordoned", {SLICE: 1})
    cluster.nodes.cordon("cordoned")
    cluster.nodes.add("tainted", {SLICE: 1}, taints=[{"key": "k", "effect": "NoSchedule"}])
    launch(cluster, "big", limits={SLICE: "1", "cpu": "2", "memory": "1Ti"})
    await cluster.until(lambda: scheduled(cluster, "big"))
    assert scheduled(cluster, "big") == (
        "0/3 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 node(s) had untolerated taint(s), "
        "1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/3 nodes are available: "
        "3 Preemption is not helpful for scheduling."
    )
    launch(cluster, "small", limits={SLICE: "1"})
    await cluster.until(lambda: is_ready(cluster, "small"))
    assert cluster.pods("small")[0]["spec"]["nodeName"] == "full"
    cluster.nodes.uncordon("cordoned")
    launch(cluster, "next", limits={SLICE: "1"})
    await cluster.until(lambda: is_ready(cluster, "next"))
    assert cluster.pods("next")[0]["spec"]["nodeName"] == "cordoned"


async def test_pods_without_nodes_wait(cluster: FakeCluster) -> None:
    launch(cluster, "one")
    await cluster.until(lambda: scheduled(cluster, "one"))
    assert scheduled(cluster, "one") == "no nodes available to schedule pods"
    cluster.nodes.add("a", {SLICE: 1})
    await cluster.until(lambda: is_ready(cluster, "one"))


async def test_what_cannot_be_pulled_shows_at_the_pod_first(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 1})
    cluster.behave("example.com/one:*", fail="ErrImagePull", message="not found")
    launch(cluster, "one")
    assert await cluster.until(lambda: waiting_reason(cluster, "one") == "ErrImagePull") < 1
    await cluster.until(lambda: waiting_reason(cluster, "one") == "ImagePullBackOff")
    assert condition(cluster.get(SERVICES, "one", "models"))["status"] == "Unknown"
    took = await cluster.until(lambda: condition(cluster.get(SERVICES, "one", "models"))["status"] == "False")
    assert 55 < took < 61, "Knative says so at the progress deadline, not before"
    revision = condition(cluster.get(REVISIONS, "one-00001", "models"), "ResourcesAvailable")
    assert revision["reason"] in ("ErrImagePull", "ImagePullBackOff")
    await cluster.until(lambda: "deletionTimestamp" in cluster.pods("one")[0]["metadata"])
    await cluster.until(lambda: not cluster.pods("one"))
    await asyncio.sleep(100)
    assert not cluster.pods("one"), "what Knative has given up does not come back"


async def test_a_crash_loop(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 1})
    cluster.behave("*one*", fail="OOMKilled", message="CUDA out of memory", fail_after=2.0, ready_after=5.0)
    launch(cluster, "one")
    await cluster.until(lambda: waiting_reason(cluster, "one") == "CrashLoopBackOff")
    state = cluster.pods("one")[0]["status"]["containerStatuses"][0]
    ended = state["lastState"]["terminated"]
    assert (ended["reason"], ended["exitCode"], ended["message"]) == ("OOMKilled", 137, "CUDA out of memory")
    await cluster.until(lambda: condition(cluster.get(SERVICES, "one", "models"))["status"] == "False")
    healthy = condition(cluster.get(REVISIONS, "one-00001", "models"), "ContainerHealthy")
    assert healthy["reason"] == "ExitCode137"
    assert healthy["message"] == "Container failed with: CUDA out of memory"


async def test_failing_for_a_while(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 1})
    cluster.behave("*one*", fail="Error", times=2)
    launch(cluster, "one")
    took = await cluster.until(lambda: is_ready(cluster, "one"))
    assert 10 < took < 15, "the second restart comes after ten seconds"
    assert cluster.pods("one")[0]["status"]["containerStatuses"][0]["restartCount"] == 2


async def test_a_running_server_crashes_and_comes_back(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 1})
    launch(cluster, "one")
    await cluster.until(lambda: is_ready(cluster, "one"))
    cluster.crash(cluster.pods("one")[0]["metadata"]["name"], "OOMKilled", "out of memory")
    await cluster.until(lambda: condition(cluster.pods("one")[0])["status"] == "False")
    assert is_ready(cluster, "one"), "the Service notices later"
    await cluster.until(lambda: not is_ready(cluster, "one"))
    await cluster.until(lambda: is_ready(cluster, "one"))
    assert cluster.pods("one")[0]["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "OOMKilled"


async def test_an_evicted_pod_is_replaced(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 1})
    launch(cluster, "one")
    await cluster.until(lambda: is_ready(cluster, "one"))
    first = cluster.pods("one")[0]["metadata"]["name"]
    cluster.fail(first, "Evicted", "The node was low on resource: memory.")
    await cluster.until(lambda: len(cluster.pods("one")) == 2)
    old = next(pod for pod in cluster.pods("one") if pod["metadata"]["name"] == first)
    assert (old["status"]["phase"], old["status"]["reason"]) == ("Failed", "Evicted")
    await cluster.until(lambda: any(condition(pod).get("status") == "True" for pod in cluster.pods("one")))


async def test_pods_that_the_kubelet_does_not_admit(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 1})
    cluster.behave("*one*", fail="UnexpectedAdmissionError", message="Allocate failed")
    launch(cluster, "one")
    await cluster.until(lambda: len(cluster.pods("one")) > 3)
    failed = [pod["status"] for pod in cluster.pods("one") if pod["status"]["phase"] == "Failed"]
    assert {(status["reason"], status["message"]) for status in failed} == {
        ("UnexpectedAdmissionError", "Allocate failed")
    }


async def test_a_lost_node_keeps_its_pods_until_it_is_removed(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 1})
    launch(cluster, "one")
    await cluster.until(lambda: is_ready(cluster, "one"))
    cluster.nodes.lose("a")
    assert condition(cluster.pods("one")[0])["status"] == "False"
    await cluster.until(lambda: len(cluster.pods("one")) == 2, within=310)
    await asyncio.sleep(1000)
    assert len(cluster.pods("one")) == 2, "nobody confirms that it has ended"
    cluster.nodes.remove("a")
    await cluster.until(lambda: len(cluster.pods("one")) == 1)


async def test_a_node_is_partitioned_anew(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 1})
    cluster.nodes.resize("a", {"nvidia.com/mig-2g.10gb": 1})
    node = cluster.get(NODES, "a") or {}
    assert node["status"]["allocatable"][SLICE] == "0"
    assert node["metadata"]["labels"]["nvidia.com/mig-2g.10gb.memory"] == "9856"
    launch(cluster, "one")
    launch(cluster, "two", limits={"nvidia.com/mig-2g.10gb": "1"})
    await cluster.until(lambda: is_ready(cluster, "two"))
    assert not is_ready(cluster, "one")


async def test_a_quota_shows_at_the_revision(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 2})
    hard = {f"requests.{SLICE}": "1"}
    cluster.create(QUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": hard}}, "models")
    launch(cluster, "one")
    await cluster.until(lambda: is_ready(cluster, "one"))
    launch(cluster, "two")
    await cluster.until(
        lambda: condition(cluster.get(REVISIONS, "two-00001", "models"), "ResourcesAvailable").get("status") == "False"
    )
    why = condition(cluster.get(REVISIONS, "two-00001", "models"), "ResourcesAvailable")
    assert why["reason"] == "FailedCreate"
    assert (
        f"exceeded quota: q, requested: requests.{SLICE}=1, used: requests.{SLICE}=1, limited: requests.{SLICE}=1"
        in why["message"]
    )
    assert not cluster.pods("two")


async def test_an_edited_service_gets_a_second_revision_and_needs_a_second_slice(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 1})
    launch(cluster, "one")
    await cluster.until(lambda: is_ready(cluster, "one"))

    def edit(item: Json) -> None:
        item["spec"]["template"]["spec"]["containers"][0]["image"] = "example.com/other:1"

    cluster.edit(SERVICES, "one", "models", edit)
    await cluster.until(lambda: len(cluster.pods("one")) == 2)
    await cluster.until(lambda: not is_ready(cluster, "one"))
    assert condition(cluster.get(REVISIONS, "one-00002", "models"), "ResourcesAvailable").get("reason") != "Ready"
    cluster.nodes.resize("a", {SLICE: 2})
    await cluster.until(lambda: is_ready(cluster, "one"))
    await cluster.until(lambda: len(cluster.pods("one")) == 1, within=700)


async def test_what_is_told_of_a_pod_is_on_the_loops_clock(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 1})
    cluster.behave("*", ready_after=3600.0)
    launch(cluster, "one", deadline="2h")
    assert 3600 < await cluster.until(lambda: is_ready(cluster, "one"), within=4000) < 3602


async def test_namespaces_go_with_all_that_is_in_them(cluster: FakeCluster) -> None:
    cluster.nodes.add("a", {SLICE: 1})
    launch(cluster, "one")
    await cluster.until(lambda: is_ready(cluster, "one"))
    cluster.delete(NAMESPACES, "models")
    assert (cluster.get(NAMESPACES, "models") or {})["status"]["phase"] == "Terminating"
    await cluster.until(lambda: cluster.get(NAMESPACES, "models") is None)
    assert not cluster.all(PODS)
