"""The inventory as the fleet keeps it: what exists, what is free, who could go, who waits.

One `Shelf` per slice kind, one `Bin` per slice kind and node. Everything asked of a shelf while a request is being
decided is answered from an index, so that no answer costs more because the fleet is larger.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ssis_dispatcher.core.servers import Server, State
from ssis_dispatcher.core.slices import Pool, Slice

if TYPE_CHECKING:
    from ssis_dispatcher.core.states import Need


class Bin:
    """One pool, with the fleet's own servers on it; ``ours`` is what they hold."""

    __slots__ = ("node", "ours", "servers", "shelf", "taken", "total")

    def __init__(self, shelf: Shelf, node: str) -> None:
        self.shelf = shelf
        self.node = node
        self.total = 0
        self.taken = 0
        self.ours = 0
        self.servers: dict[str, Server] = {}

    @property
    def free(self) -> int:
        """Slices that a launch may take; below zero where others took what we held, or the node lost some."""
        return self.total - self.taken - self.ours

    def pool(self) -> Pool:
        return Pool(self.node, self.shelf.slice, self.total, self.taken)

    def victims(self, count: int) -> list[Server]:
        """Whose going gives ``count`` free slices here: those that go anyhow, then the cheapest idle ones, and none that
        is not needed. Empty when all of them are not enough."""
        going = [server for server in self.servers.values() if server.state is State.STOPPING and server.claim is None]
        idle = sorted((server for server in self.servers.values() if server.evictable), key=self.shelf.cost)
        missing = count - self.free
        chosen: list[Server] = []
        for server in going + idle:
            if missing <= 0:
                break
            chosen.append(server)
            missing -= server.count
        if missing > 0:
            return []
        for server in reversed(chosen[:-1]):  # a large one, taken last, may have made smaller ones unnecessary
            if server.count <= -missing:
                chosen.remove(server)
                missing += server.count
        return chosen


class Shelf:
    """All pools of one slice kind.

    ``wants`` are the launches that could use a slice from here, in the order of their turn; ``barring`` those of them that
    have been overtaken as often as may be, so that no later launch passes them here. ``retiring`` are servers that stop
    without a launch waiting for it: a launch claims one of those before it evicts another.
    """

    __slots__ = ("_by_free", "_idle", "_reload_weight", "barring", "bins", "retiring", "slice", "wants")

    def __init__(self, slice: Slice, reload_weight: float) -> None:
        self.slice = slice
        self.bins: dict[str, Bin] = {}
        self.wants: OrderedDict[int, Need] = OrderedDict()
        self.barring: dict[int, Need] = {}
        self.retiring: OrderedDict[str, Server] = OrderedDict()
        self._by_free: dict[int, OrderedDict[str, Bin]] = {}
        self._idle: list[tuple[tuple[bool, float], int, Server]] = []
        self._reload_weight = reload_weight

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

    def put(self, server: Server, bin: Bin) -> None:
        """A server takes its slices from ``bin``."""
        server.bin = bin
        bin.servers[server.id] = server
        self.change(bin, ours=server.count)

    def take_off(self, server: Server) -> None:
        """A server gives its slices back."""
        del server.bin.servers[server.id]
        self.retiring.pop(server.id, None)
        self.change(server.bin, ours=-server.count)

    def find(self, count: int) -> Bin | None:
        """A node with ``count`` free slices: the one with the fewest that are enough."""
        enough = [free for free in self._by_free if free >= count]
        return next(iter(self._by_free[min(enough)].values())) if enough else None

    def free(self) -> int:
        return sum(free * len(bins) for free, bins in self._by_free.items())

    # Launches that wait for a slice from here.

    def hang(self, need: Need, barring: bool) -> None:
        late = bool(self.wants) and next(reversed(self.wants)) > need.order
        self.wants[need.order] = need
        if late:
            self.wants = OrderedDict(sorted(self.wants.items()))
        if barring:
            self.barring[need.order] = need

    def unhang(self, need: Need) -> None:
        self.wants.pop(need.order, None)
        self.barring.pop(need.order, None)

    def closed_to(self, order: float) -> bool:
        """Whether a launch whose turn was before this one's has been passed often enough here."""
        return bool(self.barring) and min(self.barring) < order

    def in_turn(self) -> Iterator[Need]:
        """Those that may be launched here, in the order of their turn. Stop before you change anything."""
        for order, need in self.wants.items():
            yield need
            if order in self.barring:
                return

    # Idle servers, by what evicting them would cost. Keys only ever grow (a server used since is idle for less long), so
    # an entry that has grown old is put back where it belongs when it comes up, and nothing is done while it does not.

    def cost(self, server: Server) -> tuple[bool, float]:
        """Extra servers first; then idle time against reload time."""
        return not server.extra, server.idle_since + self._reload_weight * server.profile.start_seconds

    def index(self, server: Server) -> None:
        """Make an idle server a possible victim."""
        if not server.indexed:
            server.indexed = True
            heapq.heappush(self._idle, (self.cost(server), server.order, server))

    def victims(self, count: int, at: Bin | None = None) -> list[Server]:
        """Whose going gives ``count`` free slices on one node, cheapest first; empty when there are none. They stay where
        they are: what is to become of them is the caller's to say. For ``at`` see `choose`."""
        if count == 1:
            going = next((server for server in self.retiring.values() if server.bin.free + server.count > 0), None)
            return [going] if going is not None else self._cheapest()
        bins = self.bins.values() if at is None else [at] if at.shelf is self else []
        groups = [group for bin in bins if bin.total >= count and (group := bin.victims(count))]
        return min(groups, key=lambda group: max(map(self.cost, group)), default=[])

    def _cheapest(self) -> list[Server]:
        """The idle server at the front of the index; where its node has shrunk, with the others that must go as well."""
        found: list[Server] = []
        in_vain = []
        while self._idle and not found:
            cost, _, server = self._idle[0]
            if server.bin.shelf is not self:
                heapq.heappop(self._idle)
            elif not server.evictable:
                heapq.heappop(self._idle)
                server.indexed = False
            elif self.cost(server) > cost:
                heapq.heapreplace(self._idle, (self.cost(server), server.order, server))
            elif server.bin.free + server.count > 0:
                found = [server]
            else:
                found = server.bin.victims(1)
                in_vain.append(heapq.heappop(self._idle))
        for entry in in_vain:
            heapq.heappush(self._idle, entry)
        return found


class Stock:
    """All shelves. ``kinds`` counts up whenever a slice kind or a node's total changed, so that fits are worked out anew."""

    def __init__(self, reload_weight: float) -> None:
        self.shelves: dict[Slice, Shelf] = {}
        self.known = False
        self.kinds = 0
        self._reload_weight = reload_weight
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
            shelf = self.shelves[slice] = Shelf(slice, self._reload_weight)
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

    def move(self, server: Server, bin: Bin) -> None:
        """A server turns out to hold another pool than it was launched on."""
        indexed, server.indexed = server.indexed, False
        retiring = server.id in server.bin.shelf.retiring
        server.bin.shelf.take_off(server)
        bin.shelf.put(server, bin)
        if indexed:
            bin.shelf.index(server)
        if retiring:
            bin.shelf.retiring[server.id] = server

    def update(self, pools: Iterable[Pool]) -> list[Shelf]:
        """Take in the whole picture; the shelves on which something became free.

        A pool that is gone while its node has another of the same name is that one: the slice is of another size than it
        was said to be (a label came late, a smaller one joined), and its servers are still on it.
        """
        self.known = True
        before: dict[Bin, int] = {}
        by_name: dict[tuple[str, str], Bin] = {}
        for pool in pools:
            bin = by_name[pool.node, pool.slice.name] = self.bin(pool.node, pool.slice)
            before[bin] = bin.free
            self._set(bin, pool.total, pool.taken)
        for bin in [bin for shelf in self.shelves.values() for bin in shelf.bins.values() if bin not in before]:
            self._set(bin, 0, 0)
            heir = by_name.get((bin.node, bin.shelf.slice.name))
            if heir is not None:
                for server in list(bin.servers.values()):
                    self.move(server, heir)
            if not bin.servers:
                del bin.shelf.bins[bin.node]
        for shelf in [shelf for shelf in self.shelves.values() if not shelf.bins and not shelf.wants]:
            del self.shelves[shelf.slice]
        freed = {bin.shelf.slice: bin.shelf for bin, free in before.items() if bin.free > free}
        return [freed[slice] for slice in sorted(freed)]

    def _set(self, bin: Bin, total: int, taken: int) -> None:
        if bin.total != total:
            self.kinds += 1
        if (bin.total, bin.taken) != (total, taken):
            bin.shelf.change(bin, total=total, taken=taken)
