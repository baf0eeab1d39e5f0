"""Profiles: all that is known of a model, put together into what the fleet must know. Pure; called by the model resolver.

Sources, best first: what the caller or the catalogue says, what launches taught, the hub, the file's own header, the
name, else unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

import msgspec

from ssis_dispatcher.core.formulas import cpu_overhead_mib, gpu_overhead_mib
from ssis_dispatcher.core.sizing import MIB, ModelFacts, Profile, default_ceiling, needed_mib
from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.errors import Unprocessable
from ssis_dispatcher.models.catalogue import Entry

GPU_KINDS = (SliceKind.MIG, SliceKind.MPS, SliceKind.GPU)
_CPU_ONLY = (SliceKind.CPU,)


class Defaults(msgspec.Struct, frozen=True):
    """What holds where nobody says otherwise.

    ``context`` is the most tokens per seat; a slice above max(``ceiling_factor`` × need, ``ceiling_free_mib``) is too
    good for a model. A server takes ``start_base`` seconds to start, and loads ``load_mib_per_second`` of weights.
    """

    context: int = 8192
    ceiling_factor: float = 8.0
    ceiling_free_mib: int = 24_576
    start_base: float = 30.0
    load_mib_per_second: float = 500.0
    start_unknown: float = 60.0


class Learned(msgspec.Struct, frozen=True):
    """What launches of a model taught: slices below ``floor_mib`` are too small, and a start takes ``seconds``."""

    floor_mib: int = 0
    seconds: float | None = None

    @staticmethod
    def of(outcomes: Iterable[tuple[str, int, float]]) -> Learned:
        """From outcomes (``ready`` or ``out_of_memory``, the slice's MiB, the seconds it took).

        The floor is above the largest slice that was too small; but a size that proved enough is never below it.
        """
        outcomes = tuple(outcomes)
        enough = min((mib for outcome, mib, _ in outcomes if outcome == "ready"), default=None)
        small = [mib for what, mib, _ in outcomes if what == "out_of_memory" and (enough is None or mib < enough)]
        starts = [seconds for outcome, _, seconds in outcomes if outcome == "ready" and seconds > 0]
        return Learned(max(small) + 1 if small else 0, median(starts) if starts else None)


def completed(facts: ModelFacts, *others: ModelFacts) -> ModelFacts:
    """``facts`` with what it does not know taken from ``others``, in their order. The source is that of the weights."""
    for other in others:
        missing = {
            name: getattr(other, name)
            for name in ("weight_bytes", "kv_bytes_per_token", "context", "parameters", "hidden_size", "vocabulary")
            if getattr(facts, name) is None and getattr(other, name) is not None
        }
        if not missing:
            continue
        if "weight_bytes" in missing:
            missing["source"] = other.source
        if "kv_bytes_per_token" in missing and "weight_bytes" not in missing:
            missing["note"] = _joined(facts.note, f"KV cache by {other.source}")
        elif other.note:
            missing["note"] = _joined(facts.note, other.note)
        facts = msgspec.structs.replace(facts, **missing)
    return facts


def profile(
    facts: ModelFacts,
    *,
    context: int | None = None,
    entry: Entry | None = None,
    learned: Learned | None = None,
    engine_seats: int = 64,
    kinds: tuple[SliceKind, ...] = GPU_KINDS,
    parallel: tuple[int, ...] = (2, 4, 8),
    defaults: Defaults | None = None,
) -> Profile:
    """The profile of a model of which ``facts`` are known.

    ``context`` is the caller's wish (tokens per seat); ``engine_seats``, ``kinds`` and ``parallel`` are the engine's
    limits. Raises `Unprocessable` where the wish is more than the model can.
    """
    entry = entry or Entry(name="")
    learned = learned or Learned()
    defaults = defaults or Defaults()
    facts = _with_entry(facts, entry)
    cpu = kinds == _CPU_ONLY
    found = Profile(
        facts=facts,
        context=_context(facts, context, entry, defaults),
        engine_seats=engine_seats if entry.seats is None else min(engine_seats, entry.seats),
        kinds=kinds,
        parallel=parallel,
        overhead_mib=cpu_overhead_mib(facts) if cpu else gpu_overhead_mib(facts),
        overhead_share=0.0 if cpu else 0.05,
        floor_mib=max(entry.floor_mib, learned.floor_mib),
        start_seconds=_start_seconds(facts, entry, learned, defaults),
        keep_alive=entry.keep_alive,
        pinned=entry.pinned,
        max_servers=entry.max_servers,
    )
    return msgspec.structs.replace(found, ceiling_mib=_ceiling(found, entry, defaults))


def _with_entry(facts: ModelFacts, entry: Entry) -> ModelFacts:
    """``facts`` as corrected by the operator."""
    if entry.weights_mib is not None:
        facts = msgspec.structs.replace(facts, source="catalogue", weight_bytes=entry.weights_mib * MIB)
    if entry.kv_bytes_per_token is not None:
        facts = msgspec.structs.replace(facts, kv_bytes_per_token=entry.kv_bytes_per_token)
    return facts


def _context(facts: ModelFacts, wish: int | None, entry: Entry, defaults: Defaults) -> int:
    """Tokens per seat: the caller's wish, else the catalogue's, else the model's own up to the default."""
    if wish is None:
        return entry.context or min(facts.context or defaults.context, defaults.context)
    if wish < 1:
        raise Unprocessable(f"A context of {wish} tokens cannot be served: it must be at least 1.", param="context")
    most = None if facts.context is None else max(facts.context, entry.context or 0)
    if most is not None and wish > most:
        raise Unprocessable(
            f"A context of {wish} tokens is asked for, but this model has at most {most}.", param="context"
        )
    return wish


def _ceiling(profile: Profile, entry: Entry, defaults: Defaults) -> int | None:
    """The largest slice: the catalogue's word, else by need. None for shares of RAM, and where the need is unknown.

    A floor that launches taught counts as need: who proved to be large may take large slices.
    """
    if entry.ceiling_mib is not None:
        return entry.ceiling_mib
    need = needed_mib(profile)
    if need is None or profile.kinds == _CPU_ONLY:
        return None
    return default_ceiling(max(need, profile.floor_mib), defaults.ceiling_factor, defaults.ceiling_free_mib)


def _start_seconds(facts: ModelFacts, entry: Entry, learned: Learned, defaults: Defaults) -> float:
    """The catalogue's word, else what starts took so far, else base + weights ÷ loading speed."""
    if entry.start_seconds is not None:
        return entry.start_seconds
    if learned.seconds is not None:
        return learned.seconds
    if facts.weight_bytes is None:
        return defaults.start_unknown
    return round(defaults.start_base + facts.weight_bytes / MIB / defaults.load_mib_per_second, 3)


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
