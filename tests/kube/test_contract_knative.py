"""The contract of `test_contract.py`, for Knative Serving: what it refuses, and how servers live and die."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from tests.kube.asking import MERGE, Json, Server, condition, eventually, gone, refused

KNATIVE = "serving.knative.dev/v1"
NOBODY_HAS = "example.com/nothing"


@pytest.fixture
async def knative(server: Server) -> Server:
    if (await server.http.get(f"/apis/{KNATIVE}")).status_code != 200:
        pytest.skip("no Knative Serving on this cluster")
    return server


def ksvc(name: str = "s", *, container: Json | None = None, template: Json | None = None, **spec: Any) -> Json:
    containers = [{"image": "dev.local/none:1"} | (container or {})]
    made = {"metadata": template or {}, "spec": {"containers": containers} | spec}
    return {"apiVersion": KNATIVE, "kind": "Service", "metadata": {"name": name}, "spec": {"template": made}}


async def dry(server: Server, body: Json) -> Any:
    return await server.http.post(server.path("services", group=KNATIVE), json=body, params={"dryRun": "All"})


async def test_knative_fills_in(knative: Server) -> None:
    body = (await dry(knative, ksvc(timeoutSeconds=600))).json()
    assert body["metadata"]["generation"] == 1
    assert body["spec"]["traffic"] == [{"latestRevision": True, "percent": 100}]
    spec = body["spec"]["template"]["spec"]
    assert (spec["containerConcurrency"], spec["timeoutSeconds"], spec["responseStartTimeoutSeconds"]) == (0, 600, 300)
    assert spec["containers"][0]["name"] == "user-container"
    assert spec["containers"][0]["readinessProbe"] == {"successThreshold": 1, "tcpSocket": {"port": 0}}
    assert "serving.knative.dev/creator" in body["metadata"]["annotations"]


SCALING = "autoscaling.knative.dev/"
VOLUME = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (ksvc("7b"), r"not a DNS 1035 label: \[a DNS-1035 label must consist of .*\]: metadata.name"),
        (ksvc("a" * 64), r"not a DNS 1035 label: \[must be no more than 63 characters\]: metadata.name"),
        (
            ksvc(container={"env": [{"name": "PORT", "value": "1"}, {"name": "K_SERVICE", "value": "x"}]}),
            r'"K_SERVICE" is a reserved environment variable: spec.template.spec.containers\[0\].env\[1\].name\n"PORT" is',
        ),
        (
            ksvc(template={"annotations": {SCALING + "min-scale": "x"}}),
            "invalid value: x: spec.template.metadata.annotations.autoscaling.knative.dev/min-scale",
        ),
        (
            ksvc(template={"annotations": {SCALING + "min-scale": "3", SCALING + "max-scale": "1"}}),
            "max-scale=1 is less than min-scale=3: spec.template.metadata.annotations.autoscaling.knative.dev/max-scale, ",
        ),
        (
            ksvc(template={"annotations": {"serving.knative.dev/progress-deadline": "abc"}}),
            "invalid value: abc: spec.template.metadata.annotations.serving.knative.dev/progress-deadline",
        ),
        (ksvc(timeoutSeconds=601), "expected 0 <= 601 <= 600: spec.template.spec.timeoutSeconds"),
        (ksvc(containerConcurrency=1001), "expected 0 <= 1001 <= 1000: spec.template.spec.containerConcurrency"),
        (ksvc(container={"image": None}), r"missing field\(s\): spec.template.spec.containers\[0\].image"),
        (ksvc(container={"name": "queue-proxy"}), '"queue-proxy" is a reserved container name'),
        (
            ksvc(container={"ports": [{"containerPort": 8012}]}),
            "invalid value: 8012 is a reserved port: spec.template.",
        ),
        (ksvc(volumes=[{"name": "v", "emptyDir": {}}]), 'volume with name "v" not mounted'),
        (ksvc(container=VOLUME), "volumeMount has no matching volume"),
        (
            ksvc(
                container={"volumeMounts": [{"name": "v", "mountPath": "/dev"}]},
                volumes=[{"name": "v", "emptyDir": {}}],
            ),
            'mountPath "/dev" is a reserved path',
        ),
        (
            ksvc(container={"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            r"must not set the field\(s\): spec.template.spec.containers\[0\].env\[0\].valueFrom.fieldRef",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
async def test_knative_refuses(knative: Server, body: Json, message: str) -> None:
    denied = '^admission webhook "validation.webhook.serving.knative.dev" denied the request: validation failed: '
    refused(await dry(knative, body), 400, "BadRequest", denied + message)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nodeSelector", {"a": "b"}),
        ("tolerations", [{"key": "a", "operator": "Exists"}]),
        ("runtimeClassName", "nvidia"),
        ("affinity", {"nodeAffinity": {}}),
        ("priorityClassName", "x"),
        ("schedulerName", "x"),
        ("shareProcessNamespace", True),
        ("securityContext", {"runAsUser": 1}),
    ],
)
async def test_knative_keeps_fields_behind_flags(knative: Server, field: str, value: Any) -> None:
    reply = await dry(knative, ksvc(**{field: value}))
    refused(reply, 400, "BadRequest", rf"must not set the field\(s\): spec.template.spec.{field}")


async def test_knative_names_all_fields_at_once(knative: Server) -> None:
    reply = await dry(knative, ksvc(nodeSelector={"a": "b"}, runtimeClassName="x"))
    message = r"must not set the field\(s\): spec.template.spec.nodeSelector, spec.template.spec.runtimeClassName$"
    refused(reply, 400, "BadRequest", message)


async def test_knative_wants_scaling_on_the_template(knative: Server) -> None:
    body = ksvc()
    body["metadata"]["annotations"] = {SCALING + "min-scale": "1"}
    message = (
        'invalid key name "autoscaling.knative.dev/min-scale": metadata.annotations\nautoscaling annotations must be'
    )
    refused(await dry(knative, body), 400, "BadRequest", message)


async def test_knative_claims(knative: Server) -> None:
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]
    reply = await dry(knative, ksvc(container=VOLUME, volumes=volumes))
    refused(
        reply, 400, "BadRequest", "Persistent volume claim support is disabled, but found persistent volume claim c"
    )


@pytest.mark.parametrize("field", ["restartPolicy", "terminationGracePeriodSeconds", "nodeName", "resourceClaims"])
async def test_knative_drops_what_it_does_not_know(knative: Server, field: str) -> None:
    value: Any = {"terminationGracePeriodSeconds": 3, "resourceClaims": [{"name": "x"}]}.get(field, "Always")
    reply = await dry(knative, ksvc(**{field: value}))
    assert reply.status_code == 201
    assert field not in reply.json()["spec"]["template"]["spec"]
    assert f'unknown field \\"spec.template.spec.{field}\\"' in reply.headers["warning"]


async def test_knative_has_a_schema(knative: Server) -> None:
    refused(await dry(knative, ksvc("Ab")), 422, "Invalid", "RFC 1123 subdomain")
    body = ksvc() | {"spec": {}}
    refused(await dry(knative, body), 422, "Invalid", "spec.template.spec.containers in body must be of type array")


async def test_custom_resources_are_written_differently(knative: Server) -> None:
    path = knative.path("services", group=KNATIVE)
    made = (await knative.http.post(path, json=ksvc(container={"resources": {"limits": {NOBODY_HAS: "1"}}}))).json()
    body = (await knative.http.get(path)).json()
    assert body["metadata"]["continue"] == ""
    assert [(item["kind"], item["apiVersion"]) for item in body["items"]] == [("Service", KNATIVE)]
    made["metadata"].pop("resourceVersion")
    reply = await knative.http.put(f"{path}/s", json=made)
    refused(reply, 422, "Invalid", "metadata.resourceVersion: Invalid value: .*: must be specified for an update")
    labelled = (await knative.http.patch(f"{path}/s", json={"metadata": {"labels": {"k": "v"}}}, headers=MERGE)).json()
    assert labelled["metadata"]["generation"] == 1
    creator = {"metadata": {"annotations": {"serving.knative.dev/creator": "x"}}}
    refused(
        await knative.http.patch(f"{path}/s", json=creator, headers=MERGE),
        400,
        "BadRequest",
        "annotation value is immutable",
    )
    reply = await knative.http.delete(f"{path}/s")
    assert reply.json()["details"]["group"] == "serving.knative.dev"


async def test_a_server_that_fits_nowhere(knative: Server) -> None:
    path = knative.path("services", group=KNATIVE)
    await knative.http.post(path, json=ksvc(container={"resources": {"limits": {NOBODY_HAS: "1"}}}))
    service = await eventually(
        knative, f"{path}/s", lambda item: condition(item, "RoutesReady").get("status") == "False"
    )
    configuration = condition(service, "ConfigurationsReady")
    assert (configuration["status"], configuration["reason"]) == ("False", "RevisionFailed")
    assert re.match(r'Revision "s-00001" failed with message: 0/\d+ nodes are available: ', configuration["message"])
    ready = condition(service, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "RevisionMissing")
    assert ready["message"] == 'Configuration "s" does not have any ready Revision.'
    revision = (await knative.http.get(knative.path("revisions", "s-00001", group=KNATIVE))).json()
    resources = condition(revision, "ResourcesAvailable")
    assert (resources["status"], resources["reason"]) == ("False", "Unschedulable")


@pytest.mark.timeout(150)
async def test_a_server_lives_and_dies(knative: Server) -> None:
    if not knative.image:
        pytest.skip("no image to run: set KUBE_CONTRACT_IMAGE")
    path = knative.path("services", group=KNATIVE)
    container = {"image": knative.image, "readinessProbe": {"httpGet": {"path": "/"}, "periodSeconds": 1}}
    scale = {f"{SCALING}{name}": "1" for name in ("min-scale", "max-scale")}
    template = {"labels": {"example.com/model": "m"}, "annotations": scale | {SCALING + "target-burst-capacity": "0"}}
    body = ksvc(container=container, template=template, timeoutSeconds=100)
    body["metadata"]["labels"] = {"example.com/own": "yes"}
    assert (await knative.http.post(path, json=body)).status_code == 201
    service = await eventually(knative, f"{path}/s", lambda item: condition(item, "Ready").get("status") == "True")
    status = service["status"]
    assert status["observedGeneration"] == service["metadata"]["generation"] == 1
    assert status["url"] == status["address"]["url"] == f"http://s.{knative.namespace}.svc.cluster.local"
    assert status["latestReadyRevisionName"] == status["latestCreatedRevisionName"] == "s-00001"
    assert [condition["type"] for condition in status["conditions"]] == ["ConfigurationsReady", "Ready", "RoutesReady"]
    await check_pod(knative, service)
    assert (await knative.http.delete(f"{path}/s")).status_code == 200
    refused(await knative.http.get(f"{path}/s"), 404, "NotFound", 'services.serving.knative.dev "s" not found')
    await check_end(knative)


async def check_pod(server: Server, service: Json) -> None:
    selector = {"labelSelector": "serving.knative.dev/service=s"}
    pods = (await server.http.get(server.path("pods"), params=selector)).json()["items"]
    assert len(pods) == 1
    pod = pods[0]
    assert re.fullmatch(r"s-00001-deployment-[a-z0-9]+-[a-z0-9]{5}", pod["metadata"]["name"])
    labels = pod["metadata"]["labels"]
    assert labels["example.com/model"] == "m"
    assert "example.com/own" not in labels
    assert labels["serving.knative.dev/revision"] == labels["app"] == "s-00001"
    assert labels["serving.knative.dev/configuration"] == "s"
    assert labels["serving.knative.dev/serviceUID"] == service["metadata"]["uid"]
    assert pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"
    user, proxy = pod["spec"]["containers"]
    assert (user["name"], proxy["name"]) == ("user-container", "queue-proxy")
    assert proxy["resources"]["requests"] == {"cpu": "25m"}
    assert {"name": "PORT", "value": "8080"} in user["env"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 100
    assert pod["spec"]["nodeName"]
    assert pod["status"]["phase"] == "Running"
    kinds = [condition["type"] for condition in pod["status"]["conditions"] if condition["status"] == "True"]
    assert kinds == ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
    log = server.path("pods", f"{pod['metadata']['name']}/log")
    refused(
        await server.http.get(log),
        400,
        "BadRequest",
        r"a container name must be specified .*user-container queue-proxy\]",
    )
    reply = await server.http.get(log, params={"container": "user-container", "tailLines": "1"})
    assert (reply.status_code, reply.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    reply = await server.http.get(log, params={"container": "user-container", "previous": "true"})
    refused(reply, 400, "BadRequest", 'previous terminated container "user-container" in pod ".*" not found')


async def check_end(server: Server) -> None:
    """The pod of a Service that is gone stays until queue-proxy has drained. A shorter grace period is noted; whether it
    still hurries the kubelet is a matter of luck on a real cluster, and it does not here."""
    selector = {"labelSelector": "serving.knative.dev/service=s"}
    async with asyncio.timeout(20):
        while True:
            pods = (await server.http.get(server.path("pods"), params=selector)).json()["items"]
            if pods and "deletionTimestamp" in pods[0]["metadata"]:
                break
            await asyncio.sleep(0.01)
    pod = pods[0]
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 100
    assert pod["status"]["phase"] == "Running"
    path = server.path("pods", pod["metadata"]["name"])
    for grace in ("5", "50"):
        hurried = (await server.http.delete(path, params={"gracePeriodSeconds": grace})).json()
        assert hurried["metadata"]["deletionGracePeriodSeconds"] == 5
    await gone(server, path)
