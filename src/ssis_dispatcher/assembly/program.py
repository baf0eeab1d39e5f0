"""Which object is built from which setting, and who is handed whom."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable, Collection
from typing import TypeVar

from ssis_dispatcher.assembly.cluster import Cluster
from ssis_dispatcher.assembly.knowledge import Knowledge
from ssis_dispatcher.assembly.platforms import on_cluster, platform
from ssis_dispatcher.core import views
from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core.messages import Model, Remember
from ssis_dispatcher.core.placement import Plan
from ssis_dispatcher.core.policy import Policy
from ssis_dispatcher.dispatcher import Dispatcher
from ssis_dispatcher.errors import DispatchError, Problem
from ssis_dispatcher.gateway.api import Gateway, Parts
from ssis_dispatcher.gateway.broadcast import Broadcast
from ssis_dispatcher.gateway.dialects.base import Wish
from ssis_dispatcher.gateway.dialects.openai import OpenAI
from ssis_dispatcher.gateway.dialects.ssis import SSIS
from ssis_dispatcher.gateway.dialects.tgi import TGI
from ssis_dispatcher.gateway.door import Door
from ssis_dispatcher.gateway.following import Following
from ssis_dispatcher.gateway.keys import Callers, Keyless, Keyring
from ssis_dispatcher.gateway.operations import Operations, need_of, operations
from ssis_dispatcher.http.client import Pool
from ssis_dispatcher.http.limits import Limits, UpstreamLimits
from ssis_dispatcher.http.server import Server
from ssis_dispatcher.launchers.base import Launcher
from ssis_dispatcher.settings import Settings
from ssis_dispatcher.telemetry.access import AccessLog
from ssis_dispatcher.telemetry.exposition import Exposition
from ssis_dispatcher.telemetry.lag import LoopLag
from ssis_dispatcher.telemetry.logs import log
from ssis_dispatcher.telemetry.metrics import Metrics

_LOOK = 1.0
"""Seconds between two looks at the operator's files."""


class Program:
    """Everything that runs, built inside the running loop. ``launcher``, where given, takes the place of the platform's."""

    def __init__(self, settings: Settings, launcher: Launcher | None = None) -> None:
        self.settings = settings
        self.leaving = False
        self.door = Door(callers(settings), open=settings.insecure, origins=settings.cors_origins)
        self._looker: asyncio.TimerHandle | None = None
        self.cluster = cluster = Cluster(settings) if launcher is None and on_cluster(settings) else None
        self.knowledge = _knowledge(settings, self._running, cluster)
        self.broadcast = Broadcast()
        self.dispatcher = Dispatcher(
            Fleet(policy(settings)),
            launcher or (cluster.launcher(self.knowledge) if cluster else platform(settings, self.knowledge)),
            describe=cluster.describe if cluster else self.knowledge.directory.describe,
            remember=self._remember,
            log=log,
            stop_grace=settings.stop_grace,
            record=self.broadcast,
        )
        self.metrics = Metrics(settings.metrics_models)
        self.pool = Pool(upstream_limits(settings))
        loop = asyncio.get_running_loop()
        self.access = AccessLog(sys.stderr.write, loop.call_later) if settings.access_log else None
        self.lag = LoopLag(loop, self.metrics.loop_lag)
        self.following: Following | None = None
        if cluster is not None:
            self.following = Following(
                self.pool,
                lambda: cluster.leads,
                cluster.leader,
                most=settings.waiting_total,
                patience=settings.slice_wait,
            )
            cluster.follow(self.following, self.dispatcher)
        self.gateway = self._gateway()
        self.server = Server(
            self.gateway, same_fields(settings, Limits), trusted=settings.trusted_proxies, render=self.gateway.render
        )

    def _gateway(self) -> Gateway:
        settings = self.settings
        return Gateway(
            Parts(
                dispatcher=self.dispatcher,
                door=self.door,
                pool=self.pool,
                engines=self.knowledge.engines,
                identify=self.identify,
                knows=self.knows,
                acquaint=self.acquaint,
                dialects=(SSIS(), OpenAI(), TGI()),
                operations=operations(self._operations(), settings.cors_origins),
                need_of=need_of,
                metrics=self.metrics,
                access=self.access,
                following=self.following,
                heartbeat=settings.heartbeat,
                patience=settings.request_timeout,
                cors_origins=frozenset(settings.cors_origins),
            )
        )

    def _operations(self) -> Operations:
        exposition = Exposition(
            self.metrics,
            self.dispatcher.statistics,
            lambda: views.lines(self.dispatcher.fleet.book, self.dispatcher.now()),
        )
        return Operations(
            dispatcher=self.dispatcher,
            listing=self.knowledge.directory.listing,
            identify=self.identify,
            acquaint=self.acquaint,
            plan=self.plan,
            exposition=exposition.page,
            lookup=lambda id, key: self.gateway.visit(id, key),
            broadcast=self.broadcast,
            unready=self._unready,
            follows=lambda: self.following is not None and not self.following.leads,
        )

    def _unready(self) -> Problem | None:
        if self.leaving:
            return Problem(503, "draining", "The dispatcher is shutting down.", 1.0)
        return None if self.cluster is None else self.cluster.unready()

    def _running(self) -> Collection[str]:
        """The keys of the models that have servers: their files stay in the cache."""
        return {server.model.model.key for server in self.dispatcher.fleet.book.servers.values()}

    def _remember(self, fact: Remember) -> None:
        if fact.outcome == "ready":
            self.metrics.server_starts.observe(fact.seconds)
        self.knowledge.directory.remember(fact)

    def knows(self, wish: Wish) -> bool:
        """Whether the model can be identified without asking the hub about the caller's token first."""
        return not wish.token or self.knowledge.directory.acquainted(wish.id, wish.token)

    async def acquaint(self, wish: Wish) -> None:
        """Ask the hub about the caller's token."""
        if wish.token:
            await self.knowledge.directory.acquaint(wish.id, wish.token)

    def identify(self, wish: Wish) -> Model:
        """The model that a wish means."""
        return self.knowledge.directory.identify(
            wish.id,
            revision=wish.revision,
            engine=wish.engine,
            context=wish.context,
            env=wish.env,
            token=wish.token,
            embeds=wish.embeds,
        )

    async def plan(self, wish: Wish, concurrency: int | None) -> Plan:
        """What would happen to a request now."""
        model = self.identify(wish)
        profile = await self.knowledge.directory.describe(model)
        return views.plan(self.dispatcher.fleet.book, model, profile, self.dispatcher.now(), concurrency or 1)

    def start(self, port: int = 0) -> None:
        """Begin to watch the platform and the operator's files, and to count. ``port`` is where requests come in."""
        self._count()
        self.lag.start()
        if self.cluster is None:
            self.dispatcher.start()
        else:
            self.cluster.begin(port)
        self._look()

    def _look(self) -> None:
        """Once a second: have the keys or the catalogue been edited?"""
        loop = asyncio.get_running_loop()
        self.door.refresh(loop.time())
        if self.cluster is not None:
            self.cluster.tie()
        self.dispatcher.forget(self.knowledge.catalogue_changes(), "operator: catalogue")
        self._looker = loop.call_later(_LOOK, self._look)

    def _count(self) -> None:
        server, pool = self.server, self.pool
        self.metrics.gauge("ssis_connections", "Open client connections.", lambda: server.statistics()["connections"])
        self.metrics.gauge("ssis_request_bytes", "Bytes of request bodies in memory.", lambda: server.inflight)
        self.metrics.gauge(
            "ssis_upstream_connections", "Open upstream connections.", lambda: pool.statistics()["connections"]
        )

    async def close(self) -> None:
        """Let go of everything, in the reverse order of building."""
        self.lag.stop()
        if self._looker is not None:
            self._looker.cancel()
        await self.server.close()
        await self.gateway.close()
        await self.dispatcher.close()
        await self.pool.close()
        if self.cluster is not None:
            await self.cluster.close()
        if self.access is not None:
            self.access.flush()
        self.knowledge.close()


def _knowledge(settings: Settings, running: Callable[[], Collection[str]], cluster: Cluster | None) -> Knowledge:
    if cluster is None:
        return Knowledge(settings, running)
    engine = cluster.choices.engine
    return Knowledge(settings, running, engines=cluster.engines, default_engine=engine, store=cluster.store)


Part = TypeVar("Part")


def same_fields(settings: Settings, part: type[Part], prefix: str = "") -> Part:
    """``part`` from the settings of the same names with ``prefix`` before them; its defaults where there is no such setting.
    Without its prefix a name is another setting, with another meaning."""
    names = [field.name for field in dataclasses.fields(part)]  # type: ignore[arg-type]
    return part(
        **{name: getattr(settings, prefix + name) for name in names if prefix + name in Settings.__struct_fields__}
    )


def upstream_limits(settings: Settings) -> UpstreamLimits:
    """The pool's numbers: ``upstream_*``, and the budget for retries, which only calls to inference servers have."""
    return dataclasses.replace(same_fields(settings, UpstreamLimits, "upstream_"), retry_budget=settings.retry_budget)


def policy(settings: Settings) -> Policy:
    """The fleet's numbers. They have the same names in `Settings`, but for the two pauses."""
    same = {name: getattr(settings, name) for name in Policy.__struct_fields__ if name in Settings.__struct_fields__}
    return Policy(**same, pause_first=settings.retry_pause, pause_most=settings.retry_pause_limit)


def callers(settings: Settings) -> Callers:
    """Keys, or none: the address that is listened on decides. Raises `DispatchError` when keys are needed and missing."""
    if settings.insecure or settings.is_private:
        return Keyless()
    keyring = Keyring([settings.keys_file])
    if not len(keyring):
        way = "unset require_keys" if settings.listens_on_loopback else "listen on 127.0.0.1"
        raise DispatchError(
            f"Keys are needed on {settings.host}, and there is none in {settings.keys_file}. Make one with "
            f"'ssis keys create NAME', {way}, or let anybody in with --insecure."
        )
    return keyring
