"""What the command line does without a running dispatcher: plans, this machine's slices, the model cache."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from ssis_dispatcher.assembly.knowledge import Knowledge, served
from ssis_dispatcher.assembly.platforms import local_pools
from ssis_dispatcher.core import views
from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core.messages import InventoryChanged
from ssis_dispatcher.core.placement import Plan
from ssis_dispatcher.core.slices import Pool, SliceKind
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.launchers.inventory import Cluster, load_cluster
from ssis_dispatcher.models.directory import Served
from ssis_dispatcher.models.naming import parse_name
from ssis_dispatcher.models.sources import CachedModel
from ssis_dispatcher.settings import Settings

__all__ = ["cached", "local_pools", "plan_offline", "pull", "remove"]

_CLUSTER_DEFAULT = "tgi"
"""The engine of models that name none, where an inventory of GPUs is planned for: the original program's."""


def plan_offline(
    settings: Settings, model: str, inventory: str | None, context: int | None, concurrency: int | None
) -> Plan:
    """Where ``model`` would run on the slices of ``inventory`` (a file or a shipped one; None: this machine), all of them
    free but for what the file says. Raises `DispatchError` and `BadFile`."""
    cluster = load_cluster(inventory) if inventory else Cluster(tuple(local_pools(settings)))
    engines, default = _engines(settings, cluster.pools)
    knowledge = Knowledge(settings, engines=engines, default_engine=default, lasting=False)
    try:
        return asyncio.run(_plan(knowledge, cluster, model, context, concurrency or 1))
    finally:
        knowledge.close()


async def _plan(knowledge: Knowledge, cluster: Cluster, name: str, context: int | None, concurrency: int) -> Plan:
    model = knowledge.directory.identify(name, context=context)
    profile = await knowledge.directory.describe(model)
    fleet = Fleet()
    fleet.handle(InventoryChanged("plan", cluster.pools, cluster.hosts), 0.0)
    return views.plan(fleet.book, model, profile, 0.0, concurrency)


def _engines(settings: Settings, pools: Iterable[Pool]) -> tuple[dict[str, Served], str]:
    """This machine's engines where there is no GPU; else every engine there is, on whatever it can run on."""
    if all(pool.slice.kind is SliceKind.CPU for pool in pools):
        return served(settings), settings.default_engine or "llamacpp"
    everything = {name: Served(engine, files=name == "llamacpp") for name, engine in ENGINES.items()}
    return everything | served_elsewhere(settings), settings.default_engine or _CLUSTER_DEFAULT


def served_elsewhere(settings: Settings) -> dict[str, Served]:
    """The operator's own engines."""
    return {name: each for name, each in served(settings).items() if name not in ENGINES}


def pull(settings: Settings, model: str, progress: Callable[[int, int | None], None]) -> Path:
    """Download ``model`` into the cache, or find it there; where it lies. Raises `DispatchError`."""
    knowledge = Knowledge(settings, lasting=False)
    try:
        return Path(asyncio.run(_resolve(knowledge, model, progress)))
    finally:
        knowledge.close()


async def _resolve(knowledge: Knowledge, name: str, progress: Callable[[int, int | None], None]) -> str:
    return await knowledge.directory.resolve(knowledge.directory.identify(name), progress)


def cached(settings: Settings) -> list[CachedModel]:
    """The models in the cache."""
    knowledge = Knowledge(settings, lasting=False)
    try:
        return knowledge.sources.cached()
    finally:
        knowledge.close()


def remove(settings: Settings, model: str) -> int:
    """Remove ``model`` from the cache; the bytes freed. Raises `DispatchError` when a server uses it."""
    knowledge = Knowledge(settings, lasting=False)
    try:
        return knowledge.sources.remove(parse_name(model))
    finally:
        knowledge.close()
