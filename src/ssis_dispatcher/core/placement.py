"""Placement: which slices a model may take, smallest first, and why not the others."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.core.sizing import Fit, Profile, fit
from ssis_dispatcher.core.slices import Pool, Slice, SliceKind, preference


class Candidate(msgspec.Struct, frozen=True):
    """One slice kind in a `Plan`: the arithmetic, how many are free now, and why it is not taken ("" for the choice)."""

    fit: Fit
    free: int
    total: int
    why: str = ""


class Plan(msgspec.Struct, frozen=True):
    """A placement decision with its arithmetic.

    ``decision`` is ``seat`` (a ready server has room), ``join`` (one is starting or busy: wait in its line),
    ``launch``, ``evict`` (stop ``evicts`` first), ``wait`` (for a slice) or ``refuse``. ``expected_seconds`` until the
    first byte can flow, None when unknown.
    """

    model: Model
    profile: Profile
    decision: str
    why: str
    slice: str = ""
    node: str = ""
    count: int = 0
    seats: int = 0
    context: int = 0
    evicts: tuple[str, ...] = ()
    expected_seconds: float | None = None
    candidates: tuple[Candidate, ...] = ()


def candidates(profile: Profile, pools: Iterable[Pool]) -> tuple[Fit, ...]:
    """Every slice kind that occurs in ``pools``, as a `Fit`: those that fit first, in the order of preference
    (total memory, then compute), then those that do not, each with its reason.

    Several whole GPUs of one node are a candidate of their own (``count`` > 1) where one alone is too small and some
    node has as many; MIG, MPS and shared slices are never joined.
    """
    most: dict[Slice, int] = {}
    for pool in pools:
        if pool.total > 0:
            most[pool.slice] = max(pool.total, most.get(pool.slice, 0))
    fits = []
    for slice, total in most.items():
        one = fit(profile, slice)
        fits.append(one)
        if not one.seats and _joinable(profile, slice):
            fits += [fit(profile, slice, count) for count in profile.parallel if 1 < count <= total]
    return tuple(sorted(fits, key=by_preference))


def _joinable(profile: Profile, slice: Slice) -> bool:
    """Whether more of ``slice`` could help: a whole GPU that is not already above the model's ceiling."""
    if slice.kind is not SliceKind.GPU or slice.shared or slice.kind not in profile.kinds or slice.memory_mib <= 0:
        return False
    return profile.ceiling_mib is None or slice.memory_mib <= profile.ceiling_mib


def by_preference(fit: Fit) -> tuple[bool, int, tuple[int, float, bool, str]]:
    """The order in which fits are tried: fitting ones; then total memory, compute, own before shared (`preference`)."""
    return not fit.seats, fit.memory_mib, preference(fit.slice)
