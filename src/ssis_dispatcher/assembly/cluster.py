"""A dispatcher on a Kubernetes cluster: what it has beside one on a single machine.

It takes part in the election of a leader even when it is alone, because a rollout runs old and new side by side. Only the
leader keeps the book and lets its launcher watch; whoever does not lead hands requests over (`gateway.following`). While the
API server cannot be asked, or it is not certain that nobody else leads, the fleet's hands are tied: what runs is used, and
nothing is started or stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from ssis_dispatcher.assembly.choices import choices
from ssis_dispatcher.assembly.knowledge import Knowledge, configured
from ssis_dispatcher.core.messages import HandsTied, Model
from ssis_dispatcher.core.sizing import Profile
from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.dispatcher import Dispatcher
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.errors import DispatchError, Problem
from ssis_dispatcher.files import BadFile
from ssis_dispatcher.gateway.following import LEADER_CHANGED, Following
from ssis_dispatcher.http import addresses
from ssis_dispatcher.http.addresses import Address
from ssis_dispatcher.kube.api import CONFIGMAPS, EVENTS, MANAGER, ApiError, Kube
from ssis_dispatcher.kube.credentials import NoCluster, in_pod
from ssis_dispatcher.kube.lease import Lease
from ssis_dispatcher.kube.watch import Mirror
from ssis_dispatcher.launchers.knative.launcher import KnativeLauncher
from ssis_dispatcher.launchers.knative.options import PodSource
from ssis_dispatcher.launchers.knative.specs import host_request
from ssis_dispatcher.models.access import PUBLIC
from ssis_dispatcher.models.directory import Served
from ssis_dispatcher.models.profiles import GPU_KINDS
from ssis_dispatcher.settings import Settings
from ssis_dispatcher.store.configmap import ConfigMapStore
from ssis_dispatcher.telemetry.logs import ERROR, INFO, log

LEARNED = "dispatcher-learned"
"""The ConfigMap of what launches taught."""

ELSEWHERE = Problem(503, LEADER_CHANGED, "Another dispatcher has taken the lead; send the request again.", 1.0)
"""Why a request that waited is refused when the lead changes hands, where it cannot be handed over."""

_EVERYWHERE = (*GPU_KINDS, SliceKind.CPU)


def served(settings: Settings) -> dict[str, Served]:
    """The engines that run in pods: ours, and those that the operator has configured. They fetch models by themselves."""
    ours = {
        name: Served(
            engine,
            files=name == "llamacpp",
            kinds=_EVERYWHERE if name == "llamacpp" else GPU_KINDS,
            parallel=() if name == "llamacpp" else (2, 4, 8),
            remote=True,
        )
        for name, engine in ENGINES.items()
        if name != "openai"
    }
    theirs = {name: msgspec.structs.replace(engine, remote=True) for name, engine in configured(settings).items()}
    return ours | theirs


class Cluster:
    """Made before everything that needs its parts; `begin` when everything is there."""

    def __init__(self, settings: Settings) -> None:
        self.engines = served(settings)
        try:
            self.kube = Kube.find(settings.kube_context)
        except NoCluster as error:
            raise DispatchError(str(error)) from error
        self.store = ConfigMapStore(self.kube, settings.namespace, LEARNED)
        self.choices = choices(settings, None, self.engines)
        self._settings = settings
        self._in_office = False
        self._changing = asyncio.Event()
        self._chosen = False  # what the operator chooses has been read, at least once
        self._decided = asyncio.Event()  # it has, or cannot be
        self._tied = False
        self._complaint: dict[str, Any] | None = None

    def launcher(self, knowledge: Knowledge) -> KnativeLauncher:
        """The launcher of this cluster."""
        settings = self._settings
        self._knowledge = knowledge
        self._launcher = KnativeLauncher(
            self.kube,
            self.choices.options,
            knowledge.engines,
            self._resolve,
            gateway="" if settings.gateway == "pods" else settings.gateway,
            domain=settings.cluster_domain,
            log=log,
        )
        return self._launcher

    async def _resolve(self, model: Model, phase: Callable[[str, str], None], /) -> PodSource:
        """What a pod is told to load. The token of callers is only for what the hub does not give to everybody."""
        directory = self._knowledge.directory
        entry = directory.catalogue.get(model.id)
        load = await directory.resolve(model)
        token = directory.token_of(model) if model.scope != PUBLIC else None
        return PodSource(load, entry.image if entry is not None else "", (), token or "")

    async def describe(self, model: Model) -> Profile:
        """What ``model`` needs, its node's CPU and memory among it. Raises as `Directory.describe`."""
        profile = await self._knowledge.directory.describe(model)
        cpu, mib = host_request(profile, model.engine, self.choices.options.host, self._launcher.features.sidecar)
        return msgspec.structs.replace(profile, host_cpu_millis=cpu, host_mib=mib)

    def follow(self, following: Following, dispatcher: Dispatcher) -> None:
        """``following`` takes the requests while another leads, ``dispatcher`` is told when we do."""
        self._following = following
        self._dispatcher = dispatcher

    # Whose turn it is

    @property
    def leads(self) -> bool:
        """Whether requests are answered by the book of this process."""
        return self._in_office

    def leader(self) -> Address | None:
        """Where another dispatcher leads; None where none does, as far as is known."""
        lease = self._lease
        if lease.leading or not lease.address:
            return None
        return addresses.split(lease.address)

    def unready(self) -> Problem | None:
        """Why no request should come here; None where they may."""
        if self._decided.is_set() and not self._chosen:  # also while another leads: in a rollout it would be ended next
            return Problem(503, "no_leader", "This dispatcher cannot lead: dispatcher-config cannot be used.", 10.0)
        if self._in_office or self.leader() is not None:
            return None
        return Problem(503, "no_leader", "No dispatcher leads yet.", 1.0)

    def begin(self, port: int) -> None:
        """Watch what the operator chooses, and who leads; stand for election when it is known what is chosen."""
        settings = self._settings
        self._address = settings.replica_address or _own_address(port)
        self._lease = self._candidate()
        self.kube.fence = lambda: self._lease.certain
        config = Mirror(
            self.kube,
            CONFIGMAPS,
            settings.namespace,
            fields=f"metadata.name={settings.dispatcher_config}",
            changed=self._config_changed,
        )
        tasks = self._dispatcher.tasks
        tasks.start(self._take_part(), "lease")
        tasks.start(config.run(), "dispatcher-config")
        tasks.start(self._first_choices(config), "first dispatcher-config")
        tasks.start(self.store.run(), "learned facts")
        tasks.start(self._hold_office(), "office")

    def _candidate(self, *, stands: bool = True) -> Lease:
        """Our part in the election, or only our eye on it."""
        namespace, name = self._settings.namespace, self._settings.lease
        return Lease(self.kube, namespace, name, identity(), self._address, changed=self._moved, stands=stands)

    def _moved(self) -> None:
        self.tie()
        self._changing.set()
        if not self._lease.leading:
            self._following.moved()

    async def _take_part(self) -> None:
        """Stand for election when it is known what the operator chooses, or only watch until that can be known. Nobody may
        lead before: models would go to slices that are not for them."""
        await self._decided.wait()
        if not self._chosen:
            self._lease = self._candidate(stands=False)
        await self._lease.run()

    async def _hold_office(self) -> None:
        """Take office when we lead, lay it down when we do not."""
        while True:
            self._changing.clear()
            if self._lease.leading and not self._in_office:
                await self._take_office()
            elif self._in_office and not self._lease.leading:
                await self.abdicate()
            await self._changing.wait()

    async def _take_office(self) -> None:
        log("leading", lease=self._settings.lease)
        await self.store.fetch()
        self._knowledge.lessons.reload()
        self._dispatcher.start()
        self._in_office, self._tied = True, False
        self.tie()
        self._complain()
        self._following.moved()

    async def abdicate(self) -> None:
        """Decide nothing more. Requests that wait go to whoever leads next."""
        if self._in_office:
            self._in_office = False
            log("following", leader=self._lease.holder)
            await self._dispatcher.abdicate(ELSEWHERE)

    async def leave(self) -> None:
        """Hand the lead over, for good: this process is about to end."""
        self._chosen = True  # too late to stand
        await self.abdicate()
        released = self._lease
        await released.release()
        self._lease = self._candidate(stands=False)
        self._dispatcher.tasks.start(self._lease.run(), "who leads now")

    def tie(self) -> None:
        """Once a second, and when the lead may have changed hands: may anything be started and stopped?"""
        tied = not (self._lease.certain and self.kube.reachable)
        if self._in_office and tied != self._tied:
            self._tied = tied
            log("hands tied" if tied else "hands free", ERROR if tied else INFO, reachable=self.kube.reachable)
            self._dispatcher.post(HandsTied("kubernetes", tied))

    # What the operator chooses

    async def _first_choices(self, config: Mirror) -> None:
        """There may be no ConfigMap at all: then the settings count."""
        await config.synced.wait()
        if not config.objects:
            self._choose()

    def _choose(self) -> None:
        """What the operator chooses is known: we may lead."""
        if not self._chosen:
            self._chosen = True
            self._decided.set()
            self._lease.stand()

    def _config_changed(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        """An edit of the ConfigMap. A bad one is refused, and the last good one stays; where there was none, nobody leads."""
        try:
            chosen = choices(self._settings, (new or {}).get("data"), self.engines)
            changed = self._knowledge.take_choices(chosen.catalogue, chosen.engine)
        except BadFile as error:
            if self._chosen:
                log("dispatcher-config refused: the choices from before stay in force", ERROR, reason=str(error))
            else:
                log("dispatcher-config refused: nothing is decided until it is put right", ERROR, reason=str(error))
                self._decided.set()
            self._complaint = None if new is None else _event(new, str(error))
            self._complain()
            return
        self._complaint = None
        if new is not None:  # something that all replicas have, and that outlives them
            self._knowledge.access.take_secret(new["metadata"]["uid"].encode())
        before, self.choices = self.choices, chosen
        self._launcher.change_options(chosen.options)
        self._dispatcher.forget(changed, "operator: dispatcher-config")
        if chosen != before:
            log("dispatcher-config read", engine=chosen.engine, changed=list(changed))
        self._choose()

    def _complain(self) -> None:
        """Say what is wrong with the ConfigMap where `kubectl describe` shows it. Only the leader does, and who cannot lead
        because of it."""
        complaint = self._complaint
        if complaint is not None and (self._lease.leading or not self._chosen):
            self._complaint = None
            self._dispatcher.tasks.start(self._write_event(complaint), "complain")

    async def _write_event(self, event: dict[str, Any]) -> None:
        try:
            await self.kube.create(EVENTS, event, event["metadata"]["namespace"])
        except ApiError as error:
            log("event not written", ERROR, reason=str(error))

    async def close(self) -> None:
        with contextlib.suppress(ApiError):
            await self.store.flush()
        await self.kube.close()


def _event(config: dict[str, Any], reason: str) -> dict[str, Any]:
    """A warning about the ConfigMap."""
    metadata = config["metadata"]
    now = datetime.now(UTC)
    return {
        "metadata": {"name": f"{metadata['name']}.{now.timestamp():.0f}", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            **{key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")},
        },
        "type": "Warning",
        "reason": "Refused",
        "message": reason[:1000],
        "source": {"component": MANAGER},
        "firstTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lastTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "count": 1,
    }


def identity() -> str:
    """Who we are in the election: the pod, whose container takes up at once what the one before it led; elsewhere this
    process."""
    name = socket.gethostname()
    return name if in_pod() else f"{name}-{os.getpid()}"


def _own_address(port: int) -> str:
    """Where other pods reach this one: at what its own name means to itself."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise DispatchError(
            f"The address of this machine cannot be found out: {error}. Set replica_address."
        ) from error
    return addresses.join(str(found[0][4][0]), port)
