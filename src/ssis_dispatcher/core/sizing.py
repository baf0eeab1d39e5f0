"""Sizing: model facts → MiB needed, with the arithmetic kept.

A server needs its stored weights, the KV cache of its seats, and an overhead (CUDA context, activations, graphs).
Everything here is arithmetic over a `Profile` and a `Slice`; where the facts come from is the business of `models/`, and
how they follow from a model's configuration that of `formulas`. Called by placement, the fleet and the command line.
"""

from __future__ import annotations

from math import ceil, inf
from typing import NamedTuple

import msgspec

from ssis_dispatcher.core.slices import Slice, SliceKind

MIB = 1 << 20

UNKNOWN_SEATS = 4
"""Seats of a server whose need is not known: few enough not to exhaust it, enough not to make callers queue singly."""


class ModelFacts(msgspec.Struct, frozen=True):
    """What is known of a model. None means unknown.

    ``weight_bytes`` are the stored bytes, ``kv_bytes_per_token`` the KV cache of one token over all layers,
    ``context`` the model's own maximum in tokens. ``source`` names where the facts came from, best first:
    ``catalogue``, ``learned``, ``safetensors``, ``gguf``, ``name`` (parameter count in the model id), ``unknown``.
    """

    source: str = "unknown"
    weight_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    context: int | None = None
    parameters: int | None = None
    hidden_size: int | None = None
    vocabulary: int | None = None
    note: str = ""


class Ask(NamedTuple):
    """What a server asks of its node beside the slice, or what a node has: thousandths of a core, and MiB of memory."""

    cpu: float
    mib: float

    def plus(self, other: Ask) -> Ask:
        return Ask(self.cpu + other.cpu, self.mib + other.mib)

    def minus(self, other: Ask) -> Ask:
        return Ask(self.cpu - other.cpu, self.mib - other.mib)

    def within(self, left: Ask) -> bool:
        """Whether ``left`` is enough for this. Who asks nothing has it everywhere, overdrawn nodes too."""
        return (not self.cpu or self.cpu <= left.cpu) and (not self.mib or self.mib <= left.mib)

    @property
    def least(self) -> tuple[float, float]:
        """The least CPU and memory a node must have left to be enough."""
        return self.cpu or -inf, self.mib or -inf


NOTHING = Ask(0, 0)


class Profile(msgspec.Struct, frozen=True):
    """All that the fleet must know to place and run one model.

    ``context`` is tokens per seat; ``engine_seats`` the engine's limit on requests at once; ``kinds`` the slice kinds
    the engine runs on; ``parallel`` the numbers of whole GPUs the engine can join (tensor parallelism). ``floor_mib``
    is the largest slice known to be too small plus one (learned from out-of-memory, or the catalogue's floor);
    ``ceiling_mib`` the largest slice this model may take, None for no limit. Each GPU pays an overhead of
    ``overhead_mib`` + ``overhead_share`` × its memory. ``host_cpu_millis`` (thousandths of a core) and ``host_mib`` are
    what one server asks of its node beside the slice, 0 for nothing. Times are in seconds.
    """

    facts: ModelFacts
    context: int
    engine_seats: int = 64
    kinds: tuple[SliceKind, ...] = (SliceKind.MIG, SliceKind.MPS, SliceKind.GPU)
    parallel: tuple[int, ...] = (2, 4, 8)
    overhead_mib: int = 512
    overhead_share: float = 0.05
    floor_mib: int = 0
    ceiling_mib: int | None = None
    start_seconds: float = 60.0
    keep_alive: float | None = None
    pinned: bool = False
    max_servers: int | None = None
    host_cpu_millis: int = 0
    host_mib: int = 0

    @property
    def ask(self) -> Ask:
        """What one server asks of its node."""
        return Ask(self.host_cpu_millis, self.host_mib)


class Fit(msgspec.Struct, frozen=True):
    """One model on one slice: the arithmetic, in MiB, and what came of it.

    ``seats`` = ⌊(slice − weights − overhead) / (KV per token × context)⌋, at most the engine's limit; 0 where it does
    not fit, and then ``why`` says so. Where it fits, ``why`` is empty or says what is not known (``unknown size: …``).
    ``memory_mib`` and ``overhead_mib`` are those of all ``count`` slices together. ``host_short``: the slice would do, but
    no node that has it has the CPU and memory.
    """

    slice: Slice
    count: int
    seats: int
    memory_mib: int
    weights_mib: int | None
    overhead_mib: int
    seat_mib: float | None
    why: str = ""
    host_short: bool = False


def fit(profile: Profile, slice: Slice, count: int = 1) -> Fit:
    """How ``profile`` fits on ``count`` slices of one node (``count`` > 1 for whole GPUs only).

    Weights and KV cache are spread over joined GPUs; each of them pays the overhead.
    """
    facts = profile.facts
    memory = slice.memory_mib * count
    overhead = count * (profile.overhead_mib + ceil(slice.memory_mib * profile.overhead_share))
    weights = None if facts.weight_bytes is None else ceil(facts.weight_bytes / MIB)
    seat = None if facts.kv_bytes_per_token is None else facts.kv_bytes_per_token * profile.context
    seats = 0
    why = _excluded(profile, slice, count)
    if not why:
        room = memory - overhead - (weights or 0)
        seats = _seats(profile, room, weights is not None, seat)
        if not seats:
            why = _too_small(profile, memory, count, weights, overhead, seat)
        elif weights is None or seat is None:
            what = "weights" if weights is None else "KV cache"
            why = f"unknown size: nothing tells how large the {what} will be, so the number of seats is a guess"
    return Fit(slice, count, seats, memory, weights, overhead, None if seat is None else seat / MIB, why)


def needed_mib(profile: Profile) -> int | None:
    """What one seat of ``profile`` needs before the slice's own share of overhead is added; None when unknown."""
    facts = profile.facts
    if facts.weight_bytes is None:
        return None
    return ceil((facts.weight_bytes + (facts.kv_bytes_per_token or 0) * profile.context) / MIB) + profile.overhead_mib


def default_ceiling(need_mib: int, factor: float = 8.0, free_mib: int = 24_576) -> int:
    """The largest slice a model that needs ``need_mib`` takes unless told otherwise.

    ``factor`` times its need, and never less than ``free_mib``: a model of half a billion parameters does not hold a
    whole H100, but it may hold a 24 GiB card where nothing smaller exists.
    """
    return max(int(factor * need_mib), free_mib)


def explain(fit: Fit) -> str:
    """``fit`` as a line of arithmetic for people, or the reason why it does not fit."""
    if not fit.seats or fit.weights_mib is None or fit.seat_mib is None:
        return fit.why
    used = fit.weights_mib + fit.overhead_mib + fit.seats * fit.seat_mib
    seats = f"{fit.seats} seat{'s' if fit.seats > 1 else ''} × {size(fit.seat_mib)}"
    return (
        f"{size(fit.weights_mib)} weights + {size(fit.overhead_mib)} overhead + {seats}"
        f" = {size(used)} of {size(fit.memory_mib)}"
    )


def size(mib: float) -> str:
    """``mib`` for people: ``14.96 GiB``, ``512 MiB``, ``1.5 MiB``."""
    if mib >= 1024:
        return f"{mib / 1024:.2f} GiB"
    return f"{mib:.0f} MiB" if mib >= 10 or mib == int(mib) else f"{mib:.1f} MiB"


def _seats(profile: Profile, room: int, weighed: bool, seat: int | None) -> int:
    """How many seats of ``seat`` bytes ``room`` MiB hold."""
    if room <= 0:
        return 0
    if seat is None or not weighed:
        return min(profile.engine_seats, UNKNOWN_SEATS)
    return min(profile.engine_seats, room * MIB // seat) if seat else profile.engine_seats


def _excluded(profile: Profile, slice: Slice, count: int) -> str:
    """Why ``profile`` may not take this slice, whatever it needs; "" where it may."""
    memory = slice.memory_mib * count
    if slice.kind not in profile.kinds:
        return f"the engine runs on {', '.join(profile.kinds)}, not on {slice.kind} slices"
    if count > 1:
        if slice.kind is not SliceKind.GPU or slice.shared:
            return "only whole GPUs can be joined, never several MIG, MPS or shared slices"
        if count not in profile.parallel:
            return f"the engine cannot join {count} GPUs"
    if slice.memory_mib <= 0:
        return f"nothing tells how much memory {slice.name} has: set it in the inventory, or label the node"
    if memory < profile.floor_mib:
        return f"below the floor of {size(profile.floor_mib)}: too small before, or the catalogue says so"
    if profile.ceiling_mib is not None and memory > profile.ceiling_mib:
        return (
            f"{size(memory)} is above the ceiling of {size(profile.ceiling_mib)} for this model"
            " (a larger `ceiling` in the catalogue allows it)"
        )
    return ""


def _too_small(profile: Profile, memory: int, count: int, weights: int | None, overhead: int, seat: int | None) -> str:
    has = f"{'the slice has' if count == 1 else f'{count} GPUs have'} {size(memory)}"
    if weights is None:
        return f"needs more than {size(overhead)} of overhead alone; {has}"
    parts = [f"{size(weights)} weights", f"{size(overhead)} overhead"]
    if seat is not None:
        parts.append(f"{size(seat / MIB)} for one seat of {profile.context} tokens")
    need = weights + overhead + (seat or 0) / MIB
    return f"needs {size(need)}: {' + '.join(parts)}; {has}"
