"""The cluster's rows of the scorecard in real time: ``python -m bench.cluster.scorecard`` (about a quarter of an hour).

Dispatchers are processes, which are killed, stopped and woken up; the cluster is the tests' fake one, in this process. The
same rows, fault by fault and in virtual time, are tests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from bench.cluster.dispatcher import NAMESPACE, Dispatcher
from bench.edge import rows, workshop
from bench.edge.rows import row
from bench.edge.table import Row
from tests.kube.fake import FakeCluster
from tests.kube.kinds import CONFIGMAPS, SERVICES
from tests.scorecard.cluster.support import leftovers, most_within, servers_per_model, slices_of

SMALL = "nvidia.com/mig-1g.5gb"
LARGE = "nvidia.com/mig-2g.10gb"
CATALOGUE = "models:\n" + "".join(
    f"  m{number}: {{id: org/m{number}, weights: 1GiB, context: 1024, seats: 64}}\n" for number in range(50)
)
QUIET, GRACE = 5.0, 30.0

T = TypeVar("T")


class Site:
    """A cluster, and the dispatchers on it."""

    def __init__(self, cluster: FakeCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.replicas: list[Dispatcher] = []

    async def dispatcher(self, *options: str) -> Dispatcher:
        """One more, that is ready."""
        more = ("--launches-per-minute", "1000", *options)
        one = await Dispatcher.start(self.cluster, self.folder, *more)
        self.replicas.append(one)
        await self.until(lambda: one.says("/readyz"), 30, "a new replica is ready")
        return one

    async def until(self, fact: Callable[[], Awaitable[bool]], within: float, what: str) -> float:
        """Seconds until ``fact`` is true. Raises `RuntimeError`."""
        began = time.monotonic()
        while time.monotonic() - began < within:
            if await fact():
                return time.monotonic() - began
            await asyncio.sleep(0.05)
        raise RuntimeError(f"not within {within:g} s: {what}")

    async def is_true(self, one: Dispatcher) -> bool:
        """Whether a dispatcher's book has the servers and slices that the cluster has."""
        servers = {server["id"] for server in (await one.ask("/api/servers"))["servers"]}
        slices: Counter[str] = Counter()
        for found in (await one.ask("/api/slices"))["slices"]:
            slices[found["name"]] += found["total"]
        return servers == self.services() and slices == slices_of(self.cluster)

    def services(self) -> set[str]:
        return {service["metadata"]["name"] for service in self.cluster.all(SERVICES, NAMESPACE)}

    def most_per_model(self) -> int:
        return max(servers_per_model(self.cluster).values(), default=0)

    def created(self) -> int:
        return sum(call.rule[1:] == ("services", "create") for call in self.cluster.log)


@contextlib.asynccontextmanager
async def site(**nodes: dict[str, int]) -> AsyncIterator[Site]:
    with tempfile.TemporaryDirectory() as folder:
        async with FakeCluster(namespaces=(NAMESPACE,)) as cluster:
            for name, slices in (nodes or {"a": {SMALL: 7, LARGE: 2}}).items():
                cluster.nodes.add(name, slices)
            cluster.create(
                CONFIGMAPS, {"metadata": {"name": "dispatcher-config"}, "data": {"catalogue": CATALOGUE}}, NAMESPACE
            )
            found = Site(cluster, Path(folder))
            try:
                yield found
            finally:
                for replica in found.replicas:
                    await replica.end(signal.SIGKILL)


class Prober:
    """Asks the replicas that balancers would choose, one after the other."""

    def __init__(self, replicas: list[Dispatcher], every: float) -> None:
        self.replicas = replicas
        self.every = every
        self.asked = 0
        self.failed: list[str] = []

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """While it is, it asks; in the end all that was asked has been answered."""
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self._run(group))
            yield
            asking.cancel()

    async def _run(self, group: asyncio.TaskGroup) -> None:
        while True:
            for replica in list(self.replicas):
                group.create_task(self._ask(replica))
                await asyncio.sleep(self.every)

    async def _ask(self, replica: Dispatcher) -> None:
        self.asked += 1
        try:
            reply = await replica.chat("m0")
        except httpx2.TransportError as error:
            self.failed.append(repr(error))
        else:
            if reply.status_code != 200:
                self.failed.append(reply.text)


def begin(doing: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(doing)


async def answered(one: Dispatcher, model: str) -> None:
    """Ask for ``model`` until it answers, as a client that means it."""
    while (await one.chat(model)).status_code != 200:  # noqa: ASYNC110 - there is nothing to wait for but time
        await asyncio.sleep(2.0)


async def limited(options: argparse.Namespace) -> list[Row]:
    """K3: half of all calls are refused with 429 while twenty models are asked for."""
    async with site(a={SMALL: 20}) as s:
        one = await s.dispatcher()
        asked = [begin(answered(one, f"m{number}")) for number in range(20)]
        with s.cluster.faults.add("limited", rate=0.5, retry_after=1) as fault:
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(options.seconds)
            calls = [call.at for call in s.cluster.log if call.at > began + 2.0]
        await asyncio.wait_for(asyncio.gather(*asked), 60)
        return [
            row("K3", f"{fault.hits} calls limited: most calls in a second", most_within(1.0, calls), "≤", 5),
            row("K3", "models that did not answer", 20 - len(asked), "≤", 0),
        ]


async def failing(options: argparse.Namespace) -> list[Row]:
    """K4: three calls of ten fail, done or not done."""
    kinds = ("error", "timeout", "unavailable", "reset", "done-timeout", "done-reset")
    async with site(a={SMALL: 7}) as s:
        one = await s.dispatcher("--dwell", "0", "--keep-alive", "20")
        rules = [s.cluster.faults.add(kind, rate=0.3 / len(kinds)) for kind in kinds]
        asked = [begin(answered(one, f"m{number}")) for number in range(20)]
        doubled, until = 0, time.monotonic() + options.seconds
        while time.monotonic() < until:
            doubled = max(doubled, s.most_per_model() - 1)
            await asyncio.sleep(0.5)
        for rule in rules:
            rule.remove()
        await asyncio.wait_for(asyncio.gather(*asked), 240)

        async def nothing_left() -> bool:
            return not leftovers(s.cluster)

        await s.until(nothing_left, 120, "nothing is left")
        hits = sum(rule.hits for rule in rules)
        return [
            row("K4", f"{hits} calls failed: servers too many of a model", doubled, "≤", 0),
            row("K4", "objects left when all servers have gone", len(leftovers(s.cluster)), "≤", 0),
        ]


async def deaf(options: argparse.Namespace) -> list[Row]:
    """K6: watches say nothing, and stay open."""
    async with site() as s:
        one = await s.dispatcher()
        await answered(one, "m0")
        s.cluster.faults.watches.deaf = True
        await asyncio.sleep(1.0)
        s.cluster.nodes.add("b", {SMALL: 1})
        await asyncio.sleep(1.0)
        if await s.is_true(one):
            raise RuntimeError("the watches were not deaf")
        s.cluster.faults.watches.deaf = False  # those that are open have lost what was said
        seconds = await s.until(lambda: s.is_true(one), 120, "what watches did not say is known")
        return [row("K6", "until known what a deaf watch did not tell, s", seconds, "≤", 60)]


async def garbled(options: argparse.Namespace) -> list[Row]:
    """K7: watches break every five seconds, and tell things twice, late and in the wrong order."""
    chance = random.Random(7)
    async with site() as s:
        one = await s.dispatcher("--keep-alive", "3600")
        await answered(one, "m0")
        watches, until = s.cluster.faults.watches, time.monotonic() + options.seconds
        watches.cut_every, watches.duplicate, watches.stale, watches.reorder = 5.0, 0.3, 0.3, 0.3
        while time.monotonic() < until:
            s.cluster.nodes.resize("a", {SMALL: 2 + chance.randrange(5)})
            await answered(one, "m0")
            await asyncio.sleep(2.0)
        seconds = await s.until(lambda: s.is_true(one), 60, "the book is what the cluster is")
        return [
            row("K7", "until the book is what the cluster is, s", seconds, "≤", 10),
            row("K7", "servers started for it", s.created() - 1, "≤", 0),
        ]


async def away(options: argparse.Namespace) -> list[Row]:
    """The API server is away for half a minute."""
    async with site() as s:
        one = await s.dispatcher()
        await answered(one, "m0")
        prober = Prober([one], 0.05)
        async with prober.at_work():
            async with s.cluster.outage():
                await asyncio.sleep(30.0)
                s.cluster.nodes.add("b", {SMALL: 1})
            seconds = await s.until(lambda: s.is_true(one), 60, "the book is what the cluster is")
        return [
            row("K", f"API server away 30 s, ready model: failed of {prober.asked}", len(prober.failed), "≤", 0),
            row("K", "API server back: until the book is true, s", seconds, "≤", 10),
        ]


async def paused(options: argparse.Namespace) -> list[Row]:
    """K8: the leader is stopped, another leads, and the first one wakes up."""
    async with site() as s:
        one, two = await s.dispatcher(), await s.dispatcher()
        await answered(one, "m0")
        one.process.send_signal(signal.SIGSTOP)
        asked = begin(answered(two, "m1"))
        began = time.monotonic()
        await asked
        seconds = time.monotonic() - began
        one.process.send_signal(signal.SIGCONT)
        await asyncio.gather(*(answered(replica, model) for replica in (one, two) for model in ("m0", "m1", "m2")))
        return [
            row("K8", "leader stopped: another leads and has started a model, s", seconds, "≤", 20),
            row("K8", "awake again: servers too many of a model", s.most_per_model() - 1, "≤", 0),
        ]


async def killed(options: argparse.Namespace) -> list[Row]:
    """The leader is killed while requests are held by it and by the other."""
    async with site() as s:
        s.cluster.behave("*org/m1*", ready_after=20.0)
        one, two = await s.dispatcher(), await s.dispatcher()
        await answered(one, "m0")
        held = [begin(two.chat("m1")) for _ in range(100)]
        await one.until(lambda found: found["waiting"] == len(held), "/api/queue")
        began = time.monotonic()
        await one.end(signal.SIGKILL)
        await answered(two, "m0")
        seconds = time.monotonic() - began
        lost = sum(reply.status_code != 200 for reply in await asyncio.gather(*held))
        return [
            row("K8", "leader killed: the other answers after, s", seconds, "≤", 12),
            row("K8", f"of {len(held)} that the other had handed to it, lost", lost, "≤", 0),
            row("K8", "servers started anew", s.created() - 2, "≤", 0),
        ]


async def sigterm(options: argparse.Namespace) -> list[Row]:
    """D8: SIGTERM with a thousand held and others running."""
    async with site() as s:
        s.cluster.behave("*org/m1*", ready_after=15.0)
        drain = ("--drain-quiet", str(QUIET), "--drain-grace", str(GRACE))
        one, two = await s.dispatcher(*drain), await s.dispatcher(*drain)
        await answered(one, "m0")
        held = [begin(one.chat("m1")) for _ in range(options.held)]
        await one.until(lambda found: found["waiting"] == len(held), "/api/queue")
        prober = Prober([one], 0.01)
        async with prober.at_work():
            await asyncio.sleep(2.0)
            one.process.send_signal(signal.SIGTERM)
            began = time.monotonic()

            async def unready() -> bool:
                return not await one.says("/readyz")

            told = await s.until(unready, 5, "it says that it is not ready")
            prober.replicas[:] = [two]
        replies = await asyncio.gather(*held)
        await one.process.wait()
        seconds = time.monotonic() - began
        lost = sum(reply.status_code != 200 for reply in replies)
        return [
            row("D8", "SIGTERM: not ready after, s", told, "≤", 1),
            row("D8", f"of {len(held)} held, lost", lost, "≤", 0),
            row("D8", f"of {prober.asked} that came in all the time, lost", len(prober.failed), "≤", 0),
            row("D8", f"gone after, s (quiet {QUIET:g} s, grace {GRACE:g} s)", seconds, "≤", QUIET + GRACE),
            row("D8", "servers started anew", s.created() - 2, "≤", 0),
        ]


async def duck(options: argparse.Namespace) -> list[Row]:
    """D9: of two replicas the leader goes every 20 to 40 s, and another comes."""
    found: list[Row] = []
    for how, number, least in (("leave in order", signal.SIGTERM, 1.0), ("are killed", signal.SIGKILL, 0.99)):
        chance = random.Random(9)
        async with site() as s:
            drain = ("--drain-quiet", "2", "--drain-grace", "20", "--keep-alive", "3600")
            replicas = [await s.dispatcher(*drain), await s.dispatcher(*drain)]
            await answered(replicas[0], "m0")
            prober, gone = Prober(list(replicas), 0.2), 0
            async with prober.at_work():
                until = time.monotonic() + options.minutes * 60
                while time.monotonic() < until:
                    await asyncio.sleep(chance.uniform(20, 40))
                    new = await s.dispatcher(*drain)
                    old = prober.replicas[0]
                    prober.replicas[:] = [*prober.replicas[1:], new]
                    await old.end(number)
                    gone += 1
            share = 1 - len(prober.failed) / prober.asked
            found += [
                row("D9", f"{gone} replicas {how}: answered of {prober.asked}", share, "≥", least),
                row("D9", "servers started anew", s.created() - 1, "≤", 0),
            ]
    return found


async def shortage(options: argparse.Namespace) -> list[Row]:
    """U6: fifty models at once, on seven slices."""
    async with site(a={SMALL: 7}) as s:
        one = await s.dispatcher("--slice-wait", "20", "--keep-alive", "3600", "--dwell", "3600")
        replies = await asyncio.gather(*(one.chat(f"m{number}") for number in range(50)))
        codes = Counter(reply.status_code for reply in replies)
        return [
            row("U6", "50 models, 7 slices: answered", codes[200], "≥", 7),
            row("U6", "neither answered nor told to wait (503)", 50 - codes[200] - codes[503], "≤", 0),
            row("U6", "servers there are more than slices", len(s.services()) - 7, "≤", 0),
        ]


async def reasons(options: argparse.Namespace) -> list[Row]:
    """What the API shows is read by the caller."""
    async with site() as s:
        s.cluster.behave("*org/m1*", fail="InvalidImageName")
        one = await s.dispatcher()
        began = time.monotonic()
        reply = await one.chat("m1")
        seconds = time.monotonic() - began
        if "image" not in reply.text:
            raise RuntimeError(f"another reason: {reply.text}")
        return [row("K", "a wrong image: its caller has the reason after, s", seconds, "≤", 5)]


ROWS: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, list[Row]]]] = {
    "limited": limited,
    "failing": failing,
    "deaf": deaf,
    "garbled": garbled,
    "away": away,
    "paused": paused,
    "killed": killed,
    "sigterm": sigterm,
    "duck": duck,
    "shortage": shortage,
    "reasons": reasons,
}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.scorecard", description="The cluster's rows.")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="of K3, K4 and K7 [60]")
    parser.add_argument("--minutes", type=float, default=2.0, metavar="M", help="of D9, twice [2]")
    parser.add_argument("--held", type=int, default=1000, metavar="N", help="requests held in D8 [1000]")
    rows.add_arguments(parser, list(ROWS))
    options = parser.parse_args(argv)
    with workshop.alone():
        found = rows.measured(options, lambda name: asyncio.run(ROWS[name](options)))
    return rows.told(found, "cluster", options.write)


if __name__ == "__main__":
    workshop.command(main)
