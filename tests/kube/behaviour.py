"""How pods behave, on order: how long they take, how they fail, what they print."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from tests.kube.store import Json

WAITING = {
    "ErrImagePull": "failed to pull and unpack image: not found",
    "InvalidImageName": "couldn't parse image name: invalid reference format",
    "CreateContainerConfigError": "configuration error",
    "CreateContainerError": "failed to create containerd container",
    "RunContainerError": "failed to start container",
}
"""Reasons for which a container never starts, with what the kubelet might say."""

CRASHES = {"Error": 1, "CrashLoopBackOff": 1, "OOMKilled": 137}
"""Reasons for which a container ends, again and again, with the exit code."""

ENDS = ("Evicted", "UnexpectedAdmissionError", "OutOfcpu", "OutOfmemory", "OutOfpods", "NodeShutdown")
"""Reasons for which a whole pod becomes Failed. Names of resources (``OutOfnvidia.com/…``) are of this kind, too."""


@dataclass(frozen=True)
class Behaviour:
    """What the pods of one kind do. Times are seconds of the loop's clock."""

    pull: float = 0.3
    """From being bound to a node until the container starts."""
    ready_after: float = 1.0
    """From the container's start until its readiness probe succeeds."""
    stuck: bool = False
    """It runs and never becomes ready."""
    fail: str = ""
    """A reason of `WAITING`, `CRASHES` or `ENDS`, or ``ContainerMissing`` (the tag cannot be resolved; there is no pod)."""
    fail_after: float = 0.5
    """From the container's start until it ends, for `CRASHES`. Longer than ``ready_after``: it fails when it is ready."""
    times: int | None = None
    """How many times it fails before it goes well. None: always."""
    exit_code: int | None = None
    message: str = ""
    """The kubelet's message, or the termination message."""
    drain: float | None = None
    """From deletion until the pod is gone, if its grace period is not shorter. By default what Knative's queue-proxy takes
    (30 s) for the pods of a Knative Service, and half a second for others."""
    logs: tuple[str, ...] = ()

    @property
    def code(self) -> int:
        return self.exit_code if self.exit_code is not None else CRASHES.get(self.fail, 1)


Match = str | Callable[[Json], bool]


@dataclass
class Behaviours:
    """What was ordered; the latest order that fits a pod counts."""

    default: Behaviour = Behaviour()

    def __post_init__(self) -> None:
        self._orders: list[tuple[Match, dict[str, Any]]] = []

    def order(self, match: Match, **changes: Any) -> None:
        if "logs" in changes:
            changes["logs"] = tuple(changes["logs"])
        replace(self.default, **changes)  # says so when there is no such field
        self._orders.append((match, changes))

    def of(self, pod: Json) -> Behaviour:
        """How this pod, or pod template of a revision, behaves."""
        for match, changes in reversed(self._orders):
            if match(pod) if callable(match) else any(fnmatchcase(word, match) for word in words(pod)):
                return replace(self.default, **changes)
        return self.default


def words(pod: Json) -> Iterator[str]:
    """What a pod can be told by: its name, its Knative Service, its images, arguments and variables."""
    metadata = pod.get("metadata") or {}
    yield metadata.get("name", "")
    yield from (metadata.get("labels") or {}).values()
    yield from (metadata.get("annotations") or {}).values()
    for container in pod["spec"]["containers"]:
        if container.get("name") != "queue-proxy":
            yield container.get("image", "")
            yield from container.get("command") or ()
            yield from container.get("args") or ()
            for variable in container.get("env") or ():
                yield variable.get("value") or ""
