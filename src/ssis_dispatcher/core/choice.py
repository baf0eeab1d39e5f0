"""Rules 5 to 7 as one pure function: what a launch can do now. `Allotment` acts on it, `views.plan` tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ssis_dispatcher.core.servers import Server
from ssis_dispatcher.core.shelves import Bin, Shelf
from ssis_dispatcher.core.sizing import Fit
from ssis_dispatcher.core.slices import Slice

Places = Sequence[tuple[Fit, Shelf]]
"""Where a launch may go, best first."""


class Choice(NamedTuple):
    """``fit`` on ``bin``: at once, or when ``victims`` have gone."""

    fit: Fit
    bin: Bin
    victims: Sequence[Server] = ()


def places(fits: Iterable[Fit], shelves: Mapping[Slice, Shelf], allows: Callable[[Fit], bool]) -> Places:
    """Of what fits and is allowed, the fewest slices of each kind: who can do with two GPUs does not look for four."""
    found: dict[Slice, tuple[Fit, Shelf]] = {}
    for fit in fits:
        if fit.seats > 0 and fit.slice not in found and allows(fit):
            found[fit.slice] = fit, shelves[fit.slice]
    return list(found.values())


def choose(where: Places, order: float, *, evict: bool = True, at: Bin | None = None) -> Choice | None:
    """The best that a launch of this ``order`` can do, None to wait.

    ``at`` is where something has changed since this launch was last looked at, when it was in one bin only; then several
    slices of one node are sought nowhere else, so that a change costs the same in a fleet of any size.
    """
    open_to_it = [(fit, shelf) for fit, shelf in where if not shelf.closed_to(order)]
    for fit, shelf in open_to_it:  # (5)
        bin = shelf.find(fit.count)
        if bin is not None:
            return Choice(fit, bin)
    if evict:
        for fit, shelf in open_to_it:  # (6)
            victims = shelf.victims(fit.count, at)
            if victims:
                return Choice(fit, victims[0].bin, victims)
    return None  # (7)
