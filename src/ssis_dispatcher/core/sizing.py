"""Sizing: model facts → MiB needed, with the arithmetic kept."""

from __future__ import annotations

import msgspec

from ssis_dispatcher.core.slices import Slice, SliceKind


class ModelFacts(msgspec.Struct, frozen=True):
    """What is known of a model. None means unknown.

    ``weight_bytes`` are the stored bytes, ``kv_bytes_per_token`` the KV cache of one token over all layers, ``context``
    the model's own maximum in tokens. ``source`` names where the facts came from, best first: ``catalogue``, ``learned``,
    ``safetensors``, ``gguf``, ``name`` (parameter count in the model id), ``unknown``.
    """

    source: str = "unknown"
    weight_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    context: int | None = None
    parameters: int | None = None
    hidden_size: int | None = None
    vocabulary: int | None = None
    note: str = ""


class Profile(msgspec.Struct, frozen=True):
    """All that the fleet must know to place and run one model.

    ``context`` is tokens per seat; ``engine_seats`` the engine's limit on requests at once; ``kinds`` the slice kinds the
    engine runs on; ``parallel`` the numbers of whole GPUs the engine can join (tensor parallelism). ``floor_mib`` is the
    largest slice known to be too small plus one (learned from out-of-memory, or the catalogue's floor); ``ceiling_mib``
    the largest slice this model may take, None for no limit. Times are in seconds.
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


class Fit(msgspec.Struct, frozen=True):
    """One model on one slice: the arithmetic, in MiB, and what came of it.

    ``seats`` = ⌊(slice − weights − overhead) / (KV per token × context)⌋, at most the engine's limit; 0 where it does
    not fit, and then ``why`` says so.
    """

    slice: Slice
    count: int
    seats: int
    memory_mib: int
    weights_mib: int | None
    overhead_mib: int
    seat_mib: float | None
    why: str = ""


def fit(profile: Profile, slice: Slice, count: int = 1) -> Fit:
    """How ``profile`` fits on ``count`` slices of one node (``count`` > 1 for whole GPUs only)."""
    raise NotImplementedError
