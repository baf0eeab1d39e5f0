"""A server as a Knative Service and a Secret, as the API server takes them. Pure. Called by the launcher.

The fleet scales, evicts and places; Knative deploys, routes and heals. So a service has exactly one pod, stays out of the
activator's hands, and is never updated: a change would need a second slice while the first is held.
"""

from __future__ import annotations

import base64
from typing import Any

from ssis_dispatcher.core.messages import Launch
from ssis_dispatcher.launchers.knative import names
from ssis_dispatcher.launchers.knative.options import KnativeOptions, Toleration
from ssis_dispatcher.launchers.knative.specs import SECRET_KEY, Mount, ServiceSpec

Object = dict[str, Any]

_PROBE_FAILURES = 60
"""Failed probes, one a second, after which a server that was ready gets no requests: one that is busy is not dead."""


def service(spec: ServiceSpec) -> Object:
    """``spec`` as a Knative Service."""
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "labels": {"networking.knative.dev/visibility": "cluster-local", **spec.labels},
            "annotations": dict(spec.annotations),
        },
        "spec": {
            "template": {
                "metadata": {
                    "labels": dict(spec.pod_labels),
                    # On the template, where Knative wants them; on the service itself it refuses them.
                    "annotations": {
                        "autoscaling.knative.dev/min-scale": "1",
                        "autoscaling.knative.dev/max-scale": "1",
                        # With the default of 211 the activator stays in the path of a single pod for ever.
                        "autoscaling.knative.dev/target-burst-capacity": "0",
                        "serving.knative.dev/progress-deadline": f"{spec.progress_deadline}s",
                        **spec.pod_annotations,
                    },
                },
                "spec": _pod(spec),
            }
        },
    }


def token_secret(order: Launch, token: str, options: KnativeOptions) -> Object:
    """The Secret that holds a caller's hub token for one server; it goes by the server's name."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": order.server,
            "namespace": options.namespace,
            "labels": dict(options.labels) | names.labels(order.model),
        },
        "type": "Opaque",
        "data": {SECRET_KEY: base64.b64encode(token.encode()).decode()},
    }


def _pod(spec: ServiceSpec) -> Object:
    pod: Object = {
        "timeoutSeconds": spec.timeout,
        # Not said, it is 300, and an answer whose first byte takes longer ends in a 504.
        "responseStartTimeoutSeconds": spec.timeout,
        "containerConcurrency": 0,
        "automountServiceAccountToken": False,
        # They would put VLLM_PORT=tcp://… and the like into the environment of whatever runs beside a service of that name.
        "enableServiceLinks": False,
        "containers": [_container(spec)],
        "volumes": [{"name": mount.name, **mount.source} for mount in spec.mounts],
    }
    if spec.service_account:
        pod["serviceAccountName"] = spec.service_account
    if spec.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in spec.pull_secrets]
    if spec.node:
        pod["nodeSelector"] = {"kubernetes.io/hostname": spec.node}
    if spec.host_ipc:
        pod["hostIPC"] = True
    if spec.runtime_class:
        pod["runtimeClassName"] = spec.runtime_class
    if spec.tolerations:
        pod["tolerations"] = [_toleration(toleration) for toleration in spec.tolerations]
    return pod


def _container(spec: ServiceSpec) -> Object:
    container: Object = {
        "image": spec.image,
        "imagePullPolicy": "IfNotPresent",
        # What it printed last is then part of the pod's status, where `pods.judge` finds the reason.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "ports": [{"containerPort": spec.port}],
        "env": [{"name": name, "value": _literal(value)} for name, value in spec.env],
        # One second decides the cold start: Knative's container is probed as often, by default every ten.
        "readinessProbe": {
            "httpGet": {"path": spec.health, "port": spec.port},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": _PROBE_FAILURES,
        },
        "resources": _resources(spec),
        "securityContext": _security(spec.uid),
        "volumeMounts": [_volume_mount(mount) for mount in spec.mounts],
    }
    if spec.command:
        container["command"] = [_literal(word) for word in spec.command]
    if spec.argv:
        container["args"] = [_literal(word) for word in spec.argv]
    if spec.token is not None:
        reference: Object = {"name": spec.token.secret, "key": spec.token.key}
        if spec.token.is_optional:
            reference["optional"] = True
        container["env"].append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return container


def _resources(spec: ServiceSpec) -> Object:
    own: Object = {}
    if spec.cpu_millis:
        own["cpu"] = f"{spec.cpu_millis}m"
    if spec.memory_mib:
        own["memory"] = f"{spec.memory_mib}Mi"
    device = {spec.resource: str(spec.count)} if spec.resource else {}
    # The device is named in both: SSIS's autoscaler reads requests, Kubernetes demands limits.
    return {"requests": own | device, "limits": (own if spec.is_bounded else {}) | device}


def _security(uid: int | None) -> Object:
    """All of it, so that it means the same whatever Knative's ``secure-pod-defaults`` says: most images of engines run
    as root, and nothing but a ``uid`` of the operator's tells that this one does not."""
    context: Object = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": bool(uid),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if uid is not None:
        context["runAsUser"] = uid
    return context


def _volume_mount(mount: Mount) -> Object:
    written: Object = {"name": mount.name, "mountPath": mount.path}
    if mount.read_only:
        written["readOnly"] = True
    return written


def _toleration(toleration: Toleration) -> Object:
    written = {"key": toleration.key, "operator": toleration.operator, "effect": toleration.effect}
    if toleration.operator == "Equal":
        written["value"] = toleration.value
    return {key: value for key, value in written.items() if value}


def _literal(text: str) -> str:
    """``text`` such that Kubernetes expands no ``$(NAME)`` in it."""
    return text.replace("$(", "$$(")
