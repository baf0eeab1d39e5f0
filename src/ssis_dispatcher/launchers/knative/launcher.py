"""Servers as Knative Services: started, watched, stopped, and found again after a restart.

Theory of operation
-------------------
Four mirrors (our services; pods; nodes; quotas) are the eyes; what Knative allows is read once a minute. A change in a
mirror wakes whoever waits for it. What the mirrors say of one server is judged in one place (`pods.judge`), for a start as
for a running server, so a start and a crash cannot be told two stories.

A server's name is that of its Knative Service, and the service carries in an annotation all that the fleet must know of it
(`names.record`). So a launch whose reply was lost is found again instead of repeated, and a dispatcher that starts finds
what runs. An object that is not marked as ours is never touched, whatever its name.

What is told to the fleet and what is true may differ for seconds; the fleet's book is put right by `InventoryChanged`,
`ServerPlaced` and `ServerFailed`. Pods of servers that the fleet does not know (any more) count as somebody else's, so a
slice is never offered before it is free.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ssis_dispatcher.core.messages import (
    AnyEvent,
    Failure,
    FailureKind,
    InventoryChanged,
    Launch,
    Model,
    ServerFailed,
    ServerPlaced,
    ServerProgressed,
    ServerReady,
)
from ssis_dispatcher.core.slices import PENDING
from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.errors import DispatchError
from ssis_dispatcher.http import addresses
from ssis_dispatcher.kube.api import (
    CONFIGMAPS,
    NODES,
    PODS,
    QUOTAS,
    SECRETS,
    SERVICES,
    ApiError,
    Kind,
    Kube,
)
from ssis_dispatcher.kube.watch import Mirror
from ssis_dispatcher.launchers.base import LaunchFailed, Report
from ssis_dispatcher.launchers.knative import capacity, manifests, names, pods, specs
from ssis_dispatcher.launchers.knative.clearing import Clearing
from ssis_dispatcher.launchers.knative.features import CONFIGS, KNATIVE, Features
from ssis_dispatcher.launchers.knative.options import KnativeOptions, PodSource
from ssis_dispatcher.launchers.knative.servers import KnativeServer
from ssis_dispatcher.launchers.last_lines import LastLines
from ssis_dispatcher.telemetry.logs import WARNING
from ssis_dispatcher.telemetry.redact import redact

Object = dict[str, Any]
Log = Callable[..., None]
Phase = Callable[[str, str], None]

_SETTLE = 0.05
"""Seconds that changes of the inventory are gathered, so that a node that joins is one event and not fifty."""

_CALM = 9.0
"""How many times as long as it took to count the inventory it is then left alone: on a cluster of thousands of pods, where
something always changes, counting takes a tenth of a core at most."""

_FEATURES_EVERY = 60.0
"""Seconds between two looks at Knative's configuration."""

_SWEEP_WITHIN = 5.0
"""Seconds that a failed start may take to be cleared away before its callers are told: longer than a pod that crashed needs,
shorter than they should wait for the reason."""

_UNSCHEDULABLE_FOR = 10.0
"""Seconds for which the scheduler may find no place for a server whose slice was free. Then somebody else has taken it."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
"""Seconds between two tries of the same thing."""

_RECHECK = 5.0
"""Seconds after which a wait looks again even if nothing has changed."""

_WITHOUT_PROCESS = ("scheduling", "pulling", "starting")
"""Phases in which no process of the server runs."""

_LOGS_WITHIN = 2.0
"""Seconds to get the last lines of a server that failed."""

_CONTAINER = "user-container"
"""What Knative calls the container of a server."""

_QUEUE_PROXY = 8012
"""Port of the proxy that Knative puts into each pod: straight to the server would be past its counting and its draining."""


class ResolvePod(Protocol):
    """Find out where a model comes from, for a pod. Raises `DispatchError`; may be cancelled."""

    def __call__(self, model: Model, phase: Phase, /) -> Awaitable[PodSource]: ...


class KnativeLauncher:
    """One namespace of one cluster. ``gateway`` is where servers are called: the ``host:port`` of Knative's internal gateway,
    or "" for straight to the pods; ``domain`` is the cluster's. The mirrors run while `watch` does."""

    name = "knative"

    def __init__(
        self,
        kube: Kube,
        options: KnativeOptions,
        engines: Mapping[str, Engine],
        resolve: ResolvePod,
        *,
        gateway: str = "kourier-internal.kourier-system.svc.cluster.local:80",
        domain: str = "cluster.local",
        log: Log,
    ) -> None:
        self.options = options
        self.features = Features()
        self._kube = kube
        self._engines = engines
        self._resolve = resolve
        self._gateway = gateway
        self._domain = domain
        self._log = log
        self._servers: dict[str, KnativeServer] = {}
        self._failed = LastLines()
        self._report: Report | None = None
        self._told: InventoryChanged | None = None
        self._stale = asyncio.Event()
        self._pods_of: dict[str, dict[str, Object]] = {}
        self._chores: asyncio.TaskGroup | None = None
        namespace = options.namespace
        self._clearing = Clearing(kube, namespace, self._pods_of_server, self._stale.set, log)
        self._services = Mirror(
            kube, SERVICES, namespace, labels=names.OURS, changed=self._service_changed, trim=names.trim_service
        )
        self._pods = Mirror(kube, PODS, changed=self._pod_changed, trim=pods.trim)
        self._nodes = Mirror(kube, NODES, changed=self._inventory_changed, trim=capacity.trim_node)
        self._quotas = Mirror(kube, QUOTAS, namespace, changed=self._inventory_changed)

    # What happens by itself

    async def watch(self, report: Report) -> None:
        mirrors = (self._services, self._pods, self._nodes, self._quotas)
        self._told = None
        # Begun anew, what is there is found anew; only those for whom somebody waits are known already.
        self._servers = {name: server for name, server in self._servers.items() if not server.is_watched}
        try:
            async with asyncio.TaskGroup() as group:
                for mirror in mirrors:
                    group.create_task(mirror.run())
                await self._look_at_features()
                for mirror in mirrors:
                    await mirror.synced.wait()
                self._report, self._chores = report, group
                for service in list(self._services.objects.values()):
                    self._find(service)
                for pod in [pod for pods_of_name in self._pods_of.values() for pod in pods_of_name.values()]:
                    self._see_orphan_off(pod)
                group.create_task(self._features_now_and_then())
                await self._tell_inventory(report)
        finally:
            self._report = self._chores = None

    async def _tell_inventory(self, report: Report) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            self._stale.clear()
            began = clock()
            told = self._inventory()
            took = clock() - began
            before, self._told = self._told, told
            if before is None:
                report(told)
            elif told != before:
                report(told.since(before))
            await self._stale.wait()
            await asyncio.sleep(max(_SETTLE, _CALM * took))

    def _inventory(self) -> InventoryChanged:
        """All slices, and what others hold of them. A pod counts as ours while the fleet has its server in the book."""
        pools, hosts = capacity.inventory(
            self._nodes.objects.values(),
            self._pods.objects.values(),
            self._quotas.objects.values(),
            ours=self._servers.keys(),
            options=self.options,
            features=self.features,
            waiting=self._waiting(),
        )
        return InventoryChanged("launcher", pools, hosts)

    def _waiting(self) -> Mapping[str, int]:
        """How many of our servers wait for slices that no node has yet, by resource."""
        return Counter(server.slice for server in self._servers.values() if server.node == PENDING)

    def change_options(self, options: KnativeOptions) -> None:
        """The operator's choices have changed: they count for the inventory now, and for servers from the next launch on."""
        self.options = options
        self._stale.set()

    async def _features_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_FEATURES_EVERY)
            await self._look_at_features()

    async def _look_at_features(self) -> None:
        """What this Knative allows. What cannot be read counts as it is in a new installation."""
        found: list[Object] = []
        for name in CONFIGS:
            try:
                found.append(await self._kube.get(CONFIGMAPS, name, KNATIVE))
            except ApiError as error:
                if error.transient:
                    return
                found.append({})
        features = Features.of(*found)
        if features != self.features:
            self.features = features
            self._stale.set()

    def _inventory_changed(self, old: Object | None, new: Object | None) -> None:
        self._stale.set()

    def _service_changed(self, old: Object | None, new: Object | None) -> None:
        service = new or old or {}
        metadata = service["metadata"]
        server = self._servers.get(metadata["name"])
        if server is None:
            if new is not None and self._report is not None:
                self._find(new)
            return
        if server.uid == metadata["uid"]:
            server.seen = True
            if new is not None:
                self._tell_slice(server, new)
        self._wake(server)

    def _tell_slice(self, server: KnativeServer, service: Object) -> None:
        """Somebody (SSIS's autoscaler) may have given a server another slice than it was launched on."""
        slice, _ = names.asked(service) or (server.slice, 1)
        if slice != server.slice and self._report is not None:
            server.slice = slice
            self._report(ServerPlaced("launcher", server.name, server.node, slice))
            self._stale.set()

    def _hostname(self, node: str) -> str:
        return capacity.hostname(self._nodes.objects.get(("", node)))

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        if capacity.concerns(old, new):
            self._stale.set()
        metadata = (new or old or {})["metadata"]
        name = (metadata.get("labels") or {}).get(names.SERVICE)
        if name is None or metadata["namespace"] != self.options.namespace:
            return
        if new is not None:
            self._pods_of.setdefault(name, {})[metadata["name"]] = new
        elif name in self._pods_of:
            self._pods_of[name].pop(metadata["name"], None)
            if not self._pods_of[name]:
                del self._pods_of[name]
        server = self._servers.get(name)
        if server is not None:
            self._wake(server)
        elif new is not None:
            self._see_orphan_off(new)

    def _see_orphan_off(self, pod: Object) -> None:
        """A pod of ours that goes, whose service is gone and whose server is in nobody's book: a dispatcher that stopped it
        went away before it was gone. Left alone it would hold its slice for as long as a request may take."""
        metadata = pod["metadata"]
        name, uid = metadata["labels"][names.SERVICE], metadata["labels"].get(names.SERVICE_UID, "")
        known = (
            uid in self._clearing.leaving
            or name in self._servers
            or (self.options.namespace, name) in self._services.objects
        )
        if known or self._chores is None or not metadata.get("deletionTimestamp") or not names.owned(pod):
            return
        self._clearing.leaving.add(uid)
        self._log("seeing off", server=name, pod=metadata["name"])
        orphan = KnativeServer(name, "launcher", "", "", uid)
        self._chores.create_task(self._clearing.sweep(orphan))

    def _wake(self, server: KnativeServer) -> None:
        """Something about this server has changed: whoever waits for it looks, or else we do."""
        server.changed.set()
        if server.is_watched and self._report is not None:
            self._look(server)

    def _find(self, service: Object) -> None:
        """A service of ours for which nobody waits: one that runs already, or that another dispatcher has started."""
        metadata = service["metadata"]
        known = self._servers.get(metadata["name"])
        if metadata.get("deletionTimestamp") or metadata["uid"] in self._clearing.leaving or self._report is None:
            return
        if known is not None and not known.is_watched:
            return
        found = names.read(service)
        if not isinstance(found, names.Adopted):
            if found is not None:
                self._log("left_alone", WARNING, server=found.name, why=found.why)
            return
        server = KnativeServer(found.record.server, "launcher", found.slice, found.record.node, metadata["uid"])
        self._servers[server.name] = server
        verdict = self._judge(server)
        server.ready = verdict.ready
        server.node = verdict.node or server.node
        address = self._address(server) if verdict.ready else None
        self._report(found.event("launcher", server.node, address))
        self._stale.set()
        self._look(server)

    def _look(self, server: KnativeServer) -> None:
        """Tell what has become of a server for which nobody waits."""
        verdict = self._judge(server)
        if server.ready and verdict.failure is None and verdict.phase in _WITHOUT_PROCESS:
            # Knative makes another pod, which may wait for a slice, or load for minutes. That is a new start, and starts are
            # the fleet's to decide.
            kind = FailureKind.REMOVED if ("", server.node) in self._nodes.objects else FailureKind.LOST
            gone = Failure(kind, f"its pod went away ({verdict.phase} again)")
            verdict = msgspec.structs.replace(verdict, failure=gone)
        if verdict.failure is not None:
            if self._is_certain(server, verdict) and self._chores is not None:
                server.stopping = True
                self._chores.create_task(self._lose(server, verdict))
            return
        self._tell_progress(server, verdict, self._tell)
        if verdict.ready and not server.ready:
            server.ready = True
            self._tell(ServerReady(server.cause, server.name, self._address(server)))

    def _is_certain(self, server: KnativeServer, verdict: pods.Verdict) -> bool:
        """Whether a failure has stood long enough to be believed; if not, it is looked at again when it has."""
        if verdict.failure is None:
            server.doubted = None
            return False
        loop = asyncio.get_running_loop()
        if server.doubted is None or server.doubted[0] != verdict.failure.message:
            server.doubted = (verdict.failure.message, loop.time())
        left = server.doubted[1] + verdict.after - loop.time()
        if left > 0:
            loop.call_later(left, self._wake, server)
        return left <= 0

    async def _lose(self, server: KnativeServer, verdict: pods.Verdict) -> None:
        """A server that nobody told to stop is of no use any more. What is left of it is cleared away, so that it neither
        holds its slice nor comes back by itself beside the one that takes its place."""
        failure, lines = await self._explained(server, verdict)
        if self._servers.get(server.name) is server:
            del self._servers[server.name]
        self._failed.keep(server.name, [*lines, failure.message])
        self._stale.set()
        self._tell(ServerFailed("launcher", server.name, failure))
        await self._clearing.sweep(server)

    async def _explained(self, server: KnativeServer, verdict: pods.Verdict) -> tuple[Failure, list[str]]:
        """Why it failed, now that its last words are known, and those."""
        assert verdict.failure is not None
        lines = await self._lines_of(server)
        again = self._judge(server, lines)
        return again.failure or verdict.failure, lines

    def _tell(self, event: AnyEvent) -> None:
        if self._report is not None:
            self._report(event)

    # A start

    async def launch(self, order: Launch, report: Report) -> ServerReady:
        self._failed.forget(order.server)
        server = self._servers[order.server] = KnativeServer(
            order.server, order.cause, order.pool.slice.name, order.pool.node
        )

        def phase(name: str, detail: str) -> None:
            report(ServerProgressed(order.cause, order.server, name, detail))

        try:
            source = await self._source(order, phase)
            await self._make(server, order, source, phase)
            await self._wait_ready(server, order, report)
        except (LaunchFailed, ApiError) as error:
            failure = error.failure if isinstance(error, LaunchFailed) else _refused(error)
            await self._failed_to_start(server, failure)
            raise LaunchFailed(failure) from error
        finally:
            server.launching = False
        server.ready = True
        return ServerReady(order.cause, order.server, self._address(server))

    async def _source(self, order: Launch, phase: Phase) -> PodSource:
        """Raises `LaunchFailed`."""
        try:
            return await self._resolve(order.model, phase)
        except DispatchError as error:
            raise LaunchFailed.of(error) from error

    async def _make(self, server: KnativeServer, order: Launch, source: PodSource, phase: Phase) -> None:
        """Create the service, and the Secret that its pod reads the caller's token from. Raises `LaunchFailed`."""
        engine = self._engines.get(order.model.engine)
        if engine is None:
            message = f"there is no engine {order.model.engine!r} on this platform"
            raise LaunchFailed(Failure(FailureKind.MISCONFIGURED, message))
        service = manifests.service(
            specs.spec_of(order, engine, source, self.options, self.features, self._hostname(order.pool.node))
        )
        phase("creating", "")
        if source.token:
            server.may_have_secret = True
            secret = manifests.token_secret(order, source.token, self.options)
            there = await self._create(SECRETS, secret, order, names.owned)
            if there.get("data") != secret["data"]:  # it was left over from another start, with another token
                await self._kube.patch(SECRETS, order.server, {"data": secret["data"]}, self.options.namespace)
        found = await self._create(SERVICES, service, order, lambda found: _is_same(found, service))
        server.uid = found["metadata"]["uid"]
        if source.token:
            await self._give_to(order.server, found)

    async def _create(self, kind: Kind, body: Object, order: Launch, is_ours: Callable[[Object], bool]) -> Object:
        """Create ``body``, once, whatever the API server says about it: where the answer is lost, or the name taken, what is
        there is looked at. An older one of the same name is awaited until it is gone. Raises `LaunchFailed`."""
        name = body["metadata"]["name"]
        until = asyncio.get_running_loop().time() + order.budget
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._kube.create(kind, body, self.options.namespace)
            except ApiError as error:
                # A conflict on a create is a quota that others write at the same moment.
                if not (error.exists or error.conflict or error.transient):
                    raise LaunchFailed(_refused(error)) from error
                last = error
            try:
                found = await self._kube.get(kind, name, self.options.namespace)
            except ApiError as error:
                found = None
                last = last if error.missing else error
            if found is not None and not found["metadata"].get("deletionTimestamp"):
                if is_ours(found):
                    return found
                if not names.owned(found):
                    message = f"{kind.plural}/{name} is there already, and is not the dispatcher's; it is left alone"
                    raise LaunchFailed(Failure(FailureKind.MISCONFIGURED, message))
                await self._delete(kind, found)
            if asyncio.get_running_loop().time() + pause > until:
                raise LaunchFailed(Failure(FailureKind.CRASHED, f"{kind.plural}/{name} could not be created: {last}"))
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 1.5)

    async def _give_to(self, secret: str, service: Object) -> None:
        """Let the Secret go when its service does. If that fails it goes when the server is stopped, by its name."""
        metadata = service["metadata"]
        owner = {
            "apiVersion": SERVICES.api_version,
            "kind": SERVICES.kind,
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        try:
            await self._kube.patch(SECRETS, secret, {"metadata": {"ownerReferences": [owner]}}, self.options.namespace)
        except ApiError as error:
            self._log("secret_without_owner", WARNING, server=metadata["name"], error=str(error))

    async def _wait_ready(self, server: KnativeServer, order: Launch, report: Report) -> None:
        """Until it can answer. Raises `LaunchFailed` when it never will."""
        clock = asyncio.get_running_loop().time
        nowhere_since: float | None = None
        while True:
            server.changed.clear()
            verdict = self._judge(server)
            if self._is_certain(server, verdict):
                failure, lines = await self._explained(server, verdict)
                self._failed.keep(server.name, lines)
                raise LaunchFailed(failure)
            self._tell_progress(server, verdict, report)
            if verdict.ready:
                return
            nowhere = verdict.phase == "scheduling" and bool(verdict.pod and verdict.detail) and server.node != PENDING
            nowhere_since = (nowhere_since or clock()) if nowhere else None
            if nowhere_since is not None and clock() - nowhere_since >= _UNSCHEDULABLE_FOR:
                raise LaunchFailed(Failure(FailureKind.LOST, f"no node can take it: {verdict.detail}"))
            await server.wait(_RECHECK)

    async def _failed_to_start(self, server: KnativeServer, failure: Failure) -> None:
        """Clear away what a start has left, as far as that goes quickly; the rest counts as taken until it is gone."""
        self._failed.keep(server.name, [*self._failed.of(server.name), failure.message])
        server.stopping = True
        try:
            async with asyncio.timeout(_SWEEP_WITHIN):
                await self._clearing.remove(server, 0.0)
        except (TimeoutError, ApiError) as error:
            self._log("left_behind", WARNING, server=server.name, error=repr(error))
            if self._chores is not None:
                self._chores.create_task(self._clearing.sweep(server))
        if self._servers.get(server.name) is server:
            del self._servers[server.name]
        self._stale.set()

    # An end

    async def stop(self, server: str, grace: float) -> None:
        known = self._servers.get(server)
        if known is None:
            return
        known.stopping = True
        await self._clearing.remove(known, grace)
        if self._servers.get(server) is known:
            del self._servers[server]
        self._stale.set()

    # What is known of a server

    def _judge(self, server: KnativeServer, lines: Sequence[str] = ()) -> pods.Verdict:
        service = self._services.objects.get((self.options.namespace, server.name))
        if service is not None and service["metadata"]["uid"] != server.uid:
            service = None
        if service is None and not server.seen:
            return pods.Verdict(False, "creating")
        return pods.judge(service, self._pods_of_server(server), lines, needs_route=bool(self._gateway))

    def _pods_of_server(self, server: KnativeServer) -> Sequence[Object]:
        of_name = self._pods_of.get(server.name, {})
        return [pod for pod in of_name.values() if pod["metadata"]["labels"].get(names.SERVICE_UID) == server.uid]

    def _tell_progress(self, server: KnativeServer, verdict: pods.Verdict, report: Report) -> None:
        """Where it is, and how far."""
        if verdict.node and verdict.node != server.node:
            server.node = verdict.node
            report(ServerPlaced(server.cause, server.name, verdict.node))
        told = (verdict.phase, verdict.detail)
        if told != server.told and not verdict.ready:
            server.told = told
            report(ServerProgressed(server.cause, server.name, *told))

    def _address(self, server: KnativeServer) -> str:
        """Where it is called, as `dispatcher.Endpoint` has it: a gateway and the host that it knows it by, or the pod."""
        if self._gateway:
            return f"{self._gateway}/{server.name}.{self.options.namespace}.svc.{self._domain}"
        ip = self._judge(server).ip
        if ip:
            return addresses.join(ip, _QUEUE_PROXY)
        return f"{server.name}.{self.options.namespace}.svc.{self._domain}:80"

    async def logs(self, server: str) -> list[str]:
        known = self._servers.get(server)
        if known is None:
            return self._failed.of(server)
        return await self._lines_of(known)

    async def _lines_of(self, server: KnativeServer) -> list[str]:
        """Its pod's last lines; those of the container before, where that has just ended."""
        lines: list[str] = []
        for pod in self._pods_of_server(server):
            for previous in (True, False):
                try:
                    async with asyncio.timeout(_LOGS_WITHIN):
                        lines += await self._kube.logs(
                            self.options.namespace, pod["metadata"]["name"], _CONTAINER, previous=previous
                        )
                except (ApiError, TimeoutError):  # no such container, not yet, not any more
                    continue
                break
        return [redact(line) for line in lines]

    async def _delete(self, kind: Kind, found: Object) -> None:
        """An older object of ours, which stands in the way."""
        metadata = found["metadata"]
        with contextlib.suppress(ApiError):
            await self._kube.delete(kind, metadata["name"], self.options.namespace, uid=metadata["uid"])

    async def close(self) -> None:
        """Servers go on running; the next dispatcher finds them."""

    def __repr__(self) -> str:
        ready = sum(server.ready for server in self._servers.values())
        return f"<KnativeLauncher: {ready} ready, {len(self._servers) - ready} not, {len(self._failed)} failed>"


def _is_same(found: Object, wanted: Object) -> bool:
    """Whether a service that is there is the one that was to be created: ours, with the same record."""
    return names.owned(found) and _record(found) == _record(wanted)


def _record(service: Object) -> str | None:
    record: str | None = (service["metadata"].get("annotations") or {}).get(names.RECORD)
    return record


def _refused(error: ApiError) -> Failure:
    """Why the API server, Knative's webhook or a quota did not let a service be created."""
    if error.transient or error.fenced:
        return Failure(FailureKind.CRASHED, f"the cluster's API server could not be asked: {error.message}")
    if error.forbidden and "exceeded quota" in error.message:
        return Failure(FailureKind.LOST, f"the namespace's quota is used up: {error.message}")
    return Failure(FailureKind.MISCONFIGURED, f"the cluster refused it: {error.message}")
