"""Nodes, as far as they are more than their slices: CPU and memory, which all servers of a node share.

A slice is only worth something together with the CPU and memory that a server on it asks of the same node. What a node has
beside other people's pods is told (`Host`); what our own servers ask is counted here, so that two launches never count on
the same memory. Nodes of which nothing is told have as much as anybody asks, and cost nothing.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ssis_dispatcher.core.sizing import NOTHING, Ask
from ssis_dispatcher.core.slices import Host, Slice

if TYPE_CHECKING:
    from ssis_dispatcher.core.shelves import Bin


class Rack:
    """One node: its bins, and what is left for our servers of its CPU and memory (infinite where nothing limits it; below
    zero where others took what ours hold). ``total`` is what it has when it is empty."""

    __slots__ = ("_asked", "bins", "host", "left", "limited", "node", "total")

    def __init__(self, node: str) -> None:
        self.node = node
        self.bins: dict[Slice, Bin] = {}
        self.host: Host | None = None
        self.limited = False
        self.total = Ask(inf, inf)
        self.left = Ask(inf, inf)
        self._asked = NOTHING

    def tell(self, host: Host | None) -> None:
        """Take in what is told of this node; None: it has as much as anybody asks."""
        self.host, self.limited = host, host is not None
        self.total = Ask(inf, inf)
        if host is not None:
            self.total = Ask(max(host.cpu_millis, host.total_cpu_millis), max(host.memory_mib, host.total_memory_mib))
        self._count()

    def take(self, ask: Ask) -> None:
        self._asked = self._asked.plus(ask)
        self._count()

    def give_back(self, ask: Ask) -> None:
        self._asked = self._asked.minus(ask)
        self._count()

    def _count(self) -> None:
        if self.host is not None:
            self.left = Ask(self.host.cpu_millis, self.host.memory_mib).minus(self._asked)
        else:
            self.left = Ask(inf, inf)
        self.changed()

    def changed(self) -> None:
        """There may be more here than before, or servers that may go: whoever seeks looks at its bins again."""
        for bin in self.bins.values():
            bin.shelf.changed(bin)

    def could(self, ask: Ask) -> bool:
        """Whether it would be enough if nobody else had anything here."""
        return ask.within(self.total)

    def may_serve(self, ask: Ask) -> bool:
        """Whether it would be enough if our servers had nothing here."""
        return self.host is None or ask.within(Ask(self.host.cpu_millis, self.host.memory_mib))

    def serves(self, ask: Ask, order: float, back: Ask = NOTHING) -> bool:
        """Whether a launch of this ``order`` can have ``ask`` here, once ``back`` is given back: there is enough, and no
        launch whose turn was before this one's, and which has been passed often enough, lacks it then."""
        if not self.limited or ask == NOTHING:
            return True
        left = self.left.plus(back)
        if not ask.within(left):
            return False
        left = left.minus(ask)
        for bin in self.bins.values():
            for turn, need in bin.shelf.barring.items():
                if turn < order and self.could(need.ask) and not need.ask.within(left):
                    return False
        return True

    def wanted(self) -> bool:
        """Whether a launch may wait for what servers of any slice kind hold here."""
        return self.limited and any(bin.shelf.wants for bin in self.bins.values())

    def lack(self, ask: Ask) -> str:
        """What of ``ask`` is not here now, in words; "" when nothing is."""
        return shortfall(ask, self.left)


def shortfall(ask: Ask, left: Ask) -> str:
    """``only 2048 MiB of its memory`` and the like, "" where ``left`` is enough."""
    parts = []
    if ask.mib and ask.mib > left.mib:
        parts.append(f"{max(0, left.mib):.0f} MiB of its memory")
    if ask.cpu and ask.cpu > left.cpu:
        parts.append(f"{max(0, left.cpu) / 1000:g} of its CPUs")
    return f"only {' and '.join(parts)}" if parts else ""


def words(ask: Ask) -> str:
    """``8192 MiB of memory and 2 CPUs``: what a server asks of its node."""
    parts = []
    if ask.mib:
        parts.append(f"{ask.mib:.0f} MiB of memory")
    if ask.cpu:
        parts.append(f"{ask.cpu / 1000:g} CPU{'' if ask.cpu == 1000 else 's'}")
    return " and ".join(parts)
