"""Slices: kinds of GPU share that nodes advertise, and their order."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class SliceKind(StrEnum):
    """How a share of an accelerator is cut."""

    CPU = "cpu"
    MIG = "mig"
    MPS = "mps"
    GPU = "gpu"


class Slice(msgspec.Struct, frozen=True, order=True):
    """One kind of share, ordered by memory, then compute.

    ``name`` is the resource name as the node advertises it (``nvidia.com/mig-1g.5gb``, ``cpu-2gib``). ``compute`` is the
    share of one device's compute (0 … 1; of the machine's cores for ``cpu``). ``source`` tells where the memory came
    from: ``label``, ``device``, ``table``, ``name`` (an upper bound) or ``setting``.
    """

    memory_mib: int
    compute: float
    name: str
    kind: SliceKind
    shared: bool = False
    source: str = "name"


class Pool(msgspec.Struct, frozen=True):
    """How many slices of one kind one node has, and how many of them others hold.

    What the fleet's own servers hold is not counted in ``taken``: the fleet keeps that book.
    """

    node: str
    slice: Slice
    total: int
    taken: int = 0
