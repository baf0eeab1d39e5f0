"""A Kubernetes cluster with Knative in one object, on the loop of the test that uses it.

    async with FakeCluster(namespaces=("models",)) as cluster:
        cluster.nodes.add("a", {"nvidia.com/mig-1g.5gb": 7})
        cluster.behave("*/gpt-2", ready_after=3.0)
        kube = Kube.at(cluster.url)

How it differs from a real one is written in ``README.md`` beside this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from tests.kube.api import Api, Deletion
from tests.kube.behaviour import Behaviours, Match
from tests.kube.calls import Call
from tests.kube.faults import Faults
from tests.kube.garbage import Garbage
from tests.kube.gateway import Gateway
from tests.kube.http import Front
from tests.kube.kinds import CONFIGMAPS, DEPLOYMENTS, KNATIVE, NAMESPACES, PODS, SERVICES, Kind
from tests.kube.knative import Knative
from tests.kube.kubelet import Kubelet, Run
from tests.kube.nodes import Nodes
from tests.kube.quotas import Bookkeeper
from tests.kube.scheduler import Scheduler
from tests.kube.store import Json
from tests.kube.webhook import SYSTEM, Webhook
from tests.kube.wire import Listener

NAMESPACES_THERE = ("default", "kube-system", "kube-public", SYSTEM, "kourier-system")
SETTINGS = (
    "config-autoscaler",
    "config-defaults",
    "config-deployment",
    "config-domain",
    "config-features",
    "config-network",
)
MINOR = 27
"""Knative Serving 0.N is Knative 1.(N − 27)."""


class FakeCluster:
    """The cluster. It exists while its ``async with`` block does."""

    def __init__(
        self,
        *,
        namespaces: tuple[str, ...] = (),
        knative: str | None = "1.15",
        features: Mapping[str, str] | None = None,
        history: int = 10_000,
        seed: int = 0,
    ) -> None:
        """``namespaces`` exist from the start, besides the system's. ``knative`` is its version, None for a cluster without;
        ``features`` is its config-features. ``history`` is how many changes of one resource watches can go back."""
        self.api = Api(history=history, seed=seed)
        self.faults = Faults(seed)
        self.behaviours = Behaviours()
        self.nodes = Nodes(self.api)
        self.front = Front(self.api, self.faults, self._logs)
        self._namespaces = (*NAMESPACES_THERE, *namespaces)
        self._features = dict(features or {})
        self._version = knative
        if knative is None:
            for kind in KNATIVE:
                del self.api.store.shelves[kind.group, kind.plural]
        self.scheduler = Scheduler(self.api)
        self.kubelet = Kubelet(self.api, self.behaviours, self.nodes)
        self.knative = Knative(self.api, self.behaviours) if knative else None
        Garbage(self.api)
        Bookkeeper(self.api.store, self.api.clock)
        self.gateway = Gateway(self.knative, self.api.clock)
        self._server = Listener(self.front.handle)
        self._entrance = Listener(self.gateway.handle)

    async def __aenter__(self) -> FakeCluster:
        for name in self._namespaces:
            self.create(NAMESPACES, {"metadata": {"name": name}})
        if self._version is not None:
            self._install(int(self._version.split(".")[1]))
        await self._server.open()
        await self._entrance.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.api.clock.stop()
        for watch in list(self.front.watches):
            watch.leave()
        await self._server.leave()
        await self._entrance.leave()

    def _install(self, minor: int) -> None:
        labels = {"app.kubernetes.io/name": "knative-serving", "app.kubernetes.io/version": f"0.{minor + MINOR}.2"}
        for name in SETTINGS:
            data = {"_example": "# what could be set here"} | (self._features if name == "config-features" else {})
            self.create(CONFIGMAPS, {"metadata": {"name": name, "labels": labels}, "data": data}, SYSTEM)
        for name in ("activator", "autoscaler", "controller", "webhook"):
            metadata = {"name": name, "labels": labels | {"app.kubernetes.io/component": name}}
            self.create(DEPLOYMENTS, {"metadata": metadata, "spec": {"replicas": 1}}, SYSTEM)
        self.api.admit[SERVICES] = [Webhook(self.api, minor)]

    @property
    def url(self) -> str:
        """Where the API server is."""
        return self._server.url

    @property
    def kubeconfig(self) -> str:
        """A kubeconfig, as a file has it, whose current context is this cluster."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        return json.dumps(config)

    @property
    def gateway_url(self) -> str:
        """Where the gateway is that routes by the ``Host`` header to ready servers."""
        return self._entrance.url

    @property
    def log(self) -> list[Call]:
        """Every request so far, refused ones too."""
        return self.front.log

    # Objects, behind the API's back

    def create(self, kind: Kind, body: Json, namespace: str = "") -> Json:
        return self.api.create(kind, body, namespace).object

    def get(self, kind: Kind, name: str, namespace: str = "") -> Json | None:
        """An object as it is, or None. Not to be changed."""
        entry = self.api.store.find(kind, name, namespace)
        return entry.object if entry else None

    def all(self, kind: Kind, namespace: str = "") -> list[Json]:
        return [entry.object for entry in self.api.store.shelf(kind).sorted(namespace)]

    def edit(
        self, kind: Kind, name: str, namespace: str, change: Callable[[Json], None], *, status: bool = False
    ) -> None:
        """Change an object as somebody else would."""
        self.api.edit(kind, name, namespace, change, status=status)

    def delete(self, kind: Kind, name: str, namespace: str = "", grace: int | None = None) -> None:
        self.api.delete(kind, name, namespace, Deletion(grace=grace))

    def define(self, kind: Kind) -> None:
        """Have the API know one more resource."""
        self.api.store.define(kind)

    def compact(self) -> None:
        """Forget the history, so that old versions and list tokens are answered with 410."""
        self.api.compact()

    async def until(self, fact: Callable[[], object], within: float = 60.0) -> float:
        """Wait until a fact about the objects holds; returns the seconds it took. Raises TimeoutError."""
        changed = asyncio.Event()
        followers = [shelf.follow(lambda _: changed.set()) for shelf in self.api.store]
        begun = self.api.clock.time
        try:
            async with asyncio.timeout(within):
                while not fact():
                    changed.clear()
                    await changed.wait()
        finally:
            for follower in followers:
                follower.stop()
        return self.api.clock.time - begun

    # Knative and its pods

    def behave(self, match: Match, **how: Any) -> None:
        """How the pods behave from now on whose name, Knative Service, image, argument or variable matches (a pattern with
        ``*``, or a function of the pod). The fields of `Behaviour` say what can be ordered; the latest order counts."""
        self.behaviours.order(match, **how)

    def feature(self, flag: str, value: str | None = "enabled") -> None:
        """Set a flag of Knative's config-features."""

        def change(item: Json) -> None:
            data = item.setdefault("data", {})
            data.pop(flag, None)
            data |= {flag: value} if value is not None else {}

        self.api.edit(CONFIGMAPS, "config-features", SYSTEM, change)

    def pods(self, service: str, namespace: str = "") -> list[Json]:
        """The pods of a Knative Service."""
        label = "serving.knative.dev/service"
        return [pod for pod in self.all(PODS, namespace) if (pod["metadata"].get("labels") or {}).get(label) == service]

    def crash(self, pod: str, reason: str = "Error", message: str = "") -> None:
        """Have the first container of a running pod end by itself, once."""
        self.kubelet.crash(self._run(pod), reason, None, message)

    def fail(self, pod: str, reason: str = "Evicted", message: str = "") -> None:
        """Have a pod become Failed, as an eviction does."""
        self.kubelet.finish(self._run(pod), reason, message)

    def _run(self, pod: str) -> Run:
        return next(run for run in self.kubelet.runs.values() if run.key[1] == pod)

    def _logs(self, pod: Json, container: str, previous: bool) -> list[str] | None:
        return self.kubelet.logs(pod, container, previous)

    # Trouble

    @contextlib.asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """The API server is away: connections are refused, and those that were open are cut. What runs goes on running."""
        await self._server.close()
        try:
            yield
        finally:
            await self._server.open()

    def cut_watches(self) -> None:
        """Break every open watch off, once."""
        for watch in list(self.front.watches):
            watch.cut()
