"""Knative Serving's admission of its Services: defaults, what is dropped unasked, and what is refused in which words.

Read off Knative 1.15; features that came later are known with the version that brought them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.kube.api import Api
from tests.kube.kinds import CONFIGMAPS, SERVICES
from tests.kube.status import Refusal, invalid
from tests.kube.store import Json

SYSTEM = "knative-serving"
"""The namespace of Knative's configuration."""

MOST_SECONDS = 600
"""``max-revision-timeout-seconds`` where nobody set it."""

FLAGS = {
    "affinity": "kubernetes.podspec-affinity",
    "dnsConfig": "kubernetes.podspec-dnsconfig",
    "dnsPolicy": "kubernetes.podspec-dnspolicy",
    "hostAliases": "kubernetes.podspec-hostaliases",
    "hostIPC": "kubernetes.podspec-hostipc",
    "hostNetwork": "kubernetes.podspec-hostnetwork",
    "hostPID": "kubernetes.podspec-hostpid",
    "initContainers": "kubernetes.podspec-init-containers",
    "nodeSelector": "kubernetes.podspec-nodeselector",
    "priorityClassName": "kubernetes.podspec-priorityclassname",
    "runtimeClassName": "kubernetes.podspec-runtimeclassname",
    "schedulerName": "kubernetes.podspec-schedulername",
    "securityContext": "kubernetes.podspec-securitycontext",
    "shareProcessNamespace": "kubernetes.podspec-shareprocessnamespace",
    "tolerations": "kubernetes.podspec-tolerations",
    "topologySpreadConstraints": "kubernetes.podspec-topologyspreadconstraints",
}
"""Fields of the pod that need a feature flag."""

VOLUME_FLAGS = {
    "hostPath": "kubernetes.podspec-volumes-hostpath",
    "csi": "kubernetes.podspec-volumes-csi",
    "image": "kubernetes.podspec-volumes-image",
    "ephemeral": "kubernetes.podspec-volumes-ephemeral",
    "persistentVolumeClaim": "kubernetes.podspec-persistent-volume-claim",
}

SINCE = {"hostIPC": 16, "hostNetwork": 16, "hostPID": 16, "hostPath": 17, "csi": 18, "image": 19, "ephemeral": 23}
"""The minor version of Knative 1 that brought a field; earlier ones drop it without a word but a warning."""

POD_FIELDS = {*FLAGS, "containers", "volumes", "serviceAccountName", "imagePullSecrets", "enableServiceLinks"}
POD_FIELDS |= {"automountServiceAccountToken", "containerConcurrency", "timeoutSeconds"}
POD_FIELDS |= {"responseStartTimeoutSeconds", "idleTimeoutSeconds"}

CONTAINER_FIELDS = {"name", "image", "imagePullPolicy", "command", "args", "workingDir", "env", "envFrom", "ports"}
CONTAINER_FIELDS |= {"resources", "volumeMounts", "livenessProbe", "readinessProbe", "startupProbe", "securityContext"}
CONTAINER_FIELDS |= {"terminationMessagePath", "terminationMessagePolicy"}

VOLUMES = ("configMap", "emptyDir", "projected", "secret")
"""Kinds of volume that need no flag."""

RESERVED_ENV = ("PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION")
RESERVED_PORTS = (8008, 8012, 8013, 8022, 8112, 9090, 9091)
RESERVED_PATHS = ("/", "/dev", "/dev/log")

DNS_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_NOT_1035 = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and "
    f"end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '{DNS_1035}')"
)
_DENIED = 'admission webhook "validation.webhook.serving.knative.dev" denied the request: validation failed: '
_INSECURE = "Kubernetes default value is insecure, Knative may default this to secure in a future release: "
_HARDENING = ("allowPrivilegeEscalation", "capabilities", "runAsNonRoot", "seccompProfile")

TEMPLATE = "spec.template.spec"
SCALING = "autoscaling.knative.dev/"

Finding = tuple[str, str, str]
"""(what is wrong, where, more about it)."""


class Webhook:
    """The webhook of one installation of Knative."""

    def __init__(self, api: Api, minor: int) -> None:
        self._api = api
        self._minor = minor

    def __call__(self, item: Json, old: Json | None) -> None:
        """Complete a Service, or raise `Refusal` (400, or 422 when it does not even fit the schema)."""
        spec = _template_spec(item)
        self._prune(spec)
        _default(item, spec, old)
        findings = [*_of_service(item, old), *_of_template(item), *self._of_pod(spec)]
        self._warn(spec)
        if findings:
            raise Refusal(400, "BadRequest", _DENIED + told(findings))

    def _config(self, name: str) -> Mapping[str, str]:
        entry = self._api.store.find(CONFIGMAPS, name, SYSTEM)
        return (entry.object.get("data") or {}) if entry else {}

    def _on(self, flag: str) -> bool:
        return self._config("config-features").get(flag, "disabled").lower() in ("enabled", "allowed")

    def _known(self, field: str) -> bool:
        return SINCE.get(field, 0) <= self._minor

    def _prune(self, spec: Json) -> None:
        for field in [name for name in spec if name not in POD_FIELDS or not self._known(name)]:
            del spec[field]
            self._api.warnings.append(f'unknown field \\"{TEMPLATE}.{field}\\"')
        for place, container in enumerate(spec["containers"]):
            for field in [name for name in container if name not in CONTAINER_FIELDS]:
                del container[field]
                self._api.warnings.append(f'unknown field \\"{TEMPLATE}.containers[{place}].{field}\\"')
        for volume in spec.get("volumes") or ():
            for field in [name for name in volume if name in SINCE and not self._known(name)]:
                del volume[field]

    def _warn(self, spec: Json) -> None:
        for place, container in enumerate(spec["containers"]):
            given = container.get("securityContext") or {}
            missing = [
                f"{TEMPLATE}.containers[{place}].securityContext.{name}" for name in _HARDENING if name not in given
            ]
            if missing:
                self._api.warnings.append(_INSECURE + ", ".join(missing))

    def _of_pod(self, spec: Json) -> Iterator[Finding]:
        for field, flag in FLAGS.items():
            if spec.get(field) and not self._on(flag):
                yield "must not set the field(s)", f"{TEMPLATE}.{field}", ""
                if field == "securityContext":
                    for name in spec[field]:
                        yield "must not set the field(s)", f"{TEMPLATE}.{field}.{name}", ""
        most = int(self._config("config-defaults").get("max-revision-timeout-seconds", MOST_SECONDS))
        for field in ("timeoutSeconds", "responseStartTimeoutSeconds", "idleTimeoutSeconds"):
            yield from _within(spec, field, most)
        yield from _within(spec, "containerConcurrency", 1000)
        yield from self._of_volumes(spec)
        for place, container in enumerate(spec["containers"]):
            yield from _of_container(container, f"{TEMPLATE}.containers[{place}]", spec, self._on)

    def _of_volumes(self, spec: Json) -> Iterator[Finding]:
        mounted = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts") or ()}
        for place, volume in enumerate(spec.get("volumes") or ()):
            where = f"{TEMPLATE}.volumes[{place}]"
            flagged = [kind for kind in VOLUME_FLAGS if kind in volume and not self._on(VOLUME_FLAGS[kind])]
            if flagged == ["persistentVolumeClaim"]:
                claim = volume["persistentVolumeClaim"].get("claimName", "")
                yield f"Persistent volume claim support is disabled, but found persistent volume claim {claim}", "", ""
            for kind in flagged:
                yield "must not set the field(s)", f"{where}.{kind}", ""
            if not any(kind in volume for kind in (*VOLUMES, *VOLUME_FLAGS)):
                for kind in VOLUMES:
                    yield "expected exactly one, got neither", f"{where}.{kind}", ""
            if volume.get("name") not in mounted:
                yield f'volume with name "{volume.get("name")}" not mounted', f"{where}.name", ""


def told(findings: list[Finding]) -> str:
    """Findings as Knative writes them: those that say the same together, sorted."""
    together: dict[tuple[str, str], list[str]] = {}
    for what, where, more in findings:
        together.setdefault((what, more), []).append(where)
    lines = [
        f"{what}: {', '.join(sorted(places))}" + (f"\n{more}" if more else "")
        for (what, more), places in together.items()
    ]
    return "\n".join(sorted(lines))


def _template_spec(item: Json) -> Json:
    spec: Any = (((item.get("spec") or {}).get("template") or {}).get("spec")) or {}
    if not isinstance(spec, dict) or not isinstance(spec.get("containers"), list):
        field = f"{TEMPLATE}.containers"
        why = f'Invalid value: "null": {field} in body must be of type array: "null"'
        raise invalid(SERVICES, item["metadata"].get("name", ""), field, why, "FieldValueTypeInvalid")
    return spec


def _default(item: Json, spec: Json, old: Json | None) -> None:
    item["spec"].setdefault("traffic", [{"latestRevision": True, "percent": 100}])
    spec.setdefault("containerConcurrency", 0)
    spec.setdefault("enableServiceLinks", False)
    if spec.setdefault("timeoutSeconds", 300) > 300:
        spec.setdefault("responseStartTimeoutSeconds", 300)
    for container in spec["containers"]:
        container.setdefault("name", "user-container")
        container.setdefault("resources", {})
        probe = container.setdefault("readinessProbe", {"tcpSocket": {"port": 0}})
        probe.setdefault("successThreshold", 1)
    annotations = item["metadata"].setdefault("annotations", {})
    if old is None:
        annotations["serving.knative.dev/creator"] = "admin"
    annotations["serving.knative.dev/lastModifier"] = "admin"


def _of_service(item: Json, old: Json | None) -> Iterator[Finding]:
    metadata = item["metadata"]
    name = metadata.get("name", "")
    if len(name) > 63:
        yield "not a DNS 1035 label: [must be no more than 63 characters]", "metadata.name", ""
    elif not re.fullmatch(DNS_1035, name):
        yield f"not a DNS 1035 label: [{_NOT_1035}]", "metadata.name", ""
    for key in metadata.get("annotations") or {}:
        if key.startswith(SCALING):
            more = 'autoscaling annotations must be put under "spec.template.metadata.annotations" to work'
            yield f'invalid key name "{key}"', "metadata.annotations", more
    creator = "serving.knative.dev/creator"
    before = ((old or {}).get("metadata") or {}).get("annotations") or {}
    if old is not None and before.get(creator) != (metadata.get("annotations") or {}).get(creator):
        yield "annotation value is immutable", f"metadata.annotations.{creator}", ""


def _of_template(item: Json) -> Iterator[Finding]:
    given: Mapping[str, str] = (item["spec"]["template"].get("metadata") or {}).get("annotations") or {}
    where = "spec.template.metadata.annotations"
    scales: dict[str, int] = {}
    for key in ("min-scale", "max-scale", "initial-scale"):
        text = given.get(SCALING + key)
        if text is None:
            continue
        if re.fullmatch(r"\d+", text):
            scales[key] = int(text)
        else:
            yield f"invalid value: {text}", f"{where}.{SCALING}{key}", ""
    least, most = scales.get("min-scale", 0), scales.get("max-scale", 0)
    if most and most < least:
        for key in ("max-scale", "min-scale"):
            yield f"max-scale={most} is less than min-scale={least}", f"{where}.{SCALING}{key}", ""
    deadline = given.get("serving.knative.dev/progress-deadline")
    if deadline is not None and seconds(deadline) is None:
        yield f"invalid value: {deadline}", f"{where}.serving.knative.dev/progress-deadline", ""


def seconds(duration: str) -> float | None:
    """A Go duration such as ``1h30m`` or ``600s``; None when it is none."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        return None
    return sum(float(number) * {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for number, unit in parts)


def _within(spec: Json, field: str, most: int) -> Iterator[Finding]:
    value = spec.get(field)
    if value is not None and not 0 <= value <= most:
        yield f"expected 0 <= {value} <= {most}", f"{TEMPLATE}.{field}", ""


def _of_container(container: Json, where: str, spec: Json, on: Any) -> Iterator[Finding]:
    if not container.get("image"):
        yield "missing field(s)", f"{where}.image", ""
    if container["name"] == "queue-proxy":
        yield '"queue-proxy" is a reserved container name', f"{where}.name", ""
    for place, variable in enumerate(container.get("env") or ()):
        if variable.get("name") in RESERVED_ENV:
            yield f'"{variable["name"]}" is a reserved environment variable', f"{where}.env[{place}].name", ""
        for source in ("fieldRef", "resourceFieldRef"):
            if source in (variable.get("valueFrom") or {}) and not on("kubernetes.podspec-fieldref"):
                yield "must not set the field(s)", f"{where}.env[{place}].valueFrom.{source}", ""
    for port in container.get("ports") or ():
        number = port.get("containerPort")
        if number in RESERVED_PORTS:
            more = f"{number} is a reserved port, please use a different value"
            yield f"invalid value: {number} is a reserved port", f"{where}.ports.containerPort", more
    volumes = {volume.get("name") for volume in spec.get("volumes") or ()}
    for place, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("name") not in volumes:
            yield "volumeMount has no matching volume", f"{where}.volumeMounts[{place}].name", ""
        if (mount.get("mountPath", "").rstrip("/") or "/") in RESERVED_PATHS:
            what = f'mountPath "{mount["mountPath"]}" is a reserved path'
            yield what, f"{where}.volumeMounts[{place}].mountPath", ""
