"""Rules 5 to 7 as pure functions: what a launch can do now. `Allotment` acts on it, `views.plan` tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ssis_dispatcher.core.placement import by_preference, candidates
from ssis_dispatcher.core.racks import Rack, shortfall, words
from ssis_dispatcher.core.servers import Server
from ssis_dispatcher.core.shelves import Bin, Shelf, Stock
from ssis_dispatcher.core.sizing import Ask, Fit, Profile
from ssis_dispatcher.core.slices import Slice

Places = Sequence[tuple[Fit, Shelf]]
"""Where a launch may go, best first."""


class Choice(NamedTuple):
    """``fit`` on ``bin``: at once, or when ``victims`` have gone."""

    fit: Fit
    bin: Bin
    victims: Sequence[Server] = ()


def fitting(profile: Profile, stock: Stock) -> tuple[Fit, ...]:
    """How a model fits on each slice kind (`candidates`), and on the nodes that have it: a slice whose nodes are all too
    small for what the model asks beside it is none for this model."""
    found = candidates(profile, stock.largest())
    ask = profile.ask
    if not any(ask):
        return found
    return tuple(sorted((_on_nodes(fit, ask, stock) for fit in found), key=by_preference))


def _on_nodes(fit: Fit, ask: Ask, stock: Stock) -> Fit:
    racks = stock.roomiest(fit.slice, fit.count) if fit.seats else ()
    if not racks or any(rack.could(ask) for rack in racks):
        return fit
    best = racks[0]
    why = f"asks {words(ask)} of its node; the best node for it, {best.node}, has {shortfall(ask, best.total)}"
    return msgspec.structs.replace(fit, seats=0, why=why, host_short=True)


def places(fits: Iterable[Fit], shelves: Mapping[Slice, Shelf], allows: Callable[[Fit], bool]) -> Places:
    """Of what fits and is allowed, the fewest slices of each kind: who can do with two GPUs does not look for four."""
    found: dict[Slice, tuple[Fit, Shelf]] = {}
    for fit in fits:
        if fit.seats > 0 and fit.slice not in found and allows(fit):
            found[fit.slice] = fit, shelves[fit.slice]
    return list(found.values())


def choose(where: Places, ask: Ask, order: float, *, evict: bool = True, at: Rack | None = None) -> Choice | None:
    """The best that a launch of this ``order`` can do which asks ``ask`` of its node, None to wait.

    A slice that some node has comes before one that a node may bring: it is there at once. That comes before the slice of
    an idle server: whoever lets the cluster grow has said that a launch may cost a node rather than another model's warmth,
    and an autoscaler grows only for servers that wait for it.

    ``at`` is the node where something has changed since this launch was last looked at, when it was one only; then nothing
    is sought elsewhere, so that a change costs the same in a fleet of any size.
    """
    open_to_it = [(fit, shelf) for fit, shelf in where if not shelf.closed_to(order)]
    for fit, shelf in open_to_it:  # (5)
        bin = shelf.find(fit.count, ask, order, at)
        if bin is not None:
            return Choice(fit, bin)
    for fit, shelf in open_to_it:
        bin = shelf.find_pending(fit.count, ask, order)
        if bin is not None:
            return Choice(fit, bin)
    if evict:
        for fit, shelf in open_to_it:  # (6)
            room, victims = shelf.victims(fit.count, ask, order, at)
            if room is not None:
                return Choice(fit, room, victims)
    return None  # (7)


def lacking(where: Places, ask: Ask) -> str:
    """In words, what keeps a launch from a slice that is free; "" where none is."""
    for fit, shelf in where:
        for bin in shelf.free_bins(fit.count):
            if short := bin.rack.lack(ask):
                many = f"{bin.free} slices {shelf.slice.name} are" if bin.free > 1 else f"1 slice {shelf.slice.name} is"
                return f"{many} free on node {bin.node}, but {short}: a server asks {words(ask)}."
    return ""


def waits_for(where: Places, ask: Ask) -> str:
    """In words, what a launch waits for that can do nothing now."""
    names = ", ".join(dict.fromkeys(fit.slice.name for fit, _ in where))
    return lacking(where, ask) or f"Every slice that fits is in use: {names}."
