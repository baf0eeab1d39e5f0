"""The inventory as the fleet keeps it: what exists, what is free, who could go, who waits.

One `Shelf` per slice kind, one `Bin` per slice kind and node. Everything asked of a shelf while a request is being
decided is answered from an index, so that no answer costs more because the fleet is larger.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ssis_dispatcher.core.servers import Server, State
from ssis_dispatcher.core.slices import Pool, Slice

if TYPE_CHECKING:
    from ssis_dispatcher.core.states import Need


class Bin:
    """One pool, with what the fleet's own servers hold of it."""

    __slots__ = ("node", "ours", "shelf", "taken", "total")

    def __init__(self, shelf: Shelf, node: str) -> None:
        self.shelf = shelf
        self.node = node
        self.total = 0
        self.taken = 0
        self.ours = 0

    @property
    def free(self) -> int:
        """Slices that a launch may take; below zero where others took what we held, or the node lost some."""
        return self.total - self.taken - self.ours

    def pool(self) -> Pool:
        return Pool(self.node, self.shelf.slice, self.total, self.taken)


class Shelf:
    """All pools of one slice kind.

    ``wants`` are the launches that could use a slice from here, oldest first; ``barred`` those of them that have been
    overtaken as often as may be, so that no younger launch passes them here. ``retiring`` are servers that stop without
    a launch having asked for it: a launch claims one of those before it evicts another.
    """

    __slots__ = ("_by_free", "_idle", "barred", "bins", "retiring", "slice", "wants")

    def __init__(self, slice: Slice) -> None:
        self.slice = slice
        self.bins: dict[str, Bin] = {}
        self._by_free: dict[int, OrderedDict[str, Bin]] = {}
        self._idle: list[tuple[bool, float, int, Server]] = []
        self.wants: OrderedDict[int, Need] = OrderedDict()
        self.barred: OrderedDict[int, Need] = OrderedDict()
        self.retiring: OrderedDict[str, Server] = OrderedDict()

    # Free slices, by how many a node has: the fullest node that still has enough is taken, so that whole GPUs of a node
    # stay together for the models that need several.

    def change(self, bin: Bin, *, ours: int = 0, total: int | None = None, taken: int | None = None) -> None:
        """Change a bin's numbers and keep the index true."""
        before = bin.free
        bin.ours += ours
        bin.total = bin.total if total is None else total
        bin.taken = bin.taken if taken is None else taken
        after = bin.free
        if before > 0:
            same = self._by_free[before]
            del same[bin.node]
            if not same:
                del self._by_free[before]
        if after > 0:
            self._by_free.setdefault(after, OrderedDict())[bin.node] = bin

    def find(self, count: int) -> Bin | None:
        """A node with ``count`` free slices: the one with the fewest that are enough."""
        enough = [free for free in self._by_free if free >= count]
        return next(iter(self._by_free[min(enough)].values())) if enough else None

    def free(self) -> int:
        return sum(free * len(bins) for free, bins in self._by_free.items())

    # Idle servers, by what evicting them would cost. Keys only ever grow (a server used since is idle for less long), so
    # an entry that has grown old is put back where it belongs when it comes up, and nothing is done while it does not.

    @staticmethod
    def _cost(server: Server, reload_weight: float) -> tuple[bool, float]:
        extra = server.extra and len(server.model.servers) > 1
        return not extra, server.idle_since + reload_weight * server.profile.start_seconds

    def index(self, server: Server, reload_weight: float) -> None:
        """Make an idle server a possible victim."""
        if not server.indexed:
            server.indexed = True
            heapq.heappush(self._idle, (*self._cost(server, reload_weight), server.order, server))

    def victims(self, count: int, reload_weight: float) -> list[Server]:
        """The cheapest idle servers that, with what is free, give ``count`` slices on one node. Empty when there are none.

        They are no longer possible victims; the others stay.
        """
        seen: list[tuple[bool, float, int, Server]] = []
        by_node: dict[str, list[Server]] = {}
        chosen: list[Server] = []
        while self._idle and not chosen:
            entry = heapq.heappop(self._idle)
            server = entry[3]
            if server.state is not State.READY or server.busy or server.leaving or server.model.pinned:
                server.indexed = False
                continue
            cost = self._cost(server, reload_weight)
            if cost > entry[:2]:
                heapq.heappush(self._idle, (*cost, server.order, server))
                continue
            seen.append(entry)
            group = by_node.setdefault(server.bin.node, [])
            group.append(server)
            if max(server.bin.free, 0) + sum(each.count for each in group) >= count and server.bin.total >= count:
                chosen = self._fewest(group, count - max(server.bin.free, 0))
        for entry in seen:
            if entry[3] in chosen:
                entry[3].indexed = False
            else:
                heapq.heappush(self._idle, entry)
        return chosen

    def peek_victims(self, count: int, reload_weight: float) -> list[Server]:
        """`victims`, without taking them out of the index."""
        chosen = self.victims(count, reload_weight)
        for server in chosen:
            self.index(server, reload_weight)
        return chosen

    @staticmethod
    def _fewest(group: list[Server], missing: int) -> list[Server]:
        """Of a node's victims, leave out those that are not needed after all, dearest kept longest."""
        chosen = list(group)
        for server in group[:-1]:
            if sum(each.count for each in chosen) - server.count >= missing:
                chosen.remove(server)
        return chosen


class Stock:
    """All shelves. ``kinds`` counts up whenever a slice kind or a node's total changed, so that fits are worked out anew."""

    def __init__(self) -> None:
        self.shelves: dict[Slice, Shelf] = {}
        self.known = False
        self.kinds = 0
        self._largest: tuple[Pool, ...] = ()
        self._largest_of = -1

    def largest(self) -> tuple[Pool, ...]:
        """One pool of each slice kind, the one of the node that has most of them: all that fitting a model needs."""
        if self._largest_of != self.kinds:
            self._largest = tuple(
                max(shelf.bins.values(), key=lambda bin: bin.total).pool()
                for shelf in self.shelves.values()
                if any(bin.total for bin in shelf.bins.values())
            )
            self._largest_of = self.kinds
        return self._largest

    def bin(self, node: str, slice: Slice) -> Bin:
        """The bin of this pool, made if it is new."""
        shelf = self.shelves.get(slice)
        if shelf is None:
            shelf = self.shelves[slice] = Shelf(slice)
        bin = shelf.bins.get(node)
        if bin is None:
            bin = shelf.bins[node] = Bin(shelf, node)
        return bin

    def named(self, node: str, name: str) -> Bin | None:
        """The bin on ``node`` of the slice with this resource name."""
        for shelf in self.shelves.values():
            if shelf.slice.name == name and node in shelf.bins:
                return shelf.bins[node]
        return None

    def update(self, pools: Iterable[Pool]) -> list[Shelf]:
        """Take in the whole picture; the shelves on which something became free."""
        self.known = True
        freed: dict[Slice, Shelf] = {}
        present: set[tuple[str, Slice]] = set()
        for pool in pools:
            present.add((pool.node, pool.slice))
            bin = self.bin(pool.node, pool.slice)
            before = bin.free
            if bin.total != pool.total:
                self.kinds += 1
            if (bin.total, bin.taken) != (pool.total, pool.taken):
                bin.shelf.change(bin, total=pool.total, taken=pool.taken)
            if bin.free > before:
                freed[pool.slice] = bin.shelf
        for shelf in list(self.shelves.values()):
            for bin in [each for each in shelf.bins.values() if (each.node, shelf.slice) not in present]:
                self._gone(shelf, bin)
        return [freed[slice] for slice in sorted(freed)]

    def _gone(self, shelf: Shelf, bin: Bin) -> None:
        if bin.total or bin.taken:
            shelf.change(bin, total=0, taken=0)
            self.kinds += 1
        if not bin.ours:
            del shelf.bins[bin.node]
        if not shelf.bins and not shelf.wants:
            del self.shelves[shelf.slice]
