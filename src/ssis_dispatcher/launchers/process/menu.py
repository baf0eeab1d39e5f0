"""Slices of a machine without a GPU: shares of its memory and cores. Pure. Called by `inventory`."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

import msgspec

from ssis_dispatcher.core.slices import Pool, Slice, cpu_slice

SMALLEST_MIB = 512
"""The smallest share of the automatic menu, where the machine has that much."""

_LARGEST_PART = 0.55
_USELESS_MIB = 128


class Share(msgspec.Struct, frozen=True):
    """``count`` equal shares of ``memory_mib``, with ``cores`` processor cores each (None: as much of the machine's cores as
    of its memory)."""

    count: int
    memory_mib: int
    cores: float | None = None


def automatic(usable_mib: int, cores: int) -> tuple[Share, ...]:
    """A menu for ``usable_mib`` of memory, largest first: about half of it in one share (a power of two, or one and a half),
    then each time a power of two out of half of what is left, down to 512 MiB. The shares never exceed what there is.

    Cores are shared out more generously than memory, by its square root: servers are idle most of the time, threads that
    wait do not spin, and a model that runs alone may well use more than its part.

    22.5 GiB: 12, 4, 2, 2, 1 GiB and three of 512 MiB. 2 GiB: 1 GiB and two of 512 MiB.
    """
    sizes: list[int] = []
    left = usable_mib
    if usable_mib < SMALLEST_MIB:
        sizes = [usable_mib // 64 * 64] if usable_mib >= _USELESS_MIB else []
    else:
        sizes.append(_largest(int(usable_mib * _LARGEST_PART)))
        left -= sizes[0]
    while left >= SMALLEST_MIB:
        sizes.append(max(SMALLEST_MIB, _power_of_two(left // 2)))
        left -= sizes[-1]
    return tuple(
        Share(sizes.count(size), size, cores * sqrt(size / usable_mib)) for size in sorted(set(sizes), reverse=True)
    )


def pools(node: str, shares: Iterable[Share], usable_mib: int, cores: int) -> tuple[Pool, ...]:
    """``shares`` as slices of this machine. Shares of the same memory and cores are one pool."""
    counts: dict[Slice, int] = {}
    for share in shares:
        part = share.memory_mib / max(usable_mib, share.memory_mib) if share.cores is None else share.cores / cores
        slice = cpu_slice(share.memory_mib, min(1.0, part))
        counts[slice] = counts.get(slice, 0) + share.count
    return tuple(Pool(node, slice, count) for slice, count in counts.items())


def threads(slice: Slice, cores: int) -> int:
    """Threads of a server on ``slice``: as many as it has cores, at least one."""
    return max(1, round(slice.compute * cores))


def _power_of_two(mib: int) -> int:
    return 1 << max(0, mib.bit_length() - 1)


def _largest(mib: int) -> int:
    """The largest of 512 MiB, 1, 1.5, 2, 3, 4, 6, 8, 12 … GiB that is not more than ``mib``, but never less than the
    smallest share."""
    power = _power_of_two(mib)
    size = power * 3 // 2 if power >= 1024 and mib >= power * 3 // 2 else power
    return max(SMALLEST_MIB, size)
