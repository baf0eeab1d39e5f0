"""What slices this machine has: those that the operator says, else its NVIDIA devices, else shares of memory and cores.

Called by `launcher`, and by the assembly for plans without a running dispatcher.
"""

from __future__ import annotations

from ssis_dispatcher.core.slices import Pool
from ssis_dispatcher.launchers.process import memory, menu
from ssis_dispatcher.launchers.process.devices import Nvml, Shelf
from ssis_dispatcher.launchers.process.options import ProcessOptions


def look(options: ProcessOptions, nvml: Nvml | None, shelf: Shelf) -> tuple[Pool, ...]:
    """The inventory now; ``shelf`` is told of the devices. Blocks: call it in a thread."""
    shelf.put(nvml.devices() if nvml is not None else ())
    if options.pools is not None:
        return options.pools
    return shelf.pools(options.node) if not shelf.empty else cpu_pools(options)


def cpu_pools(options: ProcessOptions) -> tuple[Pool, ...]:
    """Shares of memory and cores, as if there was no GPU. The operator's own are not held against what is free now."""
    cores = memory.cores()
    if options.shares:
        whole = memory.total_mib()
        return menu.pools(options.node, options.shares, whole, cores)
    usable = memory.usable_mib(options.reserve_mib)
    return menu.pools(options.node, menu.automatic(usable, cores), usable, cores)
