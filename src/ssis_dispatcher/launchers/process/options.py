"""What the launcher for one machine is told when it is made. Called by the assembly and the launcher."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.core.slices import Pool
from ssis_dispatcher.launchers.process.menu import Share


class ProcessOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``node`` is what this machine is called in the inventory. ``shares`` are the shares of its memory and cores to offer
    where it has no GPU, () for an automatic menu of what ``reserve_mib`` leaves; ``pools``, where given, is the inventory as
    the operator says it, in place of anything found. ``threads`` per server, None for as many as its slice has cores.
    ``env`` is the environment of every server, besides what its engine sets. Servers listen on ``host``, a loopback
    address: they ask nobody for a key."""

    node: str = "local"
    shares: tuple[Share, ...] = ()
    pools: tuple[Pool, ...] | None = None
    reserve_mib: int = 1024
    threads: int | None = None
    env: tuple[tuple[str, str], ...] = ()
    host: str = "127.0.0.1"


class ModelSource(msgspec.Struct, frozen=True):
    """Where a model comes from: ``load`` is what the engine is told to load, the path of a file or an id on the hub. ``env``
    goes into the environment of an engine that fetches models by itself (``HF_TOKEN``), never of the embedded one."""

    load: str
    env: tuple[tuple[str, str], ...] = ()


Phase = Callable[[str, str], None]
"""``phase(name, detail)``: where a start is now, for people."""


class ResolveModel(Protocol):
    """Find out where a model comes from, and fetch it if need be. Raises `DispatchError`; may be cancelled."""

    def __call__(self, model: Model, phase: Phase, /) -> Awaitable[ModelSource]: ...
