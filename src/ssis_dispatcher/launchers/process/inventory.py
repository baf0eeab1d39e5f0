"""The slices of a machine without a GPU, as it is now. Called by `launcher`, and by the assembly for plans without one."""

from __future__ import annotations

import msgspec

from ssis_dispatcher.core.slices import Pool
from ssis_dispatcher.launchers.process import memory, menu
from ssis_dispatcher.launchers.process.options import ProcessOptions


def cpu_pools(options: ProcessOptions) -> tuple[Pool, ...]:
    """Shares of memory and cores: the operator's, which are not held against what is free, or the automatic menu."""
    cores = memory.cores()
    if options.shares:
        return menu.pools(options.node, options.shares, memory.total_mib(), cores)
    usable = memory.usable_mib(options.reserve_mib)
    return tuple(map(_measured, menu.pools(options.node, menu.automatic(usable, cores), usable, cores)))


def _measured(pool: Pool) -> Pool:
    """Nobody set its size: it comes of the machine's memory."""
    return msgspec.structs.replace(pool, slice=msgspec.structs.replace(pool.slice, source="device"))
