"""What one event costs the fleet, against the fleet's size. Run: ``python bench/core.py`` (one core, about half a minute).

Prints medians over rounds: a warm request's whole passage through the book (arrived → seated → gone), a cold arrival that
joins a line, a seat given to whoever waits, news of one node, a launch, a failure that climbs to a larger slice, and an
eviction. All of it twice: on nodes of which nothing but their slices is told, and on nodes whose CPU and memory are counted
too. Last come two searches in vain: every node has slices free, and half of them lack the memory and half the CPU for one
server more. In the first all servers work, in the second all are idle, and what they hold is not enough.
"""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable
from time import perf_counter

import msgspec

from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core.messages import (
    Failure,
    FailureKind,
    InventoryChanged,
    Launch,
    Model,
    ModelDescribed,
    RequestArrived,
    RequestGone,
    ServerFailed,
    ServerReady,
    ServerStopped,
    Stop,
)
from ssis_dispatcher.core.policy import Policy
from ssis_dispatcher.core.sizing import ModelFacts, Profile
from ssis_dispatcher.core.slices import Host, Pool, Slice, SliceKind

SMALL = Slice(10_240, 1 / 7, "nvidia.com/mig-1g.10gb", SliceKind.MIG)
LARGE = Slice(20_480, 2 / 7, "nvidia.com/mig-2g.20gb", SliceKind.MIG)
PROFILE = Profile(
    ModelFacts("catalogue", 2 * 2**30, 32_768, 8_192),
    context=4_096,
    engine_seats=64,
    host_cpu_millis=2_000,
    host_mib=4_096,
)


class Book:
    """A fleet of ``servers`` ready servers, one model each, and ``waiting`` requests in lines behind full ones. ``counted``:
    CPU and memory of the nodes are told, and are enough."""

    def __init__(self, servers: int, waiting: int, counted: bool) -> None:
        policy = Policy(
            waiting_per_model=10**6,
            waiting_total=10**7,
            waiting_bytes=2**50,
            waiting_bytes_per_model=2**50,
            launches_per_minute=10**9,
            slices_per_caller=10**9,
            dwell=0.0,
        )
        self.fleet = Fleet(policy)
        self.now = 0.0
        self.requests = 0
        self.nodes = [f"node-{node}" for node in range(max(1, servers // 7 + 8))]
        self.tell_inventory(counted)
        self.models = [Model.of(f"org/model-{number}", engine="vllm") for number in range(servers)]
        for model in self.models:
            self.start(model)
        crowded = self.models[: max(1, servers // 10)]
        for model in crowded:
            for _ in range(64):
                self.arrive(model)
        for number in range(waiting):
            self.arrive(crowded[number % len(crowded)], f"caller-{number % 50}")

    def tell_inventory(self, counted: bool, short: bool = False) -> None:
        """Nine slices on every node, and where CPU and memory are counted, plenty of them. ``short``: of one of them what
        our servers use, and not enough for one more."""
        pools = tuple(Pool(node, slice, total) for node in self.nodes for slice, total in ((SMALL, 7), (LARGE, 2)))
        hosts = tuple(Host(node, 10**6, 10**7, 10**6, 10**7) for node in self.nodes) if counted else ()
        if short:
            used = {
                v.node: (10**6 - v.cpu_millis_left, 10**7 - v.memory_mib_left) for v in self.fleet.statistics(0).hosts
            }
            hosts = tuple(
                Host(node, used[node][0] + 1_999, 10**7, 10**6, 10**7)
                if number % 2
                else Host(node, 10**6, used[node][1] + 4_095, 10**6, 10**7)
                for number, node in enumerate(self.nodes)
            )
        self.pools, self.hosts = pools, hosts
        self.fleet.handle(InventoryChanged("bench", pools, hosts), self.now)

    def arrive(self, model: Model, caller: str = "caller") -> int:
        self.requests += 1
        self.commands = self.fleet.handle(RequestArrived("bench", self.requests, model, caller, 400), self.now)
        return self.requests

    def start(self, model: Model) -> str:
        request = self.arrive(model)
        for command in self.fleet.handle(ModelDescribed("bench", model, PROFILE), self.now):
            if isinstance(command, Launch):
                self.fleet.handle(ServerReady("bench", command.server, "127.0.0.1:1"), self.now)
                self.fleet.handle(RequestGone("bench", request), self.now)
                return command.server
        raise AssertionError("not launched")


def measure(step: Callable[[], None], rounds: int = 7, repeats: int = 2_000) -> float:
    """Median over ``rounds`` of the mean microseconds of one ``step``."""
    figures = []
    for _ in range(rounds):
        begun = perf_counter()
        for _ in range(repeats):
            step()
        figures.append((perf_counter() - begun) / repeats * 1e6)
    return statistics.median(figures)


def warm(book: Book) -> float:
    model, handle = book.models[-1], book.fleet.handle
    number = 10**9

    def step() -> None:
        handle(RequestArrived("bench", number, model, "caller", 400), 1.0)
        handle(RequestGone("bench", number), 1.0)

    return measure(step, repeats=50_000)


def join_and_leave(book: Book) -> float:
    def step() -> None:
        request = book.arrive(book.models[0], "newcomer")
        book.fleet.handle(RequestGone("bench", request), book.now)

    return measure(step)


def seat_from_line(book: Book) -> float:
    """One seat given back at a full server, one waiting request seated, one new one joins the line."""
    model, fleet = book.models[0], book.fleet
    seated = [number for number, server in fleet.book.seated.items() if server.model.model == model]

    def step() -> None:
        fleet.handle(RequestGone("bench", seated.pop()), book.now)
        seated.append(next(reversed(fleet.book.seated)))
        book.arrive(model)

    return measure(step)


def node_changes(book: Book) -> float:
    """Others take a slice of one node, or give it back."""
    (first, *_), count = book.fleet.statistics(book.now).slices, 0
    pools = [pool for pool in book.pools if pool.node == first.node]
    hosts = tuple(host for host in book.hosts if host.node == first.node)

    def step() -> None:
        nonlocal count
        count += 1
        told = (msgspec.structs.replace(pools[0], taken=count % 2), *pools[1:])
        book.fleet.handle(InventoryChanged("bench", told, hosts, (first.node,)), book.now)

    figure = measure(step)
    book.fleet.handle(InventoryChanged("bench", tuple(pools), hosts, (first.node,)), book.now)
    return figure


def launch_and_fail(book: Book) -> float:
    """A cold model launched, out of memory once, launched larger, then lost: the dearest path, per four events."""
    fleet, count = book.fleet, 0

    def step() -> None:
        nonlocal count
        count += 1
        model = Model.of(f"cold/{count}", engine="vllm")
        request = book.arrive(model)
        (launch,) = (c for c in fleet.handle(ModelDescribed("b", model, PROFILE), book.now) if isinstance(c, Launch))
        failure = Failure(FailureKind.OUT_OF_MEMORY, "too small")
        (again,) = (
            c for c in fleet.handle(ServerFailed("b", launch.server, failure), book.now) if isinstance(c, Launch)
        )
        fleet.handle(RequestGone("b", request), book.now)
        fleet.handle(ServerFailed("b", again.server, Failure(FailureKind.LOST, "gone")), book.now)

    return measure(step, repeats=300) / 5


def evict(book: Book) -> float:
    """Every slice taken, a cold model arrives: an idle server is stopped for it, and it is launched there."""
    fleet, count = book.fleet, 0
    while (bins := [shelf.find(1) for shelf in fleet.book.stock.shelves.values()]) and any(bins):
        count += 1
        book.start(Model.of(f"fill/{count}", engine="vllm"))
    book.now = 100.0

    def step() -> None:
        nonlocal count
        count += 1
        model = Model.of(f"evict/{count}", engine="vllm")
        request = book.arrive(model)
        (stop,) = (c for c in fleet.handle(ModelDescribed("b", model, PROFILE), book.now) if isinstance(c, Stop))
        commands = fleet.handle(ServerStopped("b", stop.server), book.now)
        (launch,) = (c for c in commands if isinstance(c, Launch))
        fleet.handle(ServerReady("b", launch.server, "127.0.0.1:1"), book.now)
        fleet.handle(RequestGone("b", request), book.now)

    return measure(step, repeats=100) / 5


def in_vain(book: Book, profile: Profile) -> float:
    """Slices are free on every node, CPU or memory on none: a cold model arrives, waits, and leaves. Per event."""
    book.tell_inventory(counted=True, short=True)
    fleet, count = book.fleet, 0

    def step() -> None:
        nonlocal count
        count += 1
        model = Model.of(f"short/{count}", engine="vllm")
        request = book.arrive(model)
        commands = fleet.handle(ModelDescribed("b", model, profile), book.now)
        assert not any(isinstance(command, Launch | Stop) for command in commands)
        fleet.handle(RequestGone("b", request), book.now)

    figure = measure(step, repeats=100) / 3
    book.tell_inventory(counted=True)
    return figure


def all_busy(book: Book) -> float:
    busy = [book.arrive(model) for model in book.models]
    figure = in_vain(book, PROFILE)
    for request in busy:
        book.fleet.handle(RequestGone("b", request), book.now)
    return figure


def all_idle(book: Book) -> float:
    return in_vain(book, msgspec.structs.replace(PROFILE, host_cpu_millis=10**5, host_mib=10**6))


def main() -> int:
    gc.disable()
    columns = (
        "servers",
        "waiting",
        "warm passage",
        "join+leave",
        "gone+seat+join",
        "news of a node",
        "launch/fail",
        "evict",
    )
    print("microseconds per step; from launch/fail on, per event")
    for counted in (False, True):
        print(f"\nCPU and memory of the nodes: {'counted' if counted else 'not told'}")
        print(
            "".join(f"{column:>16}" for column in columns) + ("   short, all busy   short, all idle" if counted else "")
        )
        for servers, waiting in ((10, 100), (100, 1_000), (1_000, 10_000), (5_000, 50_000)):
            book = Book(servers, waiting, counted)
            steps = [warm, join_and_leave, seat_from_line, node_changes, launch_and_fail]
            figures = [step(book) for step in steps]
            last = [all_busy(book), all_idle(book)] if counted else []
            figures += [evict(book), *last]
            print(f"{servers:>16}{waiting:>16}" + "".join(f"{figure:>16.2f}" for figure in figures))
            gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
