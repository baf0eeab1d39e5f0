"""Placement: which slices a model may take, smallest first, and why not the others."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.core.sizing import Fit, Profile
from ssis_dispatcher.core.slices import Pool


class Candidate(msgspec.Struct, frozen=True):
    """One slice kind in a `Plan`: the arithmetic, how many are free now, and why it is not taken ("" for the choice)."""

    fit: Fit
    free: int
    total: int
    why: str = ""


class Plan(msgspec.Struct, frozen=True):
    """A placement decision with its arithmetic.

    ``decision`` is ``seat`` (a ready server has room), ``join`` (one is starting or busy: wait in its line), ``launch``,
    ``evict`` (stop ``evicts`` first), ``wait`` (for a slice) or ``refuse``. ``expected_seconds`` until the first byte can
    flow, None when unknown.
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
    (total memory, then compute), then those that do not, each with its reason."""
    raise NotImplementedError
