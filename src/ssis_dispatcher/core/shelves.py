"""The inventory as the fleet keeps it: what exists, what is free, who could go, who waits.

One `Shelf` per slice kind, one `Rack` per node, and where they cross one `Bin` with the node's slices of that kind.
Everything asked of a shelf while a request is being decided is answered from an index (`Ranking`), so that no answer costs
more because the fleet is larger.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ssis_dispatcher.core.racks import Rack
from ssis_dispatcher.core.ranking import Amounts, Key, Ranking
from ssis_dispatcher.core.servers import Server
from ssis_dispatcher.core.sizing import NOTHING, Ask
from ssis_dispatcher.core.slices import PENDING, Host, Pool, Slice, parse_resource, preference

if TYPE_CHECKING:
    from ssis_dispatcher.core.states import Need


_PASSED = 32
"""Nodes that one search passes by because what a launch would take there is kept for one before it. What it could have had
on others it has when that launch ends."""

_COMPARED = 4
"""Groups of idle servers of which the cheapest goes. The first is the one with the cheapest server in it, and unless others
must go as well no group is cheaper."""

_GOING = (-1.0, 0.0)
"""The cost of a server that stops anyhow."""


class Bin:
    """One pool, with the fleet's own servers on it; ``ours`` is what they hold. ``number`` tells it from the others."""

    __slots__ = ("node", "number", "ours", "rack", "servers", "shelf", "taken", "total")

    def __init__(self, shelf: Shelf, rack: Rack, number: int) -> None:
        self.shelf = shelf
        self.rack = rack
        self.number = number
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

    def room(self) -> tuple[Key, Amounts] | None:
        """What is free here, and where it comes in the search for a free slice; None if nothing is."""
        free, left = self.free, self.rack.left
        if free <= 0:
            return None
        return (free, left.mib, self.number), Amounts(free, left.cpu, left.mib)

    def reach(self) -> tuple[Key, Amounts] | None:
        """What would be free here if all went that may go, and the least that costs; None if nothing comes of it. Servers
        that work are no possible victims any more, until they are idle again."""
        free, least = self.free, None
        slices, cpu, mib = free, *self.rack.left
        for bin in self.rack.bins.values() if self.rack.limited else (self,):
            for server in bin.servers.values():
                if not (server.evictable or server.goes_unclaimed):
                    server.indexed = False
                    continue
                cpu += server.ask.cpu
                mib += server.ask.mib
                if bin is self:
                    slices += server.count
                elif free <= 0:
                    continue
                cost = self.shelf.cost(server)
                if least is None or cost < least:
                    least = cost
        if slices <= 0 or least is None:
            return None
        return (*least, self.number), Amounts(slices, cpu, mib)

    def victims(self, count: int, ask: Ask, order: float) -> list[Server]:
        """Whose going gives ``count`` free slices here, and the node what is asked of it: those that go anyhow, then the
        cheapest idle ones, and none that is not needed. For the sake of CPU and memory, servers on the node's other slices
        go too. Empty when all of them are not enough."""
        chosen: list[Server] = []

        def enough(without: Server | None = None) -> bool:
            counted = [server for server in chosen if server is not without]
            free = self.free + sum(server.count for server in counted if server.bin is self)
            return free >= count and self.rack.serves(ask, order, _given_back(counted))

        free = self.free
        for server in self._may_go([self]):
            if free >= count:
                break
            free += server.count
            chosen.append(server)
        if free < count:
            return []
        for server in self._may_go(self.rack.bins.values()) if self.rack.limited and not enough() else ():
            if server not in chosen and server.ask != NOTHING:
                chosen.append(server)
                if enough():
                    break
        if not enough():
            return []
        for server in reversed(chosen[:]):  # a large one, taken last, may have made smaller ones unnecessary
            if len(chosen) > 1 and enough(without=server):
                chosen.remove(server)
        return chosen

    def _may_go(self, bins: Iterable[Bin]) -> list[Server]:
        """All of these that stop for nobody or may be stopped, in the order in which they are to go."""
        found = [s for bin in bins for s in bin.servers.values() if s.evictable or s.goes_unclaimed]
        return sorted(found, key=self.shelf.cost)


def _given_back(servers: Iterable[Server]) -> Ask:
    back = NOTHING
    for server in servers:
        back = back.plus(server.ask)
    return back


class Shelf:
    """All pools of one slice kind.

    ``wants`` are the launches that could use a slice from here, in the order of their turn; ``barring`` those of them that
    have been overtaken as often as may be, so that no later launch passes them here.
    """

    __slots__ = ("_free", "_reach", "_reload_weight", "_room", "barring", "bins", "slice", "wants")

    def __init__(self, slice: Slice, reload_weight: float) -> None:
        self.slice = slice
        self.bins: dict[str, Bin] = {}
        self.wants: OrderedDict[int, Need] = OrderedDict()
        self.barring: dict[int, Need] = {}
        self._free = 0
        self._room = Ranking(Bin.room)
        self._reach = Ranking(Bin.reach)
        self._reload_weight = reload_weight

    # Two indices: what is free, and what would be if all went that may. The second may say too much and cost too little,
    # since a server's work does not change it: whoever comes upon a bin there looks again. Slices that no node has yet are
    # in neither.

    def changed(self, bin: Bin) -> None:
        """A bin, or its node, may have more than before, or servers that may go."""
        if bin.node != PENDING:
            self._room.changed(bin)
            self._reach.changed(bin)

    def drop(self, bin: Bin) -> None:
        """A bin is no more; nothing is in it."""
        del self.bins[bin.node]
        self._room.drop(bin)
        self._reach.drop(bin)

    def change(self, bin: Bin, *, ours: int = 0, total: int | None = None, taken: int | None = None) -> None:
        """Change a bin's numbers and keep the index true."""
        before = bin.free
        bin.ours += ours
        bin.total = bin.total if total is None else total
        bin.taken = bin.taken if taken is None else taken
        self._free += max(0, bin.free) - max(0, before)
        self.changed(bin)

    def put(self, server: Server, bin: Bin) -> None:
        """A server takes its slices, and what it asks of the node, from ``bin``."""
        server.bin = bin
        bin.servers[server.id] = server
        bin.rack.take(server.ask)
        self.change(bin, ours=server.count)

    def take_off(self, server: Server) -> None:
        """A server gives back what it had."""
        del server.bin.servers[server.id]
        server.bin.rack.give_back(server.ask)
        self.change(server.bin, ours=-server.count)

    def find(self, count: int, ask: Ask = NOTHING, order: float = 0, at: Rack | None = None) -> Bin | None:
        """A node with ``count`` free slices and what is asked of it. Of those the one with the fewest slices, so that whole
        GPUs of a node stay together for the models that need several; of those the one with the least memory. For ``at``
        see `choice.choose`."""
        if at is not None:
            bin = self._bin_at(at)
            return bin if bin is not None and bin.free >= count and at.serves(ask, order) else None
        after: Key | None = None
        for _ in range(_PASSED):
            found = self._room.first(count, *ask.least, after)
            if found is None:
                return None
            bin, after, _ = found
            if bin.rack.serves(ask, order):
                return bin
        return None

    def find_pending(self, count: int, ask: Ask = NOTHING, order: float = 0) -> Bin | None:
        """The pool of the slices that no node has yet, where ``count`` more may be waited for."""
        bin = self.bins.get(PENDING)
        return bin if bin is not None and bin.free >= count and bin.rack.serves(ask, order) else None

    def free_bins(self, count: int) -> Iterator[Bin]:
        """Nodes with ``count`` free slices."""
        return (bin for bin in self._room if bin.free >= count)

    def free(self) -> int:
        return self._free

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

    # Servers that may go, by what that would cost. Costs only ever grow (a server used since is idle for less long).

    def cost(self, server: Server) -> tuple[float, float]:
        """Those that stop for nobody, extra servers, the others; and of those, idle time against reload time."""
        if server.goes_unclaimed:
            return _GOING
        return 0.0 if server.extra else 1.0, server.idle_since + self._reload_weight * server.profile.start_seconds

    def victims(self, count: int, ask: Ask, order: float, at: Rack | None = None) -> tuple[Bin | None, list[Server]]:
        """Whose going makes room for ``count`` slices and for ``ask`` on one node, cheapest first, and where; nobody when
        there is no such node. They stay where they are: what is to become of them is the caller's to say. For ``at`` see
        `choice.choose`."""
        found: list[tuple[tuple[float, float], Bin, list[Server]]] = []
        for least, bin in self._candidates(count, ask) if at is None else self._candidate_at(at):
            if found and (least >= min(cost for cost, _, _ in found) or len(found) == _COMPARED):
                break
            if group := bin.victims(count, ask, order):
                found.append((max(map(self.cost, group)), bin, group))
        _, where, group = min(found, key=lambda each: each[0], default=(None, None, []))
        return where, group

    def _candidates(self, count: int, ask: Ask) -> Iterator[tuple[tuple[float, float], Bin]]:
        """Nodes where enough would be free if all went that may, and the least that costs, the cheapest first."""
        after: Key | None = None
        for _ in range(_PASSED):
            while (found := self._reach.first(count, *ask.least, after)) is not None:
                bin, key, _ = found
                if self._reach.look(bin):
                    break
            else:
                return
            yield key[:2], bin
            after = key

    def _candidate_at(self, rack: Rack) -> Iterator[tuple[tuple[float, float], Bin]]:
        bin = self._bin_at(rack)
        return iter(() if bin is None else [(_GOING, bin)])


class Stock:
    """All shelves and racks. ``kinds`` counts up whenever a slice kind, a node's total or all that it has of CPU and memory
    changed, so that fits are worked out anew."""

    def __init__(self, reload_weight: float) -> None:
        self.shelves: dict[Slice, Shelf] = {}
        self.racks: dict[str, Rack] = {}
        self.known = False
        self.kinds = 0
        self._bins = 0
        self._untold: dict[Bin, None] = {}  # of which no node tells; they are there for the servers on them
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
            self._bins += 1
            bin = shelf.bins[node] = rack.bins[slice] = Bin(shelf, rack, self._bins)
            self._untold[bin] = None
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
        server.bin.shelf.take_off(server)
        bin.shelf.put(server, bin)

    def update(
        self, pools: Iterable[Pool], hosts: Iterable[Host] = (), nodes: Iterable[str] | None = None
    ) -> list[Shelf]:
        """Take in what is told of ``nodes`` (None: of all); the shelves on which something became free.

        A pool that is gone while its node has another of the same name is that one: the slice is of another size than it
        was said to be (a label came late, a smaller one joined), and its servers are still on it.
        """
        self.known = True
        told = [*self.racks.values()] if nodes is None else [self.racks[node] for node in nodes if node in self.racks]
        relieved = self._tell({host.node: host for host in hosts}, told)
        before: dict[Bin, int] = {}
        by_name: dict[tuple[str, str], Bin] = {}
        for pool in pools:
            bin = by_name[pool.node, pool.slice.name] = self.bin(pool.node, pool.slice)
            before[bin] = bin.free
            self._untold.pop(bin, None)
            self._set(bin, pool.total, pool.taken)
        self._untold.update(dict.fromkeys(bin for rack in told for bin in rack.bins.values() if bin not in before))
        racks = dict.fromkeys([*told, *(bin.rack for bin in self._untold)])
        for bin in [*self._untold]:
            self._set(bin, 0, 0)
            heir = by_name.get((bin.node, bin.shelf.slice.name))
            if heir is not None:
                for server in list(bin.servers.values()):
                    self.move(server, heir)
            if not bin.servers:
                bin.shelf.drop(bin)
                del bin.rack.bins[bin.shelf.slice], self._untold[bin]
        for shelf in [shelf for shelf in self.shelves.values() if not shelf.bins and not shelf.wants]:
            del self.shelves[shelf.slice]
        for rack in racks:
            if not rack.bins and rack.host is None:
                del self.racks[rack.node]
        freed = {bin.shelf.slice: bin.shelf for bin, free in before.items() if bin.free > free}
        freed |= {slice: bin.shelf for rack in relieved for slice, bin in rack.bins.items()}
        return [freed[slice] for slice in sorted(freed)]

    def _tell(self, hosts: Mapping[str, Host], told: Iterable[Rack]) -> list[Rack]:
        """Take in what the nodes have of CPU and memory; those of which more is left than before."""
        relieved = []
        for node in [*hosts, *(rack.node for rack in told if rack.node not in hosts)]:
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
