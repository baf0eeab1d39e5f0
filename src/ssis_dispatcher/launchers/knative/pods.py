"""The truth about one server, from its Knative Service and its pods. Pure. Called by the launcher.

Knative looks at no pod but the first, tells of a failed image pull when its progress deadline is over, and its conditions
flap; so what a pod says counts first, and what the service says is believed only where there is no pod, and only after it
has stood for a while (`Verdict.after`). Failed pods are signs, not servers: the ReplicaSet has made another already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ssis_dispatcher.core.messages import Failure, FailureKind
from ssis_dispatcher.launchers.knative import names
from ssis_dispatcher.launchers.knative.quantities import requests
from ssis_dispatcher.telemetry.redact import redact

Object = dict[str, Any]

LONGEST = 400
"""Characters of a reason or a detail."""

SETTLED = 3.0
"""Seconds after which a condition of a Knative Service is believed (`kn` waits two)."""

NODE_SILENT = 10.0
"""Seconds after which a node that stopped answering (for 40 s already, before Kubernetes says so) is given up."""

FAILED_PODS = 3
"""Pods that a node refused in a row, after which nobody waits for the next."""

QUEUE_PROXY = "queue-proxy"

_KEPT = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp")
_KEPT_OF_STATUS = (
    *("phase", "reason", "message", "podIP", "conditions"),
    *("containerStatuses", "initContainerStatuses"),
)

_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|OUT_OF_MEMORY|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED|bad_alloc|MemoryError"
    r"|cannot allocate memory|failed to allocate|unable to allocate|alloc_buffer: allocating .* failed"
    r"|Not enough memory|No available memory for the cache blocks|larger than the available KV cache memory"
    r"|Free memory on device .* is less than",
    re.IGNORECASE,
)
"""What TGI, vLLM, SGLang, llama.cpp and CUDA say when a slice is too small; the same in an MPS client over its limit."""

_TELLING = re.compile(
    r"\b\w*(?:error|exception)\b|\bfail|fatal|abort|terminate|cannot|could not|unable|invalid|not found|no such|corrupt"
    r"|denied|unsupported|not supported|unknown|unrecognized|required|missing",
    re.IGNORECASE,
)
_PASSING = re.compile(
    r"timed? ?out|deadline exceeded|connection (?:refused|reset)|no such host|temporar|server misbehaving|unexpected EOF"
    r"|TLS handshake|too ?many ?requests|rate limit|\b(?:429|500|502|503|504)\b|service unavailable|failed to sync",
    re.IGNORECASE,
)
"""Signs that trying again may help."""

_NO_IMAGE = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
_NO_CONTAINER = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreStartHookError"}
)
_NEVER_STARTED = frozenset({"StartError", "ContainerCannotRun"})
_EVICTED = frozenset({"Evicted", "Preempting", "NodeShutdown", "Terminated", "NodeLost", "Shutdown"})


class Verdict(msgspec.Struct, frozen=True):
    """Where a server is: ``phase`` is ``scheduling``, ``pulling``, ``starting``, ``loading`` or ``ready``, ``detail`` the
    platform's own words. ``failure`` is why it cannot become (or go on being) ready, to be believed when it has stood for
    ``after`` seconds. ``pod``, ``ip`` and ``node`` are those of its pod, as far as there are any."""

    ready: bool
    phase: str
    detail: str = ""
    node: str = ""
    failure: Failure | None = None
    after: float = 0.0
    pod: str = ""
    ip: str = ""


def judge(
    service: Mapping[str, Any] | None,
    pods: Iterable[Mapping[str, Any]],
    log: Sequence[str] = (),
    *,
    needs_route: bool = True,
) -> Verdict:
    """What is known of one server. ``pods`` are those of its name; ``log`` the last lines that its container printed
    before it ended, where they were asked for. ``needs_route``: ready means reachable through the gateway, not only by
    the pod's address.
    """
    if service is None or service["metadata"].get("deletionTimestamp"):
        return Verdict(False, "gone", failure=_failure(FailureKind.REMOVED, "its Knative Service was deleted"))
    uid = service["metadata"].get("uid")
    own = [pod for pod in pods if uid is None or _label(pod, f"{names.SERVICE}UID") in ("", uid)]
    pod = chosen(own)
    if pod is not None and is_ready(pod):
        return _serving(service, pod, needs_route)
    if (lost := _lost(own)) is not None:
        return Verdict(False, "scheduling", failure=lost)
    if pod is None:
        return _without_pod(service)
    return _coming(service, pod, log)


def chosen(pods: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The pod that is the server: of those that have not ended, one that stays and is ready before one that is on its
    way, the oldest first."""
    return min((pod for pod in pods if is_live(pod)), key=_rank, default=None)


def is_live(pod: Mapping[str, Any]) -> bool:
    """Whether a pod has not ended. One that is being deleted has not: it holds its slice."""
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod can serve, and stays."""
    return _condition(pod, "Ready").get("status") == "True" and not pod["metadata"].get("deletionTimestamp")


def service_of(pod: Mapping[str, Any]) -> str:
    """The Knative Service that a pod belongs to; "" for other pods."""
    return _label(pod, names.SERVICE)


def is_out_of_memory(lines: Iterable[str]) -> bool:
    """Whether what a server printed says that its slice is too small."""
    return any(_OUT_OF_MEMORY.search(line) for line in lines)


def trim(pod: Object) -> Object:
    """What we read of a pod, for a copy that is kept of thousands: of other people's, what they ask of which node."""
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    labels = metadata.get("labels") or {}
    slim: Object = {
        "metadata": {key: metadata[key] for key in _KEPT if key in metadata},
        "spec": {"nodeName": spec["nodeName"]} if spec.get("nodeName") else _wishes(spec),
        "status": {"phase": status.get("phase", "")},
        "asks": requests(pod),
    }
    if names.SERVICE in labels:
        ours = (names.SERVICE, names.MANAGED_BY)
        slim["metadata"]["labels"] = {key: value for key, value in labels.items() if key.startswith(ours)}
        slim["status"] = {key: status[key] for key in _KEPT_OF_STATUS if key in status}
    return slim


def _wishes(spec: Mapping[str, Any]) -> Object:
    """Where a pod without a node may go."""
    return {key: spec[key] for key in ("nodeSelector", "affinity", "tolerations", "schedulingGates") if spec.get(key)}


def _serving(service: Mapping[str, Any], pod: Mapping[str, Any], needs_route: bool) -> Verdict:
    """A pod that can serve; only the route to it may still be missing."""
    if not needs_route or _is_true(service, "Ready"):
        return _of(pod, "ready", ready=True)
    if (refused := _route_refused(service)) is not None:
        return _of(pod, "loading", refused[1], failure=refused[0], after=SETTLED)
    words = _condition(service, "RoutesReady").get("message") or ""
    return _of(pod, "loading", f"the server answers; its route is not there yet{': ' if words else ''}{words}")


def _coming(service: Mapping[str, Any], pod: Mapping[str, Any], log: Sequence[str]) -> Verdict:
    """A pod that is not ready: where it is, and what is wrong with it."""
    if (refused := _route_refused(service)) is not None:
        return _of(pod, "loading", refused[1], failure=refused[0], after=SETTLED)
    if pod["metadata"].get("deletionTimestamp"):
        return _of(pod, "scheduling", "its pod is being removed; another is on its way")
    if not (pod.get("spec") or {}).get("nodeName"):
        return _of(pod, "scheduling", _condition(pod, "PodScheduled").get("message") or "waiting for the scheduler")
    for status in _statuses(pod):
        if (verdict := _waiting(pod, status, log) or _ended(pod, status, log)) is not None:
            return verdict
    if _condition(pod, "Ready").get("status") == "False" and _condition(pod, "ContainersReady").get("status") == "True":
        words = "its node does not answer"
        return _of(pod, "loading", words, failure=_failure(FailureKind.LOST, words), after=NODE_SILENT)
    if _gave_up(service):
        return _of(pod, "loading", failure=_timed_out(), after=SETTLED)
    server = _server_status(pod)
    if server is None:
        return _of(pod, "starting", "the node has not begun yet")
    if "running" in (server.get("state") or {}):
        restarts = server.get("restartCount", 0)
        return _of(pod, "loading", f"started again {_times(restarts)}" if restarts else "")
    words = ((server.get("state") or {}).get("waiting") or {}).get("message") or ""
    return _of(pod, "starting" if server.get("restartCount") else "pulling", words)


def _waiting(pod: Mapping[str, Any], status: Mapping[str, Any], log: Sequence[str]) -> Verdict | None:
    """A container that does not run because something is wrong with it."""
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason, words = waiting.get("reason") or "", waiting.get("message") or ""
    if reason in _NO_IMAGE:
        passing = bool(_PASSING.search(words))
        if passing and reason == "ErrImagePull":
            return _of(pod, "pulling", words)
        kind = FailureKind.CRASHED if passing else FailureKind.MISCONFIGURED
        what = f"the image {status.get('image') or ''} cannot be fetched".replace("  ", " ")
        return _of(pod, "pulling", words, failure=_failure(kind, f"{what}: {words or reason}"))
    if reason in _NO_CONTAINER:
        if _PASSING.search(words):
            return _of(pod, "starting", words)
        kind = FailureKind.LOST if "device" in words.lower() else FailureKind.MISCONFIGURED
        return _of(
            pod, "starting", words, failure=_failure(kind, f"its container cannot be started: {words or reason}")
        )
    if reason == "CrashLoopBackOff":
        return _of(pod, "starting", words, failure=_death(pod, status, log))
    return None


def _ended(pod: Mapping[str, Any], status: Mapping[str, Any], log: Sequence[str]) -> Verdict | None:
    """A container that has ended: at once a failure where a second try cannot help, else after the second time."""
    if not _end(status) or status.get("ready"):
        return None
    failure = _death(pod, status, log)
    again = status.get("restartCount", 0) < 2 and failure.kind is FailureKind.CRASHED
    if again:
        if "running" in (status.get("state") or {}):
            return None
        return _of(pod, "starting", f"{failure.message}; it is started again")
    return _of(pod, "starting", failure=failure)


def _death(pod: Mapping[str, Any], status: Mapping[str, Any], log: Sequence[str]) -> Failure:
    """Why a container ended, by its exit code, the last it printed, and what Kubernetes says."""
    end = _end(status)
    reason, code = end.get("reason") or "", end.get("exitCode")
    lines = [*log, *(end.get("message") or "").splitlines()]
    own = status.get("name") != QUEUE_PROXY
    who = "the server" if own else "Knative's container beside the server"
    said = _said(lines)
    because = f": {said}" if said else ""
    if own and is_out_of_memory(lines):
        return _failure(FailureKind.OUT_OF_MEMORY, f"the slice is too small for {who}{because}")
    if own and (reason == "OOMKilled" or code == 137):
        return _failure(FailureKind.OUT_OF_MEMORY, f"{who} was killed for the memory it used (exit code {code})")
    if reason in _NEVER_STARTED:
        return _failure(FailureKind.MISCONFIGURED, f"{who} cannot be started{because}")
    count = status.get("restartCount", 0) + (1 if "terminated" in (status.get("state") or {}) else 0)
    again = f" {_times(count)}" if count > 1 else ""
    return _failure(FailureKind.CRASHED, f"{who} ended by itself{again} (exit code {code}){because}")


def _without_pod(service: Mapping[str, Any]) -> Verdict:
    """No pod, yet or any more: the service's own words."""
    if (refused := _route_refused(service)) is not None:
        return Verdict(False, "scheduling", refused[1], failure=refused[0], after=SETTLED)
    configured = _condition(service, "ConfigurationsReady")
    words = _short(configured.get("message") or "")
    if _is_settled(service) and configured.get("status") == "False":
        return Verdict(False, "scheduling", words, failure=_refused(words), after=SETTLED)
    words = words or _short(_condition(service, "Ready").get("message") or "")
    return Verdict(False, "scheduling", words or "waiting for Knative to make its pod")


def _refused(words: str) -> Failure:
    """Why Knative made no pod, or gave the last one up."""
    if "Unable to fetch image" in words:
        kind = FailureKind.CRASHED if _PASSING.search(words) else FailureKind.MISCONFIGURED
        return _failure(kind, words)
    if "exceeded quota" in words:
        return _failure(FailureKind.LOST, f"the namespace's quota is used up: {words}")
    if "nodes are available" in words or "Insufficient" in words:
        return _failure(FailureKind.LOST, f"Knative gave up waiting for a node: {words}")
    if "forbidden" in words or "violates PodSecurity" in words or "denied" in words:
        return _failure(FailureKind.MISCONFIGURED, f"the cluster does not allow its pod: {words}")
    if "Initial scale was never achieved" in words:
        return _timed_out()
    kind = FailureKind.OUT_OF_MEMORY if is_out_of_memory([words]) else FailureKind.CRASHED
    return _failure(kind, words or "Knative gave it up without saying why")


def _timed_out() -> Failure:
    return _failure(FailureKind.TIMED_OUT, "it was not ready within Knative's progress deadline")


def _gave_up(service: Mapping[str, Any]) -> bool:
    """Whether Knative's progress deadline is over: the pod that there still is will be taken away."""
    configured = _condition(service, "ConfigurationsReady")
    words = configured.get("message") or ""
    return _is_settled(service) and configured.get("status") == "False" and "Initial scale was never achieved" in words


def _route_refused(service: Mapping[str, Any]) -> tuple[Failure, str] | None:
    """A route that will never be: the name belongs to somebody else's object, or to another domain."""
    routes = _condition(service, "RoutesReady")
    if not _is_settled(service) or routes.get("status") != "False" or routes.get("reason") == "RevisionMissing":
        return None
    words = _short(routes.get("message") or routes.get("reason") or "")
    if routes.get("reason") == "NotOwned" or "conflict" in words.lower() or "rejected" in words.lower():
        return _failure(FailureKind.MISCONFIGURED, f"its route cannot be made: {words}"), words
    return None


def _lost(pods: Sequence[Mapping[str, Any]]) -> Failure | None:
    """A server whose pod was taken away, or that its node refuses again and again."""
    refused: list[Mapping[str, Any]] = []
    for pod in pods:
        target = _condition(pod, "DisruptionTarget")
        if target.get("status") == "True" and (pod["metadata"].get("deletionTimestamp") or not is_live(pod)):
            return _failure(
                FailureKind.LOST, f"its pod was taken away: {target.get('message') or target.get('reason')}"
            )
        status = pod.get("status") or {}
        if status.get("phase") == "Unknown" or status.get("reason") in _EVICTED:
            words = status.get("message") or status.get("reason") or "its node does not answer"
            return _failure(FailureKind.LOST, f"its pod was taken away: {words}")
        if status.get("phase") == "Failed":
            refused.append(pod)
    if len(refused) < FAILED_PODS:
        return None
    last = max(refused, key=_age)
    status = last["status"]
    words = status.get("message") or status.get("reason") or "without a reason"
    node = (last.get("spec") or {}).get("nodeName") or "its node"
    return _failure(FailureKind.LOST, f"{node} refused its pod {_times(len(refused))}: {words}")


def _of(pod: Mapping[str, Any], phase: str, detail: str = "", **more: Any) -> Verdict:
    """A verdict on this pod."""
    status = pod.get("status") or {}
    return Verdict(
        more.pop("ready", False),
        phase,
        _short(detail),
        (pod.get("spec") or {}).get("nodeName") or "",
        pod=pod["metadata"]["name"],
        ip=status.get("podIP") or "",
        **more,
    )


def _said(lines: Sequence[str]) -> str:
    """The last line that tells what went wrong; else the last line."""
    lines = [line.strip() for line in lines if line.strip()]
    telling = [line for line in lines if _OUT_OF_MEMORY.search(line)] or [
        line for line in lines if _TELLING.search(line)
    ]
    return (telling or lines or [""])[-1]


def _statuses(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Statuses of the containers, the server's own first."""
    status = pod.get("status") or {}
    everyone = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    return iter(sorted(everyone, key=lambda status: status.get("name") == QUEUE_PROXY))


def _server_status(pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((status for status in statuses if status.get("name") != QUEUE_PROXY), None)


def _end(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """How a container ended, now or the last time; empty where it never did."""
    for when in ("state", "lastState"):
        end: Mapping[str, Any] | None = (status.get(when) or {}).get("terminated")
        if end:
            return end
    return {}


def _rank(pod: Mapping[str, Any]) -> tuple[bool, bool, bool, str, str]:
    metadata = pod["metadata"]
    bound = bool((pod.get("spec") or {}).get("nodeName"))
    leaving = bool(metadata.get("deletionTimestamp"))
    return leaving, not is_ready(pod), not bound, metadata.get("creationTimestamp") or "", metadata["name"]


def _age(pod: Mapping[str, Any]) -> tuple[str, str]:
    return pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]


def _condition(obj: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    conditions: Sequence[Mapping[str, Any]] = (obj.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == kind), {})


def _is_settled(service: Mapping[str, Any]) -> bool:
    """Whether Knative's status speaks of the service as it is now."""
    generation = service["metadata"].get("generation")
    return generation is None or (service.get("status") or {}).get("observedGeneration") == generation


def _is_true(service: Mapping[str, Any], kind: str) -> bool:
    return _is_settled(service) and _condition(service, kind).get("status") == "True"


def _label(pod: Mapping[str, Any], label: str) -> str:
    return str((pod["metadata"].get("labels") or {}).get(label) or "")


def _failure(kind: FailureKind, words: str) -> Failure:
    return Failure(kind, _short(words))


def _short(words: str) -> str:
    """``words`` on one line, without secrets, and not too long to be read."""
    line = " ".join(redact(words[: 4 * LONGEST]).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 2]} …"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
