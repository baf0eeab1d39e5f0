"""Slices: kinds of GPU share that nodes advertise, and their order.

Resource names are read, never composed: a node tells what it has, and its labels tell how large that is. The real
memory of a MIG slice is below the number in its name (a ``1g.5gb`` has 4864 MiB), and one name is different hardware on
different cards, so the sources are taken in this order: the node's labels, the table of measured profiles for its card,
the number in the name. Called by launchers, inventories and placement.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec


class SliceKind(StrEnum):
    """How a share of an accelerator is cut."""

    CPU = "cpu"
    MIG = "mig"
    MPS = "mps"
    GPU = "gpu"


class Slice(msgspec.Struct, frozen=True, order=True):
    """One kind of share, ordered by memory, then compute.

    ``name`` is the resource name as the node advertises it (``nvidia.com/mig-1g.5gb``, ``cpu-2gib``). ``compute`` is
    the share of one device's compute (0 … 1; of the machine's cores for ``cpu``). ``shared`` marks slices whose device
    is time-sliced: nothing separates their memory, so each counts with its fair part of it. ``source`` tells where the
    memory came from: ``label``, ``device``, ``table``, ``name`` (an upper bound), ``setting`` or ``unknown`` (then it
    is 0).
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


class Host(msgspec.Struct, frozen=True):
    """What one node has free for our servers beside its slices: CPU in thousandths of a core, memory in MiB. What other
    people's pods ask of it is subtracted, what our own do is not: the fleet keeps that book.

    The totals are what the node has when it is empty, 0 where that is not known: then what is free now counts as all there
    is. A model that asks more than the totals of every node is refused, one that asks more than is free waits.
    """

    node: str
    cpu_millis: int
    memory_mib: int
    total_cpu_millis: int = 0
    total_memory_mib: int = 0


PENDING = "pending"
"""The node of slices that no node has yet, but that come when a server waits for them (Cluster Autoscaler, Karpenter, nos).
As many as its pools have may be waited for at once; `ServerPlaced` tells on which node such a server came to be."""

_PROFILE = r"(?P<g>\d{1,2})g\.(?P<gb>\d{1,4})gb"
_MIG = re.compile(rf"nvidia\.com/mig-{_PROFILE}(?:\.me\.all|\.me|\.gfx|-me)?(?P<shared>\.shared)?")
_MPS = re.compile(r"nvidia\.com/gpu-(?P<gb>\d{1,4})gb")
_GPU = re.compile(r"nvidia\.com/gpu(?P<shared>\.shared)?")
_CPU = re.compile(r"cpu-(?P<size>\d{1,9})(?P<unit>gib|mib)")
_MIG_PRODUCT = re.compile(rf"-MIG-{_PROFILE}")
_SIZE_IN_PRODUCT = re.compile(r"(?<!\d)(\d{1,3})GB", re.IGNORECASE)

_MEASURED: Mapping[str, Mapping[tuple[int, int], int]] = {
    "A30": {(1, 6): 5836, (2, 12): 11672, (4, 24): 23344},
    "A100-40": {(1, 5): 4864, (1, 10): 9856, (2, 10): 9856, (3, 20): 19968, (4, 20): 19968, (7, 40): 40192},
    "A100-80": {(1, 10): 9856, (1, 20): 19968, (2, 20): 19968, (3, 40): 40192, (4, 40): 40192, (7, 80): 80384},
}
"""MiB that NVML reports for (compute slices, GB in the name), per card. H100-80 has a little more than A100-80
(40448 for 3g.40gb) and is counted with its numbers."""

_CARDS = (
    (re.compile(r"\bA30\b"), "A30", 4),
    (re.compile(r"RTX-?PRO"), "RTX PRO", 4),
    (re.compile(r"\bA100\b.*40GB"), "A100-40", 7),
    (re.compile(r"\b[AH]100\b.*80GB|\bH100-PCIe\b"), "A100-80", 7),
)
"""Product label → row of `_MEASURED` and the compute slices of the card; every other MIG card has 7."""

_QUARTERS = frozenset({(1, 6), (2, 12), (4, 24), (2, 48), (4, 96)})
"""Profiles that only cards with 4 compute slices have."""

_USABLE = (7, 8)
"""Part of a name's GB that can be counted on: names are rounded up to an eighth of the card, and the least that was
seen is 16.0 GiB behind an H200's ``1g.18gb`` (0.889)."""

_MPS_CARD_GB = 32
"""The card that MPS shares are taken of when no label tells: compute only, as in the original program's table."""

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


def parse_resource(name: str, labels: Mapping[str, str] = _NO_LABELS) -> Slice | None:
    """The slice that a node means by the resource ``name``, given the node's ``labels``; None where it is none (or a
    MIG configuration that the node itself calls invalid).

    Covers the device plugins of NVIDIA (strategies ``none``, ``single`` and ``mixed``; MPS and time-slicing, renamed or
    not), Nebuly's MPS plugin, and our own ``cpu-2gib``.
    """
    if match := _MIG.fullmatch(name):
        prefix = name.removesuffix(".shared")
        product = labels.get(f"{prefix}.product") or labels.get("nvidia.com/gpu.product", "")
        return _mig(name, match, labels, prefix, product)
    if match := _GPU.fullmatch(name):
        return _gpu(name, bool(match["shared"]), labels)
    if match := _MPS.fullmatch(name):
        return _nebuly_mps(name, int(match["gb"]), labels)
    if match := _CPU.fullmatch(name):
        memory = int(match["size"]) * (1024 if match["unit"] == "gib" else 1)
        return Slice(memory, 1.0, name, SliceKind.CPU, source="name") if memory else None
    return None


def cpu_slice(memory_mib: int, compute: float = 1.0) -> Slice:
    """A share of a machine without a GPU: ``memory_mib`` of its RAM and ``compute`` (0 … 1) of its cores."""
    name = f"cpu-{memory_mib // 1024}gib" if memory_mib % 1024 == 0 else f"cpu-{memory_mib}mib"
    return Slice(memory_mib, compute, name, SliceKind.CPU, source="setting")


def preference(slice: Slice) -> tuple[int, float, bool, str]:
    """The order in which slices are tried: least memory, then least compute, those of one's own before shared ones."""
    return slice.memory_mib, slice.compute, slice.shared, slice.name


def smallest_by_name(pools: Iterable[Pool], pinned: bool) -> tuple[Pool, ...]:
    """``pools`` as they may be counted on.

    Where nodes cannot be pinned, whoever asks for a resource name may be given the smallest slice that any node means
    by it, so that one counts for all. Where they can (``pinned``), each node's own size counts.
    """
    pools = tuple(pools)
    if pinned:
        return pools
    least: dict[str, Slice] = {}
    for pool in pools:
        slice = pool.slice
        if slice.name not in least or preference(slice) < preference(least[slice.name]):
            least[slice.name] = slice
    return tuple(msgspec.structs.replace(pool, slice=least[pool.slice.name]) for pool in pools)


def _mig(name: str, match: re.Match[str], labels: Mapping[str, str], prefix: str, product: str) -> Slice | None:
    """A MIG slice, under its own name (``prefix`` of its labels) or under ``nvidia.com/gpu``."""
    profile = int(match["g"]), int(match["gb"])
    if not all(profile):
        return None
    card, parts = _card(product)
    if not product and profile in _QUARTERS:
        parts = 4
    memory, source = _number(labels.get(f"{prefix}.memory")), "label"
    if not memory:
        memory, source = _measured(card, profile), "table"
    if not memory:
        memory, source = _usable(profile[1]), "name"
    compute = min(1.0, profile[0] / parts)
    replicas = _replicas(labels, prefix, renamed=name.endswith(".shared"))
    return _shared(Slice(memory, compute, name, SliceKind.MIG, source=source), replicas)


def _gpu(name: str, renamed: bool, labels: Mapping[str, str]) -> Slice | None:
    """``nvidia.com/gpu``: a whole GPU, a share of one, or (strategy ``single``) a MIG slice that goes by this name."""
    product = labels.get("nvidia.com/gpu.product", "")
    if "-MIG-INVALID" in product:
        return None
    if match := _MIG_PRODUCT.search(product):
        return _mig(name, match, labels, "nvidia.com/gpu", product)
    memory, source = _number(labels.get("nvidia.com/gpu.memory")), "label"
    if not memory:
        memory, source = _whole(product)
    replicas = _replicas(labels, "nvidia.com/gpu", renamed)
    if labels.get("nvidia.com/gpu.sharing-strategy") == "mps" and replicas != 1:
        share = 1 / replicas if replicas else 0.0
        return Slice(int(memory * share), share, name, SliceKind.MPS, source=source if replicas else "unknown")
    return _shared(Slice(memory, 1.0, name, SliceKind.GPU, source=source), replicas)


def _nebuly_mps(name: str, gigabytes: int, labels: Mapping[str, str]) -> Slice | None:
    """``nvidia.com/gpu-4gb``: the memory is in the name, and never more than the card has."""
    if not gigabytes:
        return None
    memory = gigabytes * 1024
    card = _number(labels.get("nvidia.com/gpu.memory")) or max(_MPS_CARD_GB, gigabytes) * 1024
    return Slice(min(memory, card), min(1.0, memory / card), name, SliceKind.MPS, source="name")


def _shared(slice: Slice, replicas: int) -> Slice:
    """``slice`` divided among ``replicas`` that take turns; 0 when it is divided, but nobody tells by how much."""
    if replicas == 1:
        return slice
    if not replicas:
        return msgspec.structs.replace(slice, memory_mib=0, compute=0.0, shared=True, source="unknown")
    memory, compute = slice.memory_mib // replicas, slice.compute / replicas
    return msgspec.structs.replace(slice, memory_mib=memory, compute=compute, shared=True)


def _replicas(labels: Mapping[str, str], prefix: str, renamed: bool) -> int:
    """How many pods get one device by turns; 1 for a device of one's own, 0 for an unknown number."""
    strategy = labels.get(f"{prefix}.sharing-strategy", "none")
    if not renamed and strategy == "none" and not labels.get(f"{prefix}.product", "").endswith("-SHARED"):
        return 1
    return _number(labels.get(f"{prefix}.replicas"))


def _card(product: str) -> tuple[str, int]:
    for pattern, card, parts in _CARDS:
        if pattern.search(product):
            return card, parts
    return ("other" if product else ""), 7


def _measured(card: str, profile: tuple[int, int]) -> int:
    """MiB from the table; for a card that no label names, the least of all cards that have the profile."""
    if card:
        return _MEASURED.get(card, {}).get(profile, 0)
    return min((table[profile] for table in _MEASURED.values() if profile in table), default=0)


def _whole(product: str) -> tuple[int, str]:
    """A whole GPU without a memory label: its largest MIG profile, else the size in its product's name, else unknown."""
    card, _ = _card(product)
    if card in _MEASURED:
        return max(_MEASURED[card].values()), "table"
    match = _SIZE_IN_PRODUCT.search(product)
    if match and "GH200" not in product:  # "GH200-480GB" counts the memory of its CPU
        return _usable(int(match[1])), "name"
    return 0, "unknown"


def _usable(gigabytes: int) -> int:
    share, whole = _USABLE
    return gigabytes * 1024 * share // whole


def _number(label: str | None) -> int:
    """A label's value, which is always text; 0 where it is missing or no number."""
    match = re.match(r"\d{1,9}", label or "")
    return int(match[0]) if match else 0
