"""The contract of `test_contract.py`, for pods: the scheduler, the kubelet, logs, quotas."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.kube.asking import MERGE, Json, Server, condition, eventually, gone, refused

NOBODY_HAS = "example.com/nothing"


def pod(name: str = "p", **spec: Any) -> Json:
    resources = {"limits": {NOBODY_HAS: "1"}}
    container = {"name": "c", "image": "example.com/none:1", "resources": resources}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]} | spec}


async def test_a_pod_that_fits_nowhere_waits_and_says_why(server: Server) -> None:
    made = (await server.http.post(server.path("pods"), json=pod(terminationGracePeriodSeconds=5))).json()
    assert made["status"]["phase"] == "Pending"
    assert made["metadata"]["generation"] == 1
    assert made["spec"]["containers"][0]["resources"]["requests"] == {NOBODY_HAS: "1"}
    path = server.path("pods", "p")
    waiting = await eventually(server, path, lambda item: condition(item, "PodScheduled"))
    scheduled = condition(waiting, "PodScheduled")
    assert (scheduled["status"], scheduled["reason"]) == ("False", "Unschedulable")
    said = (
        rf"0/(\d+) nodes are available: \1 Insufficient {NOBODY_HAS}. no new claims to deallocate, "
        r"preemption: 0/\1 nodes are available: \1 Preemption is not helpful for scheduling."
    )
    assert re.fullmatch(said, scheduled["message"]), scheduled["message"]
    events = (await server.http.get(server.path("events"), params={"fieldSelector": "involvedObject.name=p"})).json()
    assert ("FailedScheduling", scheduled["message"]) in [(e["reason"], e["message"]) for e in events["items"]]
    assert (await server.http.get(f"{path}/log")).status_code == 204
    refused(
        await server.http.get(f"{path}/log", params={"container": "x"}),
        400,
        "BadRequest",
        "container x is not valid for pod p",
    )
    gone = (await server.http.delete(path)).json()
    assert gone["kind"] == "Pod"
    assert gone["metadata"]["deletionGracePeriodSeconds"] == 0
    refused(await server.http.get(path), 404, "NotFound")


async def test_a_pod_that_belongs_elsewhere_waits(server: Server) -> None:
    body = pod(nodeSelector={"example.com/nowhere": "true"})
    await server.http.post(server.path("pods"), json=body)
    waiting = await eventually(server, server.path("pods", "p"), lambda item: condition(item, "PodScheduled"))
    assert re.match(
        r"0/\d+ nodes are available: \d+ node\(s\) didn't match Pod's node affinity/selector. ",
        condition(waiting, "PodScheduled")["message"],
    )


async def test_pods_that_make_no_sense_are_invalid(server: Server) -> None:
    refused(
        await server.http.post(server.path("pods"), json=pod() | {"spec": {}}),
        422,
        "Invalid",
        "spec.containers: Required value",
    )
    body = pod()
    body["spec"]["containers"][0]["resources"] = {"requests": {NOBODY_HAS: "1"}}
    refused(
        await server.http.post(server.path("pods"), json=body),
        422,
        "Invalid",
        "Limit must be set for non overcommitable",
    )
    refused(await server.http.get(server.path("pods", "p/log")), 404, "NotFound", '^pods "p" not found$')


async def test_pods_are_selected_by_phase_and_node(server: Server) -> None:
    await server.http.post(server.path("pods"), json=pod())
    for selector, count in (
        ("status.phase!=Succeeded,status.phase!=Failed", 1),
        ("status.phase=Running", 0),
        ("spec.nodeName=", 1),
        ("spec.nodeName!=", 0),
    ):
        body = (await server.http.get(server.path("pods"), params={"fieldSelector": selector})).json()
        assert len(body["items"]) == count, selector


async def test_a_status_is_changed_by_itself(server: Server) -> None:
    await server.http.post(server.path("pods"), json=pod())
    path = server.path("pods", "p")
    await eventually(server, path, lambda item: condition(item, "PodScheduled"))
    patch = {"status": {"message": "said by a test"}}
    plain = (await server.http.patch(path, json=patch, headers=MERGE)).json()
    assert "message" not in plain["status"]
    patched = (await server.http.patch(f"{path}/status", json=patch, headers=MERGE)).json()
    assert patched["status"]["message"] == "said by a test"
    assert patched["metadata"]["generation"] == 1


async def test_a_quota_is_kept(server: Server) -> None:
    hard = {"pods": "0", f"requests.{NOBODY_HAS}": "0", "count/configmaps": "100"}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}}
    await server.http.post(server.path("resourcequotas"), json=quota)
    await eventually(server, server.path("resourcequotas", "q"), lambda item: (item.get("status") or {}).get("used"))
    reply = await server.http.post(server.path("pods"), json=pod())
    message = (
        rf'^pods "p" is forbidden: exceeded quota: q, requested: pods=1,requests.{NOBODY_HAS}=1, '
        rf"used: pods=0,requests.{NOBODY_HAS}=0, limited: pods=0,requests.{NOBODY_HAS}=0$"
    )
    refused(reply, 403, "Forbidden", message)


async def test_a_pod_lives_and_dies(server: Server) -> None:
    if not server.image:
        pytest.skip("no image to run: set KUBE_CONTRACT_IMAGE")
    container = {"name": "c", "image": server.image, "env": [{"name": "PORT", "value": "8080"}]}
    await server.http.post(server.path("pods"), json=pod(containers=[container]))
    path = server.path("pods", "p")
    running = await eventually(server, path, lambda item: condition(item, "Ready").get("status") == "True")
    assert running["status"]["phase"] == "Running"
    state = running["status"]["containerStatuses"][0]
    assert (state["name"], state["ready"], state["started"], state["restartCount"]) == ("c", True, True, 0)
    assert list(state["state"]) == ["running"]
    assert state["lastState"] == {}
    going = (await server.http.delete(path, params={"gracePeriodSeconds": "1"})).json()
    assert going["metadata"]["deletionGracePeriodSeconds"] == 1
    assert going["metadata"]["deletionTimestamp"]
    assert going["status"]["phase"] == "Running"
    await gone(server, path)


async def test_a_pod_waits_for_its_secret(server: Server) -> None:
    if not server.image:
        pytest.skip("no image to run: set KUBE_CONTRACT_IMAGE")
    wanted = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "later", "key": "token"}}}
    container = {"name": "c", "image": server.image, "env": [wanted]}
    await server.http.post(server.path("pods"), json=pod(containers=[container], terminationGracePeriodSeconds=1))
    path = server.path("pods", "p")
    waiting = await eventually(server, path, lambda item: waits(item) == "CreateContainerConfigError")
    assert waiting["status"]["containerStatuses"][0]["state"]["waiting"]["message"] == 'secret "later" not found'
    assert waiting["status"]["phase"] == "Pending"
    message = 'container "c" in pod "p" is waiting to start: CreateContainerConfigError'
    refused(await server.http.get(f"{path}/log"), 400, "BadRequest", message)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later"}, "stringData": {"token": "t"}}
    made = await server.http.post(server.path("secrets"), json=secret)
    assert made.json()["data"] == {"token": "dA=="}
    assert made.json()["type"] == "Opaque"
    assert "stringData" not in made.json()
    await eventually(server, path, lambda item: item["status"]["phase"] == "Running")


async def test_a_container_that_crashes(server: Server) -> None:
    if not server.image:
        pytest.skip("no image to run: set KUBE_CONTRACT_IMAGE")
    if server.fake:
        server.fake.behave("*crash*", fail="Error", exit_code=3, fail_after=0.02, message="boom", pull=0.02)
    container = {"name": "c", "image": server.image, "command": ["sh", "-c", "echo boom; : crash; exit 3"]}
    container |= {"terminationMessagePolicy": "FallbackToLogsOnError"}
    await server.http.post(server.path("pods"), json=pod(containers=[container], terminationGracePeriodSeconds=1))
    path = server.path("pods", "p")
    looping = await eventually(server, path, between_runs)
    state = looping["status"]["containerStatuses"][0]
    if "waiting" in state["state"]:  # a real kubelet may go on showing how it ended, until right before the next start
        assert state["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert re.match(r"back-off \d+s restarting failed container=c pod=p_", state["state"]["waiting"]["message"])
    assert (state["ready"], state["started"], state["restartCount"] >= 1) == (False, False, True)
    ended = state["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"].strip()) == (3, "Error", "boom")
    assert looping["status"]["phase"] == "Running"
    ready = condition(looping, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ContainersNotReady")
    assert ready["message"] == "containers with unready status: [c]"
    for query in ({}, {"previous": "true"}, {"tailLines": "1"}):
        reply = await server.http.get(f"{path}/log", params=query)
        assert reply.status_code == 200
        # A real kubelet may have thrown that container away, and says so where the lines should be.
        assert reply.text == "boom\n" or (
            not server.fake and reply.text.startswith("unable to retrieve container logs")
        )


def between_runs(item: Json) -> bool:
    """Whether the pod's container has been started again, and is down."""
    states = (item.get("status") or {}).get("containerStatuses") or ()
    return any(state["restartCount"] and state["lastState"] and "running" not in state["state"] for state in states)


def waits(item: Json) -> str:
    """What the pod's container waits for."""
    for state in (item.get("status") or {}).get("containerStatuses") or ():
        return str((state["state"].get("waiting") or {}).get("reason", ""))
    return ""
