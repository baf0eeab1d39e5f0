"""What the API does, asked over plain HTTP: the same questions to the fake and, where one is named, to a real API server.

A real one is named by KUBE_CONTRACT_URL (a ``kubectl proxy``) or KUBE_CONTRACT_KUBECONFIG; with Knative on it, and an image
that its nodes have in KUBE_CONTRACT_IMAGE, servers are run as well. Every test has a namespace of its own there.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import pytest
from tests.kube.asking import MERGE, Json, Server, configmap, gone, refused
from tests.kube.conftest import CONFIG, URL

JSON_PATCH = {"content-type": "application/json-patch+json"}
APPLY = {"content-type": "application/apply-patch+yaml"}
LEASES = "coordination.k8s.io/v1"


@pytest.mark.skipif(
    URL not in os.environ and CONFIG not in os.environ, reason=f"no real cluster: set {URL} or {CONFIG}"
)
async def test_a_real_cluster_is_asked_as_well(server: Server) -> None:
    assert (await server.http.get("/version")).status_code == 200


# Creating


async def test_what_is_created_has_an_identity(server: Server) -> None:
    made = await server.make("a", labels={"k": "v"})
    metadata = made["metadata"]
    assert metadata["uid"]
    assert int(metadata["resourceVersion"]) > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", metadata["creationTimestamp"])
    assert metadata["namespace"] == server.namespace
    assert made["data"] == {"x": "1"}
    again = (await server.http.get(server.path("configmaps", "a"))).json()
    assert again == made


async def test_a_name_is_taken_once(server: Server) -> None:
    await server.make("a")
    reply = await server.http.post(server.path("configmaps"), json=configmap("a"))
    body = refused(reply, 409, "AlreadyExists", r'^configmaps "a" already exists$')
    assert body["details"] == {"name": "a", "kind": "configmaps"}


async def test_names_can_be_left_to_the_server(server: Server) -> None:
    body = configmap("x") | {"metadata": {"generateName": "some-"}}
    names = [
        (await server.http.post(server.path("configmaps"), json=body)).json()["metadata"]["name"] for _ in range(2)
    ]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"some-[a-z0-9]{5}", name) for name in names)


@pytest.mark.parametrize(
    ("metadata", "field", "message"),
    [
        ({"name": "Bad_Name"}, "metadata.name", "RFC 1123 subdomain"),
        ({"name": "a" * 254}, "metadata.name", "must be no more than 253"),
        ({}, "metadata.name", "name or generateName is required"),
        ({"name": "a", "labels": {"k": "x/y"}}, "metadata.labels", "a valid label must be"),
        ({"name": "a", "labels": {"k": "x" * 64}}, "metadata.labels", "must be no more than 63"),
        ({"name": "a", "labels": {"-k": "x"}}, "metadata.labels", "name part must consist of"),
        (
            {"name": "a", "annotations": {"k": "x" * 300_000}},
            "metadata.annotations",
            "may not be more than 262144 bytes",
        ),
        ({"name": "a", "finalizers": ["nodomain"]}, "metadata.finalizers[0]", "neither a standard finalizer name"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_not_well_formed_is_invalid(server: Server, metadata: Json, field: str, message: str) -> None:
    reply = await server.http.post(server.path("configmaps"), json=configmap("a") | {"metadata": metadata})
    body = refused(reply, 422, "Invalid", message)
    assert body["details"]["causes"][0]["field"] == field


@pytest.mark.parametrize(
    ("change", "code", "reason", "message"),
    [
        ({"metadata": {"name": "a", "namespace": "other"}}, 400, "BadRequest", "namespace of the provided object"),
        ({"metadata": {"name": "a", "resourceVersion": "12"}}, 500, "", "resourceVersion should not be set"),
        ({"kind": "Pod"}, 400, "BadRequest", 'Pod in version "v1" cannot be handled as a ConfigMap'),
    ],
    ids=["namespace", "version", "kind"],
)
async def test_what_does_not_fit_is_refused(server: Server, change: Json, code: int, reason: str, message: str) -> None:
    refused(await server.http.post(server.path("configmaps"), json=configmap("a") | change), code, reason, message)


async def test_a_body_has_to_be_json(server: Server) -> None:
    headers = {"content-type": "application/json"}
    reply = await server.http.post(server.path("configmaps"), content=b"{nope", headers=headers)
    refused(reply, 400, "BadRequest", "json parse error")


async def test_namespaces_have_to_exist(server: Server) -> None:
    reply = await server.http.post("/api/v1/namespaces/not-there/configmaps", json=configmap("a"))
    assert refused(reply, 404, "NotFound", '^namespaces "not-there" not found$')["details"]["kind"] == "namespaces"


async def test_a_dry_run_leaves_nothing_behind(server: Server) -> None:
    path, dry = server.path("configmaps"), {"dryRun": "All"}
    reply = await server.http.post(path, json=configmap("a"), params=dry)
    assert reply.status_code == 201
    assert reply.json()["metadata"]["uid"]
    refused(await server.http.get(f"{path}/a"), 404, "NotFound", '^configmaps "a" not found$')
    await server.make("a")
    assert (await server.http.put(f"{path}/a", json=configmap("a", data={"x": "2"}), params=dry)).status_code == 200
    assert (await server.http.delete(f"{path}/a", params=dry)).status_code == 200
    assert (await server.http.get(f"{path}/a")).json()["data"] == {"x": "1"}
    refused(
        await server.http.post(path, json=configmap("b"), params={"dryRun": "Some"}), 422, "Invalid", "supported values"
    )


# Where nothing is


async def test_what_is_not_there(server: Server) -> None:
    refused(await server.http.get(server.path("configmaps", "a")), 404, "NotFound", '^configmaps "a" not found$')
    refused(await server.http.get(server.path("nothings")), 404, "NotFound", "could not find the requested resource")
    refused(await server.http.get(server.path("configmaps", "a/status")), 404, "NotFound", "could not find")
    refused(await server.http.post(server.path("configmaps", "a"), json=configmap("a")), 405, "MethodNotAllowed")
    reply = await server.http.get("/apis/nothing.example.com/v1/things")
    assert (reply.status_code, reply.text.strip()) == (404, "404 page not found")


async def test_a_group_is_part_of_the_name(server: Server) -> None:
    reply = await server.http.get(server.path("leases", "a", group=LEASES))
    body = refused(reply, 404, "NotFound", '^leases.coordination.k8s.io "a" not found$')
    assert body["details"] == {"name": "a", "group": "coordination.k8s.io", "kind": "leases"}


async def test_versions_and_health(server: Server) -> None:
    version = (await server.http.get("/version")).json()
    assert re.match(r"v\d+\.\d+\.\d+", version["gitVersion"])
    assert int(re.sub(r"\D", "", version["minor"])) > 20
    assert (await server.http.get("/readyz")).text == "ok"
    groups = {group["name"] for group in (await server.http.get("/apis")).json()["groups"]}
    assert {"apps", "coordination.k8s.io"} <= groups
    resources = {item["name"]: item for item in (await server.http.get("/api/v1")).json()["resources"]}
    assert resources["pods"]["namespaced"]
    assert not resources["nodes"]["namespaced"]


async def test_what_one_may_do_can_be_asked(server: Server) -> None:
    attributes = {"namespace": server.namespace, "verb": "list", "resource": "pods"}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    reply = await server.http.post(path, json=body | {"spec": {"resourceAttributes": attributes}})
    assert reply.status_code == 201
    assert reply.json()["status"]["allowed"] is True


# Changing


async def test_a_stale_update_is_a_conflict(server: Server) -> None:
    made = await server.make("a")
    path = server.path("configmaps", "a")
    changed = (await server.http.put(path, json=made | {"data": {"x": "2"}})).json()
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    reply = await server.http.put(path, json=made | {"data": {"x": "3"}})
    body = refused(reply, 409, "Conflict", "the object has been modified; please apply your changes")
    assert body["details"] == {"name": "a", "kind": "configmaps"}
    version = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "data": {"x": "3"}}
    refused(await server.http.patch(path, json=version, headers=MERGE), 409, "Conflict", "has been modified")
    assert (await server.http.get(path)).json() == changed


async def test_an_update_that_changes_nothing_is_none(server: Server) -> None:
    made = await server.make("a")
    reply = await server.http.put(server.path("configmaps", "a"), json=made)
    assert reply.status_code == 200
    assert reply.json()["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_an_update_of_what_is_not_there(server: Server) -> None:
    path = server.path("configmaps", "a")
    refused(await server.http.put(path, json=configmap("a")), 404, "NotFound")
    refused(await server.http.patch(path, json={"data": {"y": "1"}}, headers=MERGE), 404, "NotFound")


async def test_names_and_identities_do_not_change(server: Server) -> None:
    made = await server.make("a")
    path = server.path("configmaps", "a")
    refused(await server.http.put(path, json=configmap("b")), 400, "BadRequest", "does not match the name on the URL")
    refused(
        await server.http.patch(path, json={"metadata": {"name": "b"}}, headers=MERGE),
        400,
        "BadRequest",
        "does not match",
    )
    other = configmap("a", uid="00000000-0000-0000-0000-000000000000")
    refused(await server.http.put(path, json=other), 409, "Conflict", "Precondition failed: UID in precondition")
    metadata = {"name": "a", "creationTimestamp": "2001-01-01T00:00:00Z", "labels": {"k": "v"}}
    changed = (await server.http.put(path, json=configmap("a") | {"metadata": metadata})).json()
    assert changed["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]
    assert changed["metadata"]["labels"] == {"k": "v"}


async def test_a_merge_patch(server: Server) -> None:
    await server.make("a", data={"x": "1", "y": "2"}, labels={"k": "v"})
    path = server.path("configmaps", "a")
    patch = {"metadata": {"labels": {"l": "w"}}, "data": {"x": None, "z": "3"}}
    changed = (await server.http.patch(path, json=patch, headers=MERGE)).json()
    assert changed["data"] == {"y": "2", "z": "3"}
    assert changed["metadata"]["labels"] == {"k": "v", "l": "w"}
    refused(await server.http.patch(path, json=[1], headers=MERGE), 400, "BadRequest", "error decoding patch")
    refused(await server.http.patch(path, json={}), 415, "UnsupportedMediaType")


async def test_a_json_patch(server: Server) -> None:
    await server.make("a", annotations={"example.com/k": "v"})
    path = server.path("configmaps", "a")
    patch = [
        {"op": "test", "path": "/data/x", "value": "1"},
        {"op": "add", "path": "/data/y", "value": "2"},
        {"op": "replace", "path": "/metadata/annotations/example.com~1k", "value": "w"},
        {"op": "remove", "path": "/data/x"},
    ]
    changed = (await server.http.patch(path, json=patch, headers=JSON_PATCH)).json()
    assert changed["data"] == {"y": "2"}
    assert changed["metadata"]["annotations"] == {"example.com/k": "w"}
    refused(await server.http.patch(path, json=[patch[0]], headers=JSON_PATCH), 422, "Invalid")
    refused(await server.http.patch(path, json=[patch[3]], headers=JSON_PATCH), 422, "Invalid")


async def test_apply_creates_and_merges(server: Server) -> None:
    path, mine, other = server.path("configmaps", "a"), {"fieldManager": "me"}, {"fieldManager": "you"}
    made = await server.http.patch(path, json=configmap("a", data={"x": "1", "y": "1"}), headers=APPLY, params=mine)
    assert made.status_code == 201, made.text
    both = await server.http.patch(path, json=configmap("a", data={"z": "1"}), headers=APPLY, params=other)
    assert both.status_code == 200
    assert both.json()["data"] == {"x": "1", "y": "1", "z": "1"}
    fewer = await server.http.patch(path, json=configmap("a", data={"x": "2"}), headers=APPLY, params=mine)
    assert fewer.json()["data"] == {"x": "2", "z": "1"}
    clash = configmap("a", data={"x": "3"})
    reply = await server.http.patch(path, json=clash, headers=APPLY, params=other)
    refused(reply, 409, "Conflict", 'conflict with "me": .data.x')
    forced = await server.http.patch(path, json=clash, headers=APPLY, params=other | {"force": "true"})
    assert forced.json()["data"] == {"x": "3"}
    refused(await server.http.patch(path, json=clash, headers=APPLY), 422, "Invalid", "fieldManager: Required value")


# Leases


def lease(**spec: Any) -> Json:
    return {"apiVersion": LEASES, "kind": "Lease", "metadata": {"name": "l"}, "spec": spec}


async def test_a_lease_is_taken_by_one_of_two(server: Server) -> None:
    path = server.path("leases", group=LEASES)
    made = await server.http.post(path, json=lease(holderIdentity="a", leaseDurationSeconds=10))
    assert made.status_code == 201
    refused(await server.http.post(path, json=lease(holderIdentity="b")), 409, "AlreadyExists")
    seen = made.json()
    replies = [
        await server.http.put(f"{path}/l", json=seen | {"spec": {"holderIdentity": name, "leaseDurationSeconds": 10}})
        for name in ("b", "c")
    ]
    assert [reply.status_code for reply in replies] == [200, 409]
    assert (await server.http.get(f"{path}/l")).json()["spec"]["holderIdentity"] == "b"


async def test_a_lease_is_replaced_by_version_only(server: Server) -> None:
    path = server.path("leases", "l", group=LEASES)
    assert (await server.http.put(path, json=lease(holderIdentity="a"))).status_code == 201
    reply = await server.http.put(path, json=lease(holderIdentity="b"))
    refused(reply, 422, "Invalid", "metadata.resourceVersion: Invalid value: .*: must be specified for an update")
    reply = await server.http.patch(path, json={"spec": {"leaseDurationSeconds": 0}}, headers=MERGE)
    refused(reply, 422, "Invalid", "must be greater than 0")


# Deleting


async def test_deleting(server: Server) -> None:
    made = await server.make("a")
    path = server.path("configmaps", "a")
    body = (await server.http.delete(path)).json()
    assert body["status"] == "Success"
    assert body["details"] == {"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}
    refused(await server.http.delete(path), 404, "NotFound")
    again = await server.make("a")
    assert again["metadata"]["uid"] != made["metadata"]["uid"]


async def test_deleting_on_conditions(server: Server) -> None:
    made = (await server.make("a"))["metadata"]
    path = server.path("configmaps", "a")
    wrong = [{"uid": "00000000-0000-0000-0000-000000000000"}, {"resourceVersion": "1"}]
    for preconditions, what in zip(wrong, ("UID", "ResourceVersion"), strict=True):
        reply = await server.http.request("DELETE", path, json={"preconditions": preconditions})
        refused(reply, 409, "Conflict", f"the {what} in the precondition .* does not match")
    right = {"uid": made["uid"], "resourceVersion": made["resourceVersion"]}
    assert (await server.http.request("DELETE", path, json={"preconditions": right})).status_code == 200


async def test_finalizers_hold_what_is_deleted(server: Server) -> None:
    await server.make("a", finalizers=["example.com/wait"])
    path = server.path("configmaps", "a")
    going = (await server.http.delete(path)).json()
    assert going["kind"] == "ConfigMap"
    assert going["metadata"]["deletionTimestamp"]
    assert (await server.http.delete(path)).json() == going
    refused(
        await server.http.post(server.path("configmaps"), json=configmap("a")),
        409,
        "AlreadyExists",
        "^object is being deleted",
    )
    reply = await server.http.patch(path, json={"metadata": {"finalizers": None}}, headers=MERGE)
    assert reply.status_code == 200
    refused(await server.http.get(path), 404, "NotFound")


def owned_by(owner: Json) -> Json:
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "blockOwnerDeletion": True}
    return reference | {key: owner["metadata"][key] for key in ("name", "uid")}


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
async def test_what_is_owned_goes_too(server: Server, propagation: str) -> None:
    owner = await server.make("owner")
    await server.make("owned", ownerReferences=[owned_by(owner)])
    path = server.path("configmaps", "owner")
    reply = await server.http.request("DELETE", path, json={"propagationPolicy": propagation})
    if propagation == "Foreground":
        assert reply.json()["metadata"]["finalizers"] == ["foregroundDeletion"]
    await gone(server, server.path("configmaps", "owned"))
    await gone(server, path)


async def test_what_is_owned_can_be_let_live(server: Server) -> None:
    owner = await server.make("owner")
    await server.make("owned", ownerReferences=[owned_by(owner)])
    path = server.path("configmaps", "owner")
    await server.http.request("DELETE", path, json={"propagationPolicy": "Orphan"})
    await gone(server, path)
    left = (await server.http.get(server.path("configmaps", "owned"))).json()
    assert "ownerReferences" not in left["metadata"]


async def test_deleting_a_selection(server: Server) -> None:
    for name, label in (("a", "1"), ("b", "1"), ("c", "2")):
        await server.make(name, labels={"k": label})
    reply = await server.http.delete(server.path("configmaps"), params={"labelSelector": "k=1"})
    assert sorted(item["metadata"]["name"] for item in reply.json()["items"]) == ["a", "b"]
    left = (await server.http.get(server.path("configmaps"), params={"labelSelector": "k"})).json()["items"]
    assert [item["metadata"]["name"] for item in left] == ["c"]


# Listing


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("k=1", "a b"),
        ("k==1,l!=x", "b"),
        ("k in (1, 2)", "a b c"),
        ("k notin (1),k", "c"),
        ("l", "a"),
        ("!l,k", "b c"),
        ("k=", ""),
    ],
)
async def test_labels_select(server: Server, selector: str, names: str) -> None:
    await server.make("a", labels={"k": "1", "l": "x"})
    await server.make("b", labels={"k": "1"})
    await server.make("c", labels={"k": "2"})
    reply = await server.http.get(server.path("configmaps"), params={"labelSelector": selector})
    assert " ".join(item["metadata"]["name"] for item in reply.json()["items"]) == names


async def test_fields_select(server: Server) -> None:
    await server.make("a")
    await server.make("b")
    everywhere = server.path("configmaps", everywhere=True)
    query = {"fieldSelector": f"metadata.name!=a,metadata.name!=kube-root-ca.crt,metadata.namespace={server.namespace}"}
    body = (await server.http.get(everywhere, params=query)).json()
    assert [item["metadata"]["name"] for item in body["items"]] == ["b"]


@pytest.mark.parametrize(
    ("plural", "query", "message"),
    [
        ("configmaps", {"labelSelector": "a==b c"}, "found 'c', expected"),
        ("configmaps", {"fieldSelector": "data.x=1"}, "is not a known field selector"),
        ("pods", {"fieldSelector": "spec.nothing=1"}, "field label not supported: spec.nothing"),
        ("configmaps", {"limit": "x"}, "invalid syntax"),
        ("configmaps", {"resourceVersion": "x"}, "invalid resource version"),
        ("configmaps", {"limit": "1", "continue": "xxx"}, "invalid continue token"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_selections_have_to_make_sense(server: Server, plural: str, query: dict[str, str], message: str) -> None:
    refused(await server.http.get(server.path(plural), params=query), 400, "BadRequest", message)


async def test_lists_come_in_pages_of_one_state(server: Server) -> None:
    for name in ("page-a", "page-b", "page-c", "page-d"):
        await server.make(name, labels={"k": "1"})
    path = server.path("configmaps")
    first = (await server.http.get(path, params={"limit": "3", "labelSelector": "k=1"})).json()
    assert [item["metadata"]["name"] for item in first["items"]] == ["page-a", "page-b", "page-c"]
    assert "remainingItemCount" not in first["metadata"]
    await server.http.delete(f"{path}/page-d")
    query = {"limit": "3", "labelSelector": "k=1", "continue": first["metadata"]["continue"]}
    second = (await server.http.get(path, params=query)).json()
    assert [item["metadata"]["name"] for item in second["items"]] == ["page-d"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in second["metadata"]
    everything = (await server.http.get(path, params={"limit": "1"})).json()
    assert everything["metadata"]["remainingItemCount"] >= 2


async def test_items_of_built_in_lists_do_not_say_their_kind(server: Server) -> None:
    await server.make("a")
    body = (await server.http.get(server.path("configmaps"))).json()
    assert (body["kind"], body["apiVersion"]) == ("ConfigMapList", "v1")
    assert all("kind" not in item and "apiVersion" not in item for item in body["items"])


async def test_metadata_alone_can_be_asked_for(server: Server) -> None:
    await server.make("a")
    accept = {"accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"}
    query = {"fieldSelector": "metadata.name=a"}
    body = (await server.http.get(server.path("configmaps"), headers=accept, params=query)).json()
    assert body["kind"] == "PartialObjectMetadataList"
    assert [sorted(item) for item in body["items"]] == [["apiVersion", "kind", "metadata"]]


async def test_versions_to_come_are_not_there_yet(server: Server) -> None:
    query = {"resourceVersion": "999999999999"}
    reply = await server.http.get(server.path("configmaps"), params=query)
    body = refused(reply, 504, "Timeout", "Too large resource version")
    assert reply.headers["retry-after"] == "1"
    assert body["details"]["retryAfterSeconds"] == 1


# Watching


def told(events: list[Json]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"]["name"]) for event in events]


async def test_a_watch_goes_on_from_a_version(server: Server) -> None:
    await server.make("before")
    version = await server.version()
    made = await server.make("a")
    await server.http.put(server.path("configmaps", "a"), json=configmap("a", data={"x": "2"}))
    await server.http.delete(server.path("configmaps", "a"))
    events = await server.watch(server.path("configmaps"), enough=3, resourceVersion=version)
    assert told(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert events[0]["object"] == made
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))
    assert events[2]["object"]["data"] == {"x": "2"}
    assert "deletionTimestamp" not in events[2]["object"]["metadata"]
    rest = await server.watch(server.path("configmaps"), enough=2, resourceVersion=str(versions[0]))
    assert rest == events[1:]


async def test_a_watch_tells_what_happens(server: Server) -> None:
    version = await server.version()
    watching = asyncio.gather(server.watch(server.path("configmaps"), enough=2, resourceVersion=version))
    for name in ("a", "b"):
        await server.make(name)
    assert told((await watching)[0]) == [("ADDED", "a"), ("ADDED", "b")]


@pytest.mark.parametrize("version", [{}, {"resourceVersion": "0"}], ids=["none", "0"])
async def test_a_watch_from_nowhere_begins_with_what_is_there(server: Server, version: dict[str, str]) -> None:
    await server.make("a")
    query = {"fieldSelector": "metadata.name=a"} | version
    assert told(await server.watch(server.path("configmaps"), enough=1, **query)) == [("ADDED", "a")]


async def test_a_selection_is_entered_and_left(server: Server) -> None:
    version = await server.version()
    await server.make("a", labels={"k": "0"})
    path = server.path("configmaps", "a")
    for label in ("1", "1", "2"):
        patch = {"metadata": {"labels": {"k": label}}, "data": {"n": label * 2}}
        await server.http.patch(path, json=patch, headers=MERGE)
        await server.http.patch(path, json={"data": {"m": label}}, headers=MERGE)
    events = await server.watch(server.path("configmaps"), enough=3, resourceVersion=version, labelSelector="k=1")
    assert told(events) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert events[2]["object"]["metadata"]["labels"] == {"k": "1"}, "as it was when it still belonged"
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))


async def test_a_watch_ends_when_its_time_is_up(server: Server) -> None:
    version = await server.version()
    query = {"resourceVersion": version, "timeoutSeconds": "1", "labelSelector": "k=1"}
    assert await server.watch(server.path("configmaps"), enough=1, **query) == []


async def test_a_watch_can_begin_with_a_list(server: Server) -> None:
    await server.make("a")
    query = {"sendInitialEvents": "true", "allowWatchBookmarks": "true", "fieldSelector": "metadata.name=a"}
    path = server.path("configmaps")
    events = await server.watch(path, enough=2, resourceVersionMatch="NotOlderThan", **query)
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    reply = await server.http.get(path, params={"watch": "true"} | query)
    refused(reply, 422, "Invalid", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")


async def test_a_watch_needs_a_version_that_is_a_number(server: Server) -> None:
    reply = await server.http.get(server.path("configmaps"), params={"watch": "1", "resourceVersion": "abc"})
    refused(reply, 500, "", "invalid syntax")
