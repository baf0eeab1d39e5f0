"""The inventory as the fleet keeps it: what exists, what is free, who could go, who waits.

One `Shelf` per slice kind, one `Rack` per node, and where they cross one `Bin` with the node's slices of that kind.
Everything asked of a shelf while a request is being decided is answered from an index, so that no answer costs more because
the fleet is larger. Only where nodes have free slices and too little CPU or memory for them, they are gone through.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from ssis_dispatcher.core.racks import Rack
from ssis_dispatcher.core.servers import Server, State
from ssis_dispatcher.core.sizing import NOTHING, Ask
from ssis_dispatcher.core.slices import PENDING, Host, Pool, Slice, parse_resource, preference

if TYPE_CHECKING:
    from ssis_dispatcher.core.states import Need


_MOST_SHORT = 64
"""Nodes with a free slice and too little CPU or memory for it that one launch goes through in search of idle servers. What it
could have found on others it finds when something changes there."""


class Bin:
    """One pool, with the fleet's own servers on it; ``ours`` is what they hold."""

    __slots__ = ("node", "ours", "rack", "servers", "shelf", "taken", "total")

    def __init__(self, shelf: Shelf, rack: Rack) -> None:
        self.shelf = shelf
        self.rack = rack
        self.node = rack.node
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

    def going(self) -> list[Server]:
        """Servers that stop without a launch waiting for it."""
        return [server for server in self.servers.values() if server.goes_unclaimed]

    def idle(self) -> list[Server]:
        """Servers that may go, the cheapest first."""
        return sorted((server for server in self.servers.values() if server.evictable), key=self.shelf.cost)

    def victims(self, count: int, ask: Ask, order: float) -> list[Server]:
        """Whose going gives ``count`` free slices here, and the node what is asked of it: those that go anyhow, then the
        cheapest idle ones, and none that is not needed. For the sake of CPU and memory, servers on the node's other slices
        go too. Empty when all of them are not enough."""
        if not self.rack.serves(ask, order, _given_back(self._may_all_go())):
            return []
        chosen: list[Server] = []

        def enough(without: Server | None = None) -> bool:
            counted = [server for server in chosen if server is not without]
            free = self.free + sum(server.count for server in counted if server.bin is self)
            return free >= count and self.rack.serves(ask, order, _given_back(counted))

        for server in self.going() + self.idle():
            if self.free + sum(server.count for server in chosen) >= count:
                break
            chosen.append(server)
        for server in self._for_cpu_and_memory() if not enough() and self.rack.limited else ():
            if server not in chosen and server.ask != NOTHING:
                chosen.append(server)
                if enough():
                    break
        if not enough():
            return []
        for server in reversed(chosen[:]):  # a large one, taken last, may have made smaller ones unnecessary
            if enough(without=server):
                chosen.remove(server)
        return chosen

    def _may_all_go(self) -> Iterator[Server]:
        """All of this node that stop for nobody, or that may be stopped."""
        if self.rack.limited:
            for bin in self.rack.bins.values():
                for server in bin.servers.values():
                    if server.evictable or server.goes_unclaimed:
                        yield server

    def _for_cpu_and_memory(self) -> list[Server]:
        """The same in the order in which they are to go."""
        return sorted(
            self._may_all_go(), key=lambda server: (server.state is not State.STOPPING, self.shelf.cost(server))
        )


def _given_back(servers: Iterable[Server]) -> Ask:
    back = NOTHING
    for server in servers:
        back = back.plus(server.ask)
    return back


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
    # stay together for the models that need several. Slices that no node has yet are not in the index.

    def change(self, bin: Bin, *, ours: int = 0, total: int | None = None, taken: int | None = None) -> None:
        """Change a bin's numbers and keep the index true."""
        before = bin.free
        bin.ours += ours
        bin.total = bin.total if total is None else total
        bin.taken = bin.taken if taken is None else taken
        after = bin.free
        if bin.node == PENDING:
            return
        if before > 0:
            same = self._by_free[before]
            del same[bin.node]
            if not same:
                del self._by_free[before]
        if after > 0:
            self._by_free.setdefault(after, OrderedDict())[bin.node] = bin

    def put(self, server: Server, bin: Bin) -> None:
        """A server takes its slices, and what it asks of the node, from ``bin``."""
        server.bin = bin
        bin.servers[server.id] = server
        bin.rack.take(server.ask)
        self.change(bin, ours=server.count)

    def take_off(self, server: Server) -> None:
        """A server gives back what it had."""
        del server.bin.servers[server.id]
        self.retiring.pop(server.id, None)
        server.bin.rack.give_back(server.ask)
        self.change(server.bin, ours=-server.count)

    def find(self, count: int, ask: Ask = NOTHING, order: float = 0, at: Rack | None = None) -> Bin | None:
        """A node with ``count`` free slices and what is asked of it: of those, the one with the fewest slices. For ``at``
        see `choice.choose`."""
        if at is not None:
            bin = self._bin_at(at)
            return bin if bin is not None and bin.free >= count and at.serves(ask, order) else None
        for free in sorted(free for free in self._by_free if free >= count):
            for bin in self._by_free[free].values():
                if bin.rack.serves(ask, order):
                    return bin
        return None

    def find_pending(self, count: int, ask: Ask = NOTHING, order: float = 0) -> Bin | None:
        """The pool of the slices that no node has yet, where ``count`` more may be waited for."""
        bin = self.bins.get(PENDING)
        return bin if bin is not None and bin.free >= count and bin.rack.serves(ask, order) else None

    def free_bins(self, count: int) -> Iterator[Bin]:
        """Nodes with ``count`` free slices."""
        return (bin for free, bins in self._by_free.items() if free >= count for bin in bins.values())

    def free(self) -> int:
        pending = self.bins.get(PENDING)
        return sum(free * len(bins) for free, bins in self._by_free.items()) + max(0, pending.free if pending else 0)

    def _bin_at(self, rack: Rack) -> Bin | None:
        return None if rack.node == PENDING else rack.bins.get(self.slice)

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

    def victims(self, count: int, ask: Ask, order: float, at: Rack | None = None) -> tuple[Bin | None, list[Server]]:
        """Whose going makes room for ``count`` slices and for ``ask`` on one node, cheapest first, and where; nobody when
        there is no such node. They stay where they are: what is to become of them is the caller's to say. For ``at`` see
        `choice.choose`."""
        found: list[tuple[Bin, list[Server]]] = []
        if count == 1:
            for server in self.retiring.values():
                if self._enough_alone(server, ask, order):
                    return server.bin, [server]
            found += self._cheapest(ask, order)
        for bin in self._worth_a_look(count, ask, at):
            if group := bin.victims(count, ask, order):
                found.append((bin, group))
        return min(found, key=lambda each: max(map(self.cost, each[1])), default=(None, []))

    def _worth_a_look(self, count: int, ask: Ask, at: Rack | None) -> Iterable[Bin]:
        """Nodes that the index of idle servers does not tell about: where several slices are sought, and some of those where
        a slice is free and CPU or memory is not."""
        here = None if at is None else self._bin_at(at)
        if count == 1:
            bins = self.free_bins(1) if at is None else [here] if here is not None and here.free > 0 else []
            return islice((bin for bin in bins if bin.rack.may_serve(ask)), _MOST_SHORT)
        bins = (bin for bin in (self.bins.values() if at is None else [here]) if bin is not None)
        return (bin for bin in bins if bin.total >= count and bin.node != PENDING)

    @staticmethod
    def _enough_alone(server: Server, ask: Ask, order: float) -> bool:
        bin = server.bin
        return bin.node != PENDING and bin.free + server.count > 0 and bin.rack.serves(ask, order, server.ask)

    def _cheapest(self, ask: Ask, order: float) -> list[tuple[Bin, list[Server]]]:
        """The idle server at the front of the index; where its node has shrunk or lacks CPU or memory, with the others that
        must go as well. None or one such group."""
        found: list[tuple[Bin, list[Server]]] = []
        in_vain = []
        tried: set[str] = set()
        while self._idle and not found:
            cost, _, server = self._idle[0]
            bin = server.bin
            if bin.shelf is not self:
                heapq.heappop(self._idle)
            elif not server.evictable:
                heapq.heappop(self._idle)
                server.indexed = False
            elif self.cost(server) > cost:
                heapq.heapreplace(self._idle, (self.cost(server), server.order, server))
            elif self._enough_alone(server, ask, order):
                found = [(bin, [server])]
            else:
                if bin.node not in tried and bin.node != PENDING and (group := bin.victims(1, ask, order)):
                    found = [(bin, group)]
                tried.add(bin.node)
                in_vain.append(heapq.heappop(self._idle))
        for entry in in_vain:
            heapq.heappush(self._idle, entry)
        return found


class Stock:
    """All shelves and racks. ``kinds`` counts up whenever a slice kind, a node's total or all that it has of CPU and memory
    changed, so that fits are worked out anew."""

    def __init__(self, reload_weight: float) -> None:
        self.shelves: dict[Slice, Shelf] = {}
        self.racks: dict[str, Rack] = {}
        self.known = False
        self.kinds = 0
        self._reload_weight = reload_weight
        self._largest: tuple[Pool, ...] = ()
        self._roomiest: dict[tuple[Slice, int], tuple[Rack, ...]] = {}
        self._cached_of = -1

    def largest(self) -> tuple[Pool, ...]:
        """One pool of each slice kind, the one of the node that has most of them: all that fitting a model needs."""
        self._renew()
        return self._largest

    def roomiest(self, slice: Slice, count: int) -> tuple[Rack, ...]:
        """Of the nodes with ``count`` such slices those that, when empty, have more CPU or more memory than any other: who
        asks more than each of them has asks too much."""
        self._renew()
        found = self._roomiest.get((slice, count))
        if found is None:
            racks = [bin.rack for bin in self.shelves[slice].bins.values() if bin.total >= count]
            found = self._roomiest[slice, count] = tuple(_frontier(racks))
        return found

    def _renew(self) -> None:
        if self._cached_of != self.kinds:
            self._largest = tuple(
                max(shelf.bins.values(), key=lambda bin: bin.total).pool()
                for shelf in self.shelves.values()
                if any(bin.total for bin in shelf.bins.values())
            )
            self._roomiest.clear()
            self._cached_of = self.kinds

    def rack(self, node: str) -> Rack:
        """This node, made if it is new."""
        rack = self.racks.get(node)
        if rack is None:
            rack = self.racks[node] = Rack(node)
        return rack

    def bin(self, node: str, slice: Slice) -> Bin:
        """The bin of this pool, made if it is new."""
        shelf = self.shelves.get(slice)
        if shelf is None:
            shelf = self.shelves[slice] = Shelf(slice, self._reload_weight)
        bin = shelf.bins.get(node)
        if bin is None:
            rack = self.rack(node)
            bin = shelf.bins[node] = rack.bins[slice] = Bin(shelf, rack)
        return bin

    def named(self, node: str, name: str) -> Bin | None:
        """The bin on ``node`` of the slice with this resource name."""
        rack = self.racks.get(node)
        for bin in rack.bins.values() if rack is not None else ():
            if bin.shelf.slice.name == name:
                return bin
        return None

    def found(self, node: str, name: str) -> Bin | None:
        """The bin of a server that is on ``node`` and has slices of this resource name, whatever is known of the node: a
        platform puts servers where it likes, and keeps them on nodes that take no more of them. None for a name that tells
        nothing and that nobody else has."""
        bin = self.named(node, name)
        if bin is not None:
            return bin
        slice = min((slice for slice in self.shelves if slice.name == name), key=preference, default=None)
        slice = slice or parse_resource(name)
        return None if slice is None else self.bin(node, slice)

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

    def update(self, pools: Iterable[Pool], hosts: Iterable[Host] = ()) -> list[Shelf]:
        """Take in the whole picture; the shelves on which something became free.

        A pool that is gone while its node has another of the same name is that one: the slice is of another size than it
        was said to be (a label came late, a smaller one joined), and its servers are still on it.
        """
        self.known = True
        relieved = self._tell({host.node: host for host in hosts})
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
                del bin.rack.bins[bin.shelf.slice]
        for shelf in [shelf for shelf in self.shelves.values() if not shelf.bins and not shelf.wants]:
            del self.shelves[shelf.slice]
        for rack in [rack for rack in self.racks.values() if not rack.bins and rack.host is None]:
            del self.racks[rack.node]
        freed = {bin.shelf.slice: bin.shelf for bin, free in before.items() if bin.free > free}
        freed |= {slice: bin.shelf for rack in relieved for slice, bin in rack.bins.items()}
        return [freed[slice] for slice in sorted(freed)]

    def _tell(self, hosts: Mapping[str, Host]) -> list[Rack]:
        """Take in what the nodes have of CPU and memory; those of which more is left than before."""
        relieved = []
        for node in [*hosts, *(node for node in self.racks if node not in hosts)]:
            rack, host = self.rack(node), hosts.get(node)
            if rack.host == host:
                continue
            left, total = rack.left, rack.total
            rack.tell(host)
            if rack.total != total:
                self.kinds += 1
            if rack.left.cpu > left.cpu or rack.left.mib > left.mib:
                relieved.append(rack)
        return relieved

    def _set(self, bin: Bin, total: int, taken: int) -> None:
        if bin.total != total:
            self.kinds += 1
        if (bin.total, bin.taken) != (total, taken):
            bin.shelf.change(bin, total=total, taken=taken)


def _frontier(racks: Iterable[Rack]) -> list[Rack]:
    """Those that no other beats in both CPU and memory; the one with the most memory first."""
    found: list[Rack] = []
    for rack in sorted(racks, key=lambda rack: (rack.total.mib, rack.total.cpu), reverse=True):
        if not found or rack.total.cpu > found[-1].total.cpu:
            found.append(rack)
    return found
