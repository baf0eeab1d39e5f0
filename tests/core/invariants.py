"""What is true of the book after every event, whatever happened: checked by every story and by the state machine.

Everything is counted anew from the servers, lines and launches, and compared with the indexes that the fleet keeps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf

from ssis_dispatcher.core.book import Book
from ssis_dispatcher.core.callers import Caller
from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core.messages import AnyCommand, InventoryChanged, Launch
from ssis_dispatcher.core.racks import Rack
from ssis_dispatcher.core.servers import Server, State
from ssis_dispatcher.core.shelves import Bin, Shelf
from ssis_dispatcher.core.sizing import Ask, Fit
from ssis_dispatcher.core.slices import PENDING
from ssis_dispatcher.core.states import ModelState, Need


def check_invariants(fleet: Fleet) -> None:
    """Raise AssertionError where the book does not agree with itself."""
    book = fleet.book
    assert not book.out, "commands were left behind"
    assert fleet._woken_at == book.timers.earliest(), "the next wake-up is not the earliest timer"
    for shelf in book.stock.shelves.values():
        _check_shelf(shelf, book)
    for rack in book.stock.racks.values():
        _check_rack(rack, book)
    for server in book.servers.values():
        _check_server(server, book)
    for state in book.models.values():
        _check_model(state, book)
    _check_lines(book)
    _check_callers(book)


def check_launches(fleet: Fleet, commands: Iterable[AnyCommand]) -> None:
    """No launch that was just ordered counts on slices which are not there, nor on CPU or memory."""
    for command in commands:
        if isinstance(command, Launch):
            bin = fleet.book.servers[command.server].bin
            assert bin.free >= 0, f"{command.server} was launched on {bin.node} where {bin.free} are free"
            ask, left = command.profile.ask, _left(bin.rack, fleet.book)
            assert not ask.cpu or left.cpu >= 0, f"{command.server} was launched on {bin.node}: {left} are left"
            assert not ask.mib or left.mib >= 0, f"{command.server} was launched on {bin.node}: {left} are left"
            assert command.count <= command.pool.total - command.pool.taken
            assert bin.node == command.pool.node
            assert bin.shelf.slice == command.pool.slice
            assert command.seats >= 1


def check_inventory(fleet: Fleet, told: InventoryChanged) -> None:
    """The book has what was told of all nodes, and nothing else but where servers of ours are left."""
    stock = fleet.book.stock
    pools = {(pool.node, pool.slice): (pool.total, pool.taken) for pool in told.pools}
    bins = {
        (bin.node, slice): (bin.total, bin.taken)
        for slice, shelf in stock.shelves.items()
        for bin in shelf.bins.values()
        if bin.total or bin.taken or not bin.servers
    }
    assert bins == pools
    assert {rack.host for rack in stock.racks.values() if rack.host is not None} == set(told.hosts)


def _check_shelf(shelf: Shelf, book: Book) -> None:
    for node, bin in shelf.bins.items():
        assert bin.node == node
        assert bin.shelf is shelf
        assert book.stock.racks[node].bins[shelf.slice] is bin
        here = [server for server in book.servers.values() if server.bin is bin]
        assert bin.servers == {server.id: server for server in here}, f"{node} counts other servers than it has"
        assert bin.ours == sum(server.count for server in here), f"{node} counts other slices than its servers hold"
    assert shelf.free() == sum(max(0, bin.free) for bin in shelf.bins.values())
    _check_indices(shelf)
    wants = [s.need for s in book.models.values() if s.need and shelf in [each for _, each in s.need.places]]
    assert list(shelf.wants.values()) == sorted(wants, key=lambda need: need.order), "the launches that wait are wrong"
    assert list(shelf.wants) == [need.order for need in shelf.wants.values()]
    barring = {need.order for need in wants if need.overtaken >= book.policy.overtakes}
    assert set(shelf.barring) == barring, "those that bar others are wrong"


def _check_indices(shelf: Shelf) -> None:
    """What has not changed is where it belongs: free slices exactly, and servers that may go not behind their cost."""
    for index in (shelf._room, shelf._reach):
        assert {*index._entries, *index._changed} <= {*shelf.bins.values()}, "a bin is kept that is no more"
    for bin in shelf.bins.values():
        if bin.node == PENDING:
            assert bin not in {*shelf._room._entries, *shelf._reach._entries}
            continue
        room, reach = shelf._room._entries.get(bin), shelf._reach._entries.get(bin)
        assert bin in shelf._room._changed or (room and room[:2]) == bin.room(), (
            f"{bin.node}: the free slices are wrong"
        )
        going = [server for server in bin.servers.values() if server.evictable or server.goes_unclaimed]
        most = bin.free + sum(server.count for server in going)
        if going and most > 0 and bin not in shelf._reach._changed:
            assert reach is not None, f"nobody will look for victims on {bin.node}"
            assert reach[0][:2] <= min(map(shelf.cost, going)), f"{bin.node} comes up too late"
            assert reach[1].slices >= most


def _check_rack(rack: Rack, book: Book) -> None:
    assert all(
        bin.node == rack.node and book.stock.shelves[slice].bins[rack.node] is bin for slice, bin in rack.bins.items()
    )
    assert rack.left == _left(rack, book), f"{rack.node} has {_left(rack, book)} left, not {rack.left}"
    assert rack.limited == (rack.host is not None)
    assert rack.bins or rack.host, f"{rack.node} is kept for nothing"


def _left(rack: Rack, book: Book) -> Ask:
    """What our servers leave of a node, counted anew."""
    here = [server.profile for server in book.servers.values() if server.bin.node == rack.node]
    cpu = sum(profile.host_cpu_millis for profile in here)
    mib = sum(profile.host_mib for profile in here)
    return Ask(rack.host.cpu_millis - cpu, rack.host.memory_mib - mib) if rack.host else Ask(inf, inf)


def _servers(shelf: Shelf) -> list[Server]:
    return [server for bin in shelf.bins.values() for server in bin.servers.values()]


def _check_server(server: Server, book: Book) -> None:
    state, bin = server.model, server.bin
    assert server.state is not State.GONE
    assert state.servers[server.id] is server
    assert book.models[state.model.key] is state
    assert book.stock.shelves[bin.shelf.slice].bins[bin.node] is bin, f"{server} is nowhere"
    assert server.ask == server.profile.ask
    assert server.busy == sum(seated is server for seated in book.seated.values()), f"{server} miscounts its seats"
    assert 0 <= server.busy <= server.seats
    assert not server.busy or server.state is State.READY, f"{server} stops while it works"
    assert (server in state.ready) == (server.state is State.READY and not server.leaving)
    if server.claim is not None:
        assert server.state is State.STOPPING, f"{server} is claimed but stays"
        assert server.claim.claims[server.id] is server
        assert server.claim.model.need is server.claim, f"{server} is claimed by a launch that is no more"
    if server.state is State.READY and not server.busy and not state.pinned:
        assert server.keep_armed, f"{server} will be idle for ever"
        assert server.indexed or _pending(book, server.evictable_at), f"{server} will never be a victim"
    if server.state is State.STARTING:
        assert _pending(book, server.start_deadline), f"{server} may start for ever"


def _pending(book: Book, when: float) -> bool:
    """Whether something will be looked at by ``when``: no timer can be told from another, but the next is early enough."""
    earliest = book.timers.earliest()
    return earliest is not None and earliest <= when


def _check_model(state: ModelState, book: Book) -> None:
    kept = state.line or state.servers or state.describing or state.pinned
    assert kept or _pending(book, state.remembered_until), f"{state.model.id} is kept for nothing"
    assert all(book.servers.get(id) is server for id, server in state.servers.items())
    if state.need is not None:
        assert state.line, f"a launch waits for {state.model.id} and no request does"
        assert not state.ready, "a launch waits though a server is ready"
        assert state.starting() is None, "a launch waits though a server is starting"
        _check_need(state.need, book)
    if state.line:
        _check_wake_up(state, book)


def _check_need(need: Need, book: Book) -> None:
    state = need.model
    assert need.overtaken <= book.policy.overtakes, f"{state.model.id} was overtaken {need.overtaken} times"
    assert all(server.claim is need and book.servers[id] is server for id, server in need.claims.items())
    if state.profile is None:
        assert state.describing, f"nobody finds out about {state.model.id}"
        assert not need.places
        return
    assert need.order > 0
    if not book.stock.known:
        return
    assert need.places, f"{state.model.id} can go nowhere and is not told"
    if book.tied:
        return
    for fit, shelf in need.places:
        barred = any(other.overtaken >= book.policy.overtakes for o, other in shelf.wants.items() if o < need.order)
        for bin in shelf.bins.values() if not barred else ():
            free = bin.free >= fit.count and _served(need, bin.rack, book)
            assert not free, f"{state.model.id} waits though {fit.slice.name} is free on {bin.node}"
            if not need.claims and bin.node != PENDING:
                assert not _room(need, bin, fit, book), (
                    f"{state.model.id} waits though servers on {bin.node} could go for it"
                )


def _served(need: Need, rack: Rack, book: Book, going: Iterable[Server] = ()) -> bool:
    """Whether the node has the CPU and memory, once these are gone, and launches that nobody may pass keep theirs."""
    back, left = list(going), _left(rack, book)
    left = Ask(left.cpu + sum(s.ask.cpu for s in back), left.mib + sum(s.ask.mib for s in back))
    older = [
        state.need
        for state in book.models.values()
        if state.need and state.need.order and state.need.order < need.order
        if state.need.overtaken >= book.policy.overtakes
        if any(rack.node in shelf.bins for _, shelf in state.need.places)
    ]
    asks = [need.ask, *(other.ask for other in older if rack.could(other.ask))]
    return not any(need.ask) or (
        need.ask.within(left) and all(other.within(left.minus(need.ask)) for other in asks[1:])
    )


def _room(need: Need, bin: Bin, fit: Fit, book: Book) -> bool:
    """Whether the servers of this node that may go would make room: those of this bin for their slices, all of them for CPU
    and memory. Where a node has shrunk below what is used, several must stop for one slice: those that stop anyhow are
    counted on when enough of them have."""
    may_go = [s for s in book.servers.values() if s.bin.node == bin.node and (s.evictable or _stops_for_nobody(s))]
    here = [s for s in may_go if s.bin is bin]
    if bin.free >= fit.count:
        return _served(need, bin.rack, book, may_go)
    if fit.count > 1 or any(s.evictable for s in here):
        return bin.free + sum(s.count for s in here) >= fit.count and _served(need, bin.rack, book, may_go)
    return any(bin.free + s.count > 0 and _served(need, bin.rack, book, [s]) for s in here)


def _stops_for_nobody(server: Server) -> bool:
    return server.state is State.STOPPING and server.claim is None


def _check_wake_up(state: ModelState, book: Book) -> None:
    """Whoever waits here will be looked at again, and not later than their time is up."""
    oldest = state.line.oldest()
    assert oldest is not None
    assert not book.draining, "somebody still waits in a drain"
    assert state.has_hope(), f"{state.model.id}: nothing will ever come of this line"
    for server in state.ready:
        assert server.busy == server.seats, f"{server} has room and {state.model.id} has a line"
    if state.ready:
        assert state.scale_armed, "nobody looks whether this line needs another server"
    if state.phase() == "starting":
        return  # `_check_server` has seen to its deadline
    deadline = max(oldest.arrived, state.clock) + book.policy.slice_wait
    assert state.line_armed, f"{state.model.id}: nobody looks how long this line waits"
    assert _pending(book, deadline), f"{state.model.id}: the line is looked at too late"


def _check_lines(book: Book) -> None:
    waiting = {}
    for state in book.models.values():
        line = state.line
        tickets = list(line.waiting.values())
        waiting.update({ticket.request: state for ticket in tickets})
        assert line.size == sum(ticket.size for ticket in tickets)
        assert sorted(line.waiting) == sorted(r for own in line._by_caller.values() for r in own)
        assert all(ticket.caller is caller for caller, own in line._by_caller.items() for ticket in own.values())
        assert all(line._by_caller.values()), "a caller without a request is in the line"
    assert book.waiting == waiting
    assert book.waiting_bytes == sum(state.line.size for state in book.models.values())
    assert not waiting.keys() & book.seated.keys()


def _check_callers(book: Book) -> None:
    held: Counter[Caller] = Counter()
    wanted: Counter[Caller] = Counter()
    ties: Counter[Caller] = Counter()
    for server in book.servers.values():
        ties[server.owner] += 1
        if server.ready_at is None or server.busy:
            held[server.owner] += server.count
    for state in book.models.values():
        ties.update(ticket.caller for ticket in state.line.waiting.values())
        if state.need is not None:
            wanted[state.need.caller] += 1
            ties[state.need.caller] += 1
    for caller in set(book.callers.values()) | set(ties):
        assert book.callers.get(caller.name) is caller, f"{caller.name} has two accounts"
        counted = (caller.held, caller.wanted, caller.ties)
        assert counted == (held[caller], wanted[caller], ties[caller]), f"{caller.name}'s account is wrong: {counted}"
