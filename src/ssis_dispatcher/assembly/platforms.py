"""Which launcher runs the servers, and what slices there are without one."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from ssis_dispatcher.assembly.knowledge import Knowledge
from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.core.sizing import size
from ssis_dispatcher.core.slices import Pool
from ssis_dispatcher.kube.credentials import in_pod
from ssis_dispatcher.launchers.base import Launcher
from ssis_dispatcher.launchers.fake import FakeLauncher
from ssis_dispatcher.launchers.inventory import load_inventory
from ssis_dispatcher.launchers.process import ModelSource, Nvml, ProcessLauncher, ProcessOptions, Share, cpu_pools
from ssis_dispatcher.launchers.process.devices import Shelf
from ssis_dispatcher.launchers.process.options import Phase
from ssis_dispatcher.settings import Settings


def platform(settings: Settings, knowledge: Knowledge) -> Launcher:
    """The launcher that the settings ask for. Raises `BadFile` for an inventory that cannot be used."""
    if settings.platform == "fake":
        return FakeLauncher(pools(settings) or tuple(local_pools(settings)))
    return ProcessLauncher(options(settings), knowledge.engines, Resolver(knowledge))


def on_cluster(settings: Settings) -> bool:
    """Whether servers run on a Kubernetes cluster."""
    if settings.platform == "auto":
        return in_pod()
    return settings.platform == "knative"


def pools(settings: Settings) -> tuple[Pool, ...] | None:
    """The inventory that the operator gives; None where it is to be found out."""
    return load_inventory(settings.inventory) if settings.inventory else None


def options(settings: Settings) -> ProcessOptions:
    """How servers run on this machine."""
    return ProcessOptions(
        node=socket.gethostname().split(".")[0].lower() or "local",
        shares=tuple(Share(share.count, share.memory >> 20, share.cores) for share in settings.cpu_slices),
        pools=pools(settings),
        reserve_mib=settings.reserve_memory >> 20,
        threads=settings.server_threads,
        env=settings.server_env,
    )


def local_pools(settings: Settings) -> Iterable[Pool]:
    """The slices of this machine, all of them free."""
    given, nvml, shelf = pools(settings), Nvml.find(), Shelf()
    if given is not None:
        return given
    shelf.put(nvml.devices() if nvml is not None else ())
    return [*shelf.pools(options(settings).node), *cpu_pools(options(settings))]


class Resolver:
    """Where a model comes from, in the launcher's terms: `Directory.resolve`, with the hub token for engines that fetch
    models by themselves."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge

    async def __call__(self, model: Model, phase: Phase, /) -> ModelSource:
        directory = self._knowledge.directory

        def moved(done: int, total: int | None) -> None:
            of = f" of {size(total / 2**20)}" if total else ""
            phase("downloading", f"{size(done / 2**20)}{of}")

        load = await directory.resolve(model, moved)
        if self._knowledge.served[model.engine].files:
            return ModelSource(load)
        token = directory.token_of(model) or self._knowledge.hub_token
        return ModelSource(load, (("HF_TOKEN", token),) if token else ())
