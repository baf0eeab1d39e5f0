"""Knative Serving in miniature: what becomes of a Service, and what its status says at which moment.

One Service has one Configuration, one Route, a Revision per change of its template, and one pod per Revision that is
wanted. Nothing here scales: there is one pod, whatever the annotations say. What the conditions say, and how late, was read
off Knative 1.15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.kube.api import Api
from tests.kube.behaviour import Behaviours
from tests.kube.kinds import CONFIGURATIONS, DEPLOYMENTS, PODS, REPLICASETS, REVISIONS, ROUTES, SERVICES, Kind
from tests.kube.kubelet import dated
from tests.kube.status import Refusal
from tests.kube.store import Change, Entry, Json, Key
from tests.kube.webhook import seconds

GROUP = "serving.knative.dev"

STEP = 0.02
"""Seconds each of its controllers takes to notice something."""

LAG = 0.5
"""Seconds until a Revision says that its pod cannot be scheduled, or crashed."""

INGRESS = 0.15
"""Seconds until the gateway has a route, once the Revision is ready."""

PROGRESS = 600.0
"""Seconds a Revision has to become ready, where nothing else is said."""

GIVING_UP = 30.0
"""Seconds after that until the pod of a Revision that did not is taken away."""

REPLACING = 1.0
"""Seconds until a pod that failed gets a successor."""

QUEUE_PROXY = {
    "name": "queue-proxy",
    "image": "knative.invalid/queue:v1",
    "resources": {"requests": {"cpu": "25m"}},
    "readinessProbe": {"httpGet": {"path": "/", "port": 8012}, "periodSeconds": 1},
}


@dataclass
class Revision:
    """One Revision and its pod."""

    name: str
    namespace: str
    service: str
    uid: str
    template: Json
    owner: Json
    """The ReplicaSet, as its pods refer to it."""
    deadline: float
    pod: str = ""
    """The name of the pod that counts; empty while there is none."""
    tries: int = 0
    ready: bool = False
    was_ready: bool = False
    unschedulable: str = ""
    crash: tuple[str, str] | None = None
    """(reason, message) of what its container ended with."""
    trouble: tuple[str, str] | None = None
    """(reason, message) of what keeps its resources from being there."""
    wanted: bool = True
    """It has not been deleted. (Its ReplicaSet lives a little longer, and replaces pods as long as it does.)"""
    retired: bool = False
    """A newer one has its traffic."""
    scaled_down: bool = False


@dataclass
class Service:
    """One Service."""

    name: str
    namespace: str
    uid: str
    revisions: list[Revision] = field(default_factory=list)
    template: Any = None
    generation: int = 0
    routed: bool = False
    latest_ready: str = ""

    @property
    def url(self) -> str:
        return f"http://{self.name}.{self.namespace}.svc.cluster.local"


class Knative:
    """Watches Services and their pods."""

    def __init__(self, api: Api, behaviours: Behaviours) -> None:
        self._api = api
        self._behaviours = behaviours
        self.services: dict[Key, Service] = {}
        self._revisions: dict[Key, Revision] = {}
        self._sets: dict[Key, Revision] = {}
        """By their ReplicaSet."""
        api.store.shelf(SERVICES).follow(self._see_services)
        api.store.shelf(PODS).follow(self._see_pods)
        api.store.shelf(REVISIONS).follow(self._see_revisions)
        api.store.shelf(REPLICASETS).follow(self._see_sets)

    def backend(self, name: str, namespace: str) -> Json | None:
        """The pod that the gateway sends requests for a Service to. Raises KeyError when there is no route to it."""
        service = self.services[namespace, name]
        if not service.latest_ready:
            raise KeyError(name)
        revision = next(revision for revision in service.revisions if revision.name == service.latest_ready)
        entry = self._api.store.find(PODS, revision.pod, namespace) if revision.pod else None
        return entry.object if entry and is_ready(entry.object) else None

    # Services

    def _see_services(self, changes: list[Change]) -> None:
        for change in changes:
            if change.new is None:
                self.services.pop(change.key, None)
            elif change.old is None or change.old.object["spec"] != change.new.object["spec"]:
                self._api.clock.later(STEP, self._reconcile, change.key)

    def _see_revisions(self, changes: list[Change]) -> None:
        for change in changes:
            uid = change.last.object["metadata"]["uid"]
            revision = self._revisions.get(change.key)
            if change.new is None and revision is not None and revision.uid == uid:
                revision.wanted = False
                del self._revisions[change.key]

    def _see_sets(self, changes: list[Change]) -> None:
        for change in changes:
            if change.new is None:
                self._sets.pop(change.key, None)

    def _reconcile(self, key: Key) -> None:
        entry = self._api.store.find(SERVICES, key[1], key[0])
        if entry is None or "deletionTimestamp" in entry.object["metadata"]:
            return
        metadata = entry.object["metadata"]
        service = self.services.get(key)
        if service is None or service.uid != metadata["uid"]:
            service = self.services[key] = Service(key[1], key[0], metadata["uid"])
            self._make_parents(service, entry.object)
        service.generation = metadata["generation"]
        template = entry.object["spec"]["template"]
        if template == service.template:
            self._tell(service)
            return
        service.template = template
        self._say(SERVICES, key, service.generation, _OUT_OF_DATE)
        self._make_revision(service, entry.object)

    def _make_parents(self, service: Service, item: Json) -> None:
        labels = (item["metadata"].get("labels") or {}) | {f"{GROUP}/service": service.name}
        owner = reference(SERVICES, item)
        for kind in (CONFIGURATIONS, ROUTES):
            spec = (
                {"template": item["spec"]["template"]}
                if kind is CONFIGURATIONS
                else {"traffic": item["spec"]["traffic"]}
            )
            body = {"metadata": {"name": service.name, "labels": labels, "ownerReferences": [owner]}, "spec": spec}
            self._create(kind, body, service.namespace)

    def _make_revision(self, service: Service, item: Json) -> None:
        configuration = self._api.store.find(CONFIGURATIONS, service.name, service.namespace)
        if configuration is None:
            return
        template = item["spec"]["template"]
        given: Json = template.get("metadata") or {}
        name = given.get("name") or f"{service.name}-{service.generation:05d}"
        labels = dict(given.get("labels") or {}) | {
            f"{GROUP}/configuration": service.name,
            f"{GROUP}/configurationGeneration": str(service.generation),
            f"{GROUP}/configurationUID": configuration.object["metadata"]["uid"],
            f"{GROUP}/service": service.name,
            f"{GROUP}/serviceUID": service.uid,
        }
        annotations = dict(given.get("annotations") or {}) | {f"{GROUP}/creator": "admin"}
        metadata = {"name": name, "labels": labels, "annotations": annotations}
        owners = [reference(CONFIGURATIONS, configuration.object)]
        made = self._create(
            REVISIONS, {"metadata": metadata | {"ownerReferences": owners}, "spec": template["spec"]}, service.namespace
        )
        if made is None:
            return
        uid = made.object["metadata"]["uid"]
        owner = self._make_replicaset(made.object, labels)
        pod_labels = labels | {f"{GROUP}/revision": name, f"{GROUP}/revisionUID": uid, "app": name}
        pod = pod_spec(template["spec"], name, service.name)
        given_deadline = seconds(annotations.get(f"{GROUP}/progress-deadline", ""))
        deadline = PROGRESS if given_deadline is None else given_deadline
        revision = Revision(
            name,
            service.namespace,
            service.name,
            uid,
            {"metadata": {"labels": pod_labels, "annotations": annotations}, "spec": pod},
            owner,
            self._api.clock.time + deadline,
        )
        service.revisions.append(revision)
        self._revisions[service.namespace, name] = revision
        self._sets[service.namespace, owner.get("name", "")] = revision
        if self._behaviours.of(revision.template).fail == "ContainerMissing":
            image = template["spec"]["containers"][0]["image"]
            revision.crash = ("ContainerMissing", f'Unable to fetch image "{image}": failed to resolve image to digest')
        else:
            self._api.clock.later(STEP, self._make_pod, revision)
            self._api.clock.later(deadline, self._too_late, revision)
        self._tell(service)

    def _make_replicaset(self, item: Json, labels: Mapping[str, str]) -> Json:
        name, namespace = f"{item['metadata']['name']}-deployment", item["metadata"]["namespace"]
        metadata = {"name": name, "labels": dict(labels), "ownerReferences": [reference(REVISIONS, item)]}
        deployment = self._create(DEPLOYMENTS, {"metadata": metadata, "spec": {"replicas": 1}}, namespace)
        if deployment is None:
            return {}
        metadata = {"name": f"{name}-{self._api.suffix(10)}", "labels": dict(labels)}
        metadata |= {"ownerReferences": [reference(DEPLOYMENTS, deployment.object)]}
        replicaset = self._create(REPLICASETS, {"metadata": metadata, "spec": {"replicas": 1}}, namespace)
        return reference(REPLICASETS, replicaset.object) if replicaset else {}

    def _create(self, kind: Kind, body: Json, namespace: str) -> Entry | None:
        """Create, or find what is already there; None when the namespace goes."""
        try:
            return self._api.create(kind, body, namespace)
        except Refusal as refusal:
            if refusal.reason == "AlreadyExists":
                return self._api.get(kind, body["metadata"]["name"], namespace)
            return None

    # Pods

    def _make_pod(self, revision: Revision) -> None:
        alive = (revision.namespace, revision.owner.get("name", "")) in self._sets
        if not alive or revision.retired or revision.scaled_down or revision.pod:
            return
        name = f"{revision.owner.get('name', revision.name)}-{self._api.suffix()}"
        metadata = revision.template["metadata"] | {"name": name, "ownerReferences": [revision.owner]}
        try:
            self._api.create(
                PODS, {"metadata": dict(metadata), "spec": copied(revision.template["spec"])}, revision.namespace
            )
        except Refusal as refusal:
            revision.tries += 1
            revision.trouble = ("FailedCreate", refusal.message)
            self._changed(revision)
            self._api.clock.later(min(2.0 ** (revision.tries - 1), 60.0), self._make_pod, revision)
            return
        revision.pod = name
        if revision.trouble and revision.trouble[0] == "FailedCreate":
            revision.trouble = None

    def _see_pods(self, changes: list[Change]) -> None:
        for change in changes:
            pod = change.last.object
            owners = pod["metadata"].get("ownerReferences")
            revision = self._sets.get((change.key[0], owners[0]["name"])) if owners else None
            if revision is None or revision.pod != change.key[1]:
                continue
            failed = pod["status"].get("phase") == "Failed"
            if change.new is None or failed or "deletionTimestamp" in pod["metadata"]:
                revision.pod = ""
                self._api.clock.later(REPLACING if failed else STEP, self._make_pod, revision)
                self._set_ready(revision, False)
            else:
                self._judge(revision, pod)

    def _judge(self, revision: Revision, pod: Json) -> None:
        why = unschedulable(pod)
        if why != revision.unschedulable:
            revision.unschedulable = why
            self._api.clock.later(LAG, self._look, revision)
        ready = is_ready(pod)
        if ready != revision.ready:
            self._set_ready(revision, ready)

    def _set_ready(self, revision: Revision, ready: bool) -> None:
        revision.ready = ready
        if ready:
            revision.was_ready = True
            revision.crash = revision.trouble = None
            self._api.clock.later(STEP, self._changed, revision)
        elif revision.was_ready:
            self._api.clock.later(LAG, self._look, revision)

    def _look(self, revision: Revision) -> None:
        """The controller looks at the pod, for once: see `LAG`."""
        if revision.ready or not revision.wanted:
            return
        entry = self._api.store.find(PODS, revision.pod, revision.namespace) if revision.pod else None
        if revision.unschedulable and not revision.was_ready:
            revision.trouble = ("Unschedulable", revision.unschedulable)
        elif revision.trouble and revision.trouble[0] == "Unschedulable":
            revision.trouble = None
        if entry and revision.was_ready:
            revision.crash = ended(entry.object)
        self._changed(revision)

    def _too_late(self, revision: Revision) -> None:
        """The progress deadline. Only now does Knative say what is wrong with a pod that was scheduled."""
        if revision.was_ready or not revision.wanted:
            return
        entry = self._api.store.find(PODS, revision.pod, revision.namespace) if revision.pod else None
        if entry is not None:
            revision.crash = ended(entry.object)
            waiting = stuck_on(entry.object)
            if waiting and waiting[0] != "CrashLoopBackOff":
                revision.trouble = waiting
        if revision.trouble is None:
            name = revision.owner.get("name", "")
            revision.trouble = ("ProgressDeadlineExceeded", f'ReplicaSet "{name}" has timed out progressing.')
        self._changed(revision)
        self._api.clock.later(GIVING_UP, self._scale_down, revision)

    def _scale_down(self, revision: Revision) -> None:
        if revision.was_ready or not revision.wanted:
            return
        revision.scaled_down = True
        pod, revision.pod = revision.pod, ""
        if pod and self._api.store.find(PODS, pod, revision.namespace):
            self._api.delete(PODS, pod, revision.namespace)

    # Status

    def _changed(self, revision: Revision) -> None:
        service = self.services.get((revision.namespace, revision.service))
        if service is None or not revision.wanted or revision.retired:
            return
        latest = service.revisions[-1]
        if revision is latest and revision.was_ready and service.latest_ready != revision.name:
            service.latest_ready = revision.name
            service.routed = False
            self._api.clock.later(INGRESS, self._route, service)
            for old in service.revisions[:-1]:
                self._retire(old)
        self._tell(service)

    def _retire(self, revision: Revision) -> None:
        """A newer Revision has the traffic."""
        if not revision.retired:
            revision.retired = True
            if revision.pod and self._api.store.find(PODS, revision.pod, revision.namespace):
                self._api.delete(PODS, revision.pod, revision.namespace)

    def _route(self, service: Service) -> None:
        service.routed = True
        self._tell(service)

    def _tell(self, service: Service) -> None:
        """Write what is so into the status of everything that belongs to a Service."""
        key = (service.namespace, service.name)
        if self.services.get(key) is not service or not service.revisions:
            return
        latest = service.revisions[-1]
        revision = revision_conditions(latest)
        self._say(REVISIONS, (service.namespace, latest.name), 1, revision)
        ready = next(condition for condition in revision if condition["type"] == "Ready")
        names = {"latestCreatedRevisionName": latest.name}
        names |= {"latestReadyRevisionName": service.latest_ready} if service.latest_ready else {}
        configuration = configuration_condition(latest.name, ready)
        self._say(CONFIGURATIONS, key, service.generation, [{"type": "Ready"} | configuration], names)
        route = route_condition(service, ready)
        address: Json = {"url": service.url}
        if service.latest_ready:
            traffic = {"latestRevision": True, "percent": 100, "revisionName": service.latest_ready}
            address |= {"address": {"url": service.url}, "traffic": [traffic]}
        self._say(ROUTES, key, 1, [{"type": "Ready"} | route], address)
        decisive = configuration if route["status"] == "True" else route
        conditions = [
            {"type": "ConfigurationsReady"} | configuration,
            {"type": "Ready"} | decisive,
            {"type": "RoutesReady"} | route,
        ]
        self._say(SERVICES, key, service.generation, conditions, address | names)

    def _say(self, kind: Kind, key: Key, generation: int, conditions: list[Json], more: Json | None = None) -> None:
        entry = self._api.store.find(kind, key[1], key[0])
        if entry is None:
            return

        def say(item: Json) -> None:
            before = (item.get("status") or {}).get("conditions") or []
            now = self._api.clock.stamp()
            told = dated([dict(condition) for condition in conditions], before, now)
            item["status"] = {"conditions": told, "observedGeneration": generation} | (more or {})

        self._api.edit(kind, key[1], key[0], say, status=True)


_LATE = "The {} is still working to reflect the latest desired specification."
_OUT_OF_DATE = [
    {
        "type": kind,
        "status": "Unknown",
        "reason": "OutOfDate",
        "message": _LATE.format("Configuration" if kind == "ConfigurationsReady" else "Route"),
    }
    for kind in ("ConfigurationsReady", "Ready", "RoutesReady")
]


def revision_conditions(revision: Revision) -> list[Json]:
    """What a Revision says of itself."""
    healthy: Json = {"status": "True"} if revision.was_ready else {"status": "Unknown", "reason": "Deploying"}
    resources = dict(healthy)
    if revision.crash:
        healthy = {"status": "False", "reason": revision.crash[0], "message": revision.crash[1]}
    if revision.trouble:
        resources = {"status": "False", "reason": revision.trouble[0], "message": revision.trouble[1]}
    ready = healthy if healthy["status"] == "False" else resources
    return [
        {"type": "ContainerHealthy"} | healthy,
        {"type": "Ready"} | ready,
        {"type": "ResourcesAvailable"} | resources,
    ]


def configuration_condition(name: str, ready: Json) -> Json:
    if ready["status"] == "False":
        message = f'Revision "{name}" failed with message: {ready.get("message", "")}.'
        return {"status": "False", "reason": "RevisionFailed", "message": message}
    return {"status": ready["status"]}


def route_condition(service: Service, ready: Json) -> Json:
    if service.routed:
        return {"status": "True"}
    if service.latest_ready:
        message = "Ingress has not yet been reconciled."
        return {"status": "Unknown", "reason": "IngressNotConfigured", "message": message}
    if ready["status"] == "False":
        message = f'Configuration "{service.name}" does not have any ready Revision.'
        return {"status": "False", "reason": "RevisionMissing", "message": message}
    message = f'Configuration "{service.name}" is waiting for a Revision to become ready.'
    return {"status": "Unknown", "reason": "RevisionMissing", "message": message}


def is_ready(pod: Json) -> bool:
    conditions = pod["status"].get("conditions") or ()
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def unschedulable(pod: Json) -> str:
    for condition in pod["status"].get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", ""))
    return ""


def ended(pod: Json) -> tuple[str, str] | None:
    """(reason, message) of how the user's container ended the time before."""
    for container in pod["status"].get("containerStatuses") or ():
        terminated = (container.get("lastState") or {}).get("terminated")
        if terminated and container["name"] != "queue-proxy":
            message = terminated.get("message") or terminated.get("reason", "")
            return f"ExitCode{terminated['exitCode']}", f"Container failed with: {message}"
    return None


def stuck_on(pod: Json) -> tuple[str, str] | None:
    """(reason, message) of what the user's container waits for."""
    for container in pod["status"].get("containerStatuses") or ():
        waiting = container["state"].get("waiting")
        if waiting and container["name"] != "queue-proxy" and waiting["reason"] != "ContainerCreating":
            return waiting["reason"], waiting.get("message", "")
    return None


def pod_spec(spec: Json, revision: str, service: str) -> Json:
    """The specification of a Revision's pods."""
    own = ("containerConcurrency", "timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds")
    pod = {key: value for key, value in copied(spec).items() if key not in own}
    user = pod["containers"][0]
    port = ((user.get("ports") or [{}])[0]).get("containerPort", 8080)
    user.pop("readinessProbe", None)
    user["env"] = [
        *(user.get("env") or ()),
        {"name": "PORT", "value": str(port)},
        {"name": "K_REVISION", "value": revision},
        {"name": "K_CONFIGURATION", "value": service},
        {"name": "K_SERVICE", "value": service},
    ]
    pod["containers"] = [*pod["containers"], copied(QUEUE_PROXY)]
    pod["terminationGracePeriodSeconds"] = spec.get("timeoutSeconds", 300)
    return pod


def reference(kind: Kind, item: Json) -> Json:
    """As an owner is referred to."""
    metadata = item["metadata"]
    names = {"apiVersion": kind.api_version, "kind": kind.kind, "name": metadata["name"], "uid": metadata["uid"]}
    return names | {"controller": True, "blockOwnerDeletion": True}


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value
