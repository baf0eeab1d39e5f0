"""A `Story`: events go in by short verbs, commands come out as short words, and a mismatch shows the conversation.

    story.arrives("r1", "llama").then("describe llama")
    story.described("llama", 8).then("launch llama on 1g@a")
    story.ready("llama").then("seat r1 at llama")

Every command must be told of: a verb that follows commands nobody has named is a mistake. After each event the whole book
is checked (`invariants`). Wake-ups are the story's own business: `passes` sends the `TimePassed` that are due.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import msgspec
from tests.core.invariants import check_invariants, check_launches

from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core.messages import (
    AnyCommand,
    AnyEvent,
    CallerLimits,
    Describe,
    DrainBegan,
    Failure,
    FailureKind,
    HandsTied,
    InventoryChanged,
    Launch,
    Model,
    ModelDescribed,
    ModelForgotten,
    ModelPinned,
    ModelRejected,
    Recorded,
    Refuse,
    Remember,
    RequestArrived,
    RequestGone,
    Seat,
    ServerAdopted,
    ServerFailed,
    ServerPlaced,
    ServerProgressed,
    ServerReady,
    ServerStopped,
    Stop,
    StopAsked,
    TimePassed,
    WakeAt,
)
from ssis_dispatcher.core.policy import Policy
from ssis_dispatcher.core.sizing import ModelFacts, Profile
from ssis_dispatcher.core.slices import Host, Pool, Slice, SliceKind
from ssis_dispatcher.core.states import ModelState
from ssis_dispatcher.errors import Problem

GIB = 2**30
SLICES = {
    "1g": Slice(10_240, 1 / 7, "nvidia.com/mig-1g.10gb", SliceKind.MIG),
    "2g": Slice(20_480, 2 / 7, "nvidia.com/mig-2g.20gb", SliceKind.MIG),
    "3g": Slice(40_960, 3 / 7, "nvidia.com/mig-3g.40gb", SliceKind.MIG),
    "mps": Slice(16_384, 0.5, "nvidia.com/gpu-16gb", SliceKind.MPS),
    "gpu": Slice(81_920, 1.0, "nvidia.com/gpu", SliceKind.GPU),
}
_SHORT = {slice.name: short for short, slice in SLICES.items()}


def pools(text: str) -> tuple[Pool, ...]:
    """``"a 1g:2 gpu:1-1; b gpu:8"``: two nodes; of ``a``'s one GPU, others hold one. For ``cpu`` and ``mem`` see `hosts`."""
    found = []
    for node in filter(None, map(str.strip, text.split(";"))):
        name, *slices = node.split()
        for slice in slices:
            short, _, numbers = slice.partition(":")
            if short in ("cpu", "mem"):
                continue
            total, _, taken = numbers.partition("-")
            found.append(Pool(name, SLICES[short], int(total), int(taken or 0)))
    return tuple(found)


def hosts(text: str) -> tuple[Host, ...]:
    """``"a 1g:2 cpu:8 mem:64-16; b gpu:8"``: node ``a`` has 8 CPUs and 64 GiB of memory, of which others hold 16."""
    found = []
    for node in filter(None, map(str.strip, text.split(";"))):
        name, *words = node.split()
        numbers = dict(word.split(":") for word in words)
        if "cpu" in numbers or "mem" in numbers:
            cpu, _, cpu_taken = numbers.get("cpu", "1000").partition("-")
            mem, _, mem_taken = numbers.get("mem", "100000").partition("-")
            all_cpu, all_mem = int(cpu) * 1000, int(mem) * 1024
            cpu_free, mem_free = all_cpu - int(cpu_taken or 0) * 1000, all_mem - int(mem_taken or 0) * 1024
            found.append(Host(name, cpu_free, mem_free, all_cpu, all_mem))
    return tuple(found)


def model(name: str) -> Model:
    return Model.of(name, engine="vllm")


def profile(
    gib: float | None,
    *,
    seats: int = 1,
    start: float = 30.0,
    keep_alive: float | None = None,
    pinned: bool = False,
    max_servers: int | None = None,
    kinds: tuple[SliceKind, ...] = (SliceKind.MIG, SliceKind.MPS, SliceKind.GPU),
    cpus: float = 0,
    memory: int = 0,
) -> Profile:
    """A model with ``gib`` of weights (None: unknown) that takes ``seats`` requests at once and ``start`` seconds to load,
    and asks ``cpus`` and ``memory`` GiB of its node."""
    weights = None if gib is None else int(gib * GIB)
    return Profile(
        ModelFacts("catalogue", weights, 1024, 4096),
        context=1024,
        engine_seats=seats,
        start_seconds=start,
        keep_alive=keep_alive,
        pinned=pinned,
        max_servers=max_servers,
        kinds=kinds,
        overhead_share=0.0,
        host_cpu_millis=int(cpus * 1000),
        host_mib=memory * 1024,
    )


class Story:
    """See the module's docstring. Servers are called by their model, the second of one ``llama/1``; requests as you like."""

    def __init__(self, inventory: str | None = None, *, at: float = 0.0, **policy: float) -> None:
        self.fleet = Fleet(msgspec.convert(policy, Policy))
        self.now = at
        self.history: list[Recorded] = []
        self.learned: list[Remember] = []
        self.refusals: dict[str, Problem] = {}
        self.said: list[AnyCommand] = []
        self._wake_at: float | None = None
        self._requests: list[str] = []
        self._servers: dict[str, str] = {}
        self._pending: list[str] = []
        self._lines: list[str] = []
        if inventory is not None:
            self.inventory(inventory)

    # Requests

    def arrives(
        self,
        request: str,
        model_name: str,
        *,
        caller: str = "alice",
        size: int = 100,
        patience: float | None = None,
        limits: CallerLimits | None = None,
    ) -> Self:
        self._requests.append(request)
        number = len(self._requests)
        return self._tell(
            f"{request} arrives for {model_name} from {caller}",
            RequestArrived(request, number, model(model_name), caller, size, patience, limits),
        )

    def gone(self, *requests: str) -> Self:
        for request in requests:
            self._tell(f"{request} is gone", RequestGone(request, self.number(request)))
        return self

    # Models

    def described(self, model_name: str, gib: float | None, **known: object) -> Self:
        """For ``known`` see `profile`."""
        what = profile(gib, **known)  # type: ignore[arg-type]
        return self._tell(f"{model_name} is described: {gib} GiB", ModelDescribed("hub", model(model_name), what))

    def rejected(self, model_name: str) -> Self:
        problem = Problem(404, "model_not_found", f"{model_name} is not there.")
        return self._tell(f"{model_name} is rejected", ModelRejected("hub", model(model_name), problem))

    def forgotten(self, model_name: str) -> Self:
        return self._tell(f"{model_name} is forgotten", ModelForgotten("operator", model(model_name).key))

    def pinned(self, model_name: str, pinned: bool = True) -> Self:
        return self._tell(
            f"{model_name} is {'pinned' if pinned else 'unpinned'}", ModelPinned("operator", model(model_name), pinned)
        )

    # Servers

    def ready(self, server: str, seats: int | None = None) -> Self:
        return self._tell(f"{server} is ready", ServerReady("launcher", self.id(server), "127.0.0.1:1", seats))

    def placed(self, server: str, node: str, slice: str = "") -> Self:
        name = SLICES[slice].name if slice in SLICES else slice
        where = f"{slice}@{node}" if slice else node
        return self._tell(f"{server} is placed on {where}", ServerPlaced("launcher", self.id(server), node, name))

    def progresses(self, server: str, phase: str, detail: str = "") -> Self:
        return self._tell(f"{server}: {phase} {detail}", ServerProgressed("launcher", self.id(server), phase, detail))

    def failed(self, server: str, kind: str, message: str = "it broke") -> Self:
        return self._tell(
            f"{server} failed: {kind}", ServerFailed("launcher", self.id(server), Failure(FailureKind(kind), message))
        )

    def stopped(self, *servers: str) -> Self:
        for server in servers:
            self._tell(f"{server} has stopped", ServerStopped("launcher", self.id(server)))
        return self

    def adopted(
        self,
        model_name: str,
        slice: str,
        node: str,
        *,
        gib: float = 8,
        seats: int = 1,
        starting: bool = False,
        id: str = "",
        **known: object,
    ) -> Self:
        server = id or f"found{len(self._servers)}"
        self._servers[server] = model_name
        address = None if starting else "127.0.0.1:1"
        what = profile(gib, seats=seats, **known)  # type: ignore[arg-type]
        name = SLICES[slice].name if slice in SLICES else slice
        event = ServerAdopted("launcher", server, model(model_name), what, name, node, 1, seats, address)
        return self._tell(f"{model_name} is found on {slice}@{node}", event)

    # The world

    def inventory(self, text: str | tuple[Pool, ...]) -> Self:
        found = pools(text) if isinstance(text, str) else text
        limits = hosts(text) if isinstance(text, str) else ()
        return self._tell(f"inventory: {text}", InventoryChanged("launcher", found, limits))

    def hands_tied(self, tied: bool = True) -> Self:
        return self._tell("hands are tied" if tied else "hands are free", HandsTied("launcher", tied))

    def stop_asked(self, server: str) -> Self:
        return self._tell(f"an operator stops {server}", StopAsked("operator", self.id(server)))

    def drains(self) -> Self:
        return self._tell("a drain begins", DrainBegan("operator"))

    def passes(self, seconds: float) -> Self:
        """Time goes on, and every wake-up that comes due is answered at its time."""
        until = self.now + seconds
        while self._wake_at is not None and self._wake_at <= until:
            self.now, self._wake_at = max(self.now, self._wake_at), None
            self._tell(f"{self.now:g} s", TimePassed("timer"), quiet=True)
        self.now = until
        return self

    def tell(self, event: AnyEvent) -> Self:
        """Any other event."""
        return self._tell(repr(event), event)

    # Set-ups that many stories share

    def serving(self, model_name: str, gib: float = 8, *, busy: int = 0, **known: object) -> Self:
        """A server of ``model_name`` is up, with ``busy`` requests ``<model>-1`` … seated. Its commands go without saying."""
        names = [f"{model_name}-{n}" for n in range(1, max(busy, 1) + 1)]
        for name in names:
            self.arrives(name, model_name, caller="set-up").anyhow()
        self.described(model_name, gib, **known).anyhow()
        self.ready(model_name).anyhow()
        if not busy:
            self.gone(*names)
        return self

    # What came of it

    def then(self, *commands: str) -> Self:
        """Exactly these commands have come since the last time anybody asked."""
        __tracebackhide__ = True
        got, self._pending = self._pending, []
        if got != list(commands):
            raise AssertionError(self._conversation(f"expected {list(commands)}\n     got {got}"))
        return self

    def anyhow(self) -> Self:
        """Whatever came of it is not this story's subject."""
        self._pending = []
        return self

    def why(self, request: str) -> str:
        """What a refused request was told."""
        return self.refusals[request].message

    def number(self, request: str) -> int:
        return self._requests.index(request) + 1

    def id(self, server: str) -> str:
        """The id of a server by its name in this story, the newest where several had it."""
        for id, name in reversed(self._servers.items()):
            if name == server:
                return id
        return server

    def state(self, model_name: str) -> ModelState:
        return self.fleet.book.models[model(model_name).key]

    def _tell(self, what: str, event: AnyEvent, *, quiet: bool = False) -> Self:
        __tracebackhide__ = True
        if self._pending and not quiet:
            raise AssertionError(self._conversation(f"before {what!r}: nobody told of {self._pending}"))
        self._lines.append(f"{self.now:>7g}  >> {what}")
        self.history.append(Recorded(self.now, event))
        said = self.fleet.handle(event, self.now)
        self.said += said
        for command in said:
            words = self._words(command)
            if words:
                self._pending.append(words)
                self._lines.append(f"{'':>7}  << {words}")
        try:
            check_invariants(self.fleet)
            check_launches(self.fleet, said)
        except AssertionError as error:
            raise AssertionError(self._conversation(str(error))) from None
        return self

    def _words(self, command: AnyCommand) -> str:
        match command:
            case WakeAt(when=when):
                self._wake_at = when
                return ""
            case Seat(request=request, server=server):
                return f"seat {self._requests[request - 1]} at {self._servers[server]}"
            case Refuse(request=request, problem=problem):
                self.refusals[self._requests[request - 1]] = problem
                return f"refuse {self._requests[request - 1]}: {problem.status} {problem.code}"
            case Describe(model=model):
                return f"describe {model.id}"
            case Launch(server=server, pool=pool, count=count):
                return (
                    f"launch {self._named(command)} on {f'{count} ' * (count > 1)}{_SHORT[pool.slice.name]}@{pool.node}"
                )
            case Stop(server=server, why=why):
                return f"stop {self._servers[server]}: {why}"
            case Remember(model=model, slice=slice, outcome=outcome):
                self.learned.append(command)
                return f"remember {model.id}: {_SHORT[slice]} {outcome}" if outcome != "ready" else ""

    def _named(self, launch: Launch) -> str:
        replica = self.fleet.book.servers[launch.server].replica
        name = f"{launch.model.id}/{replica}" if replica else launch.model.id
        self._servers.pop(launch.server, None)
        self._servers[launch.server] = name
        return name

    def _conversation(self, problem: str) -> str:
        return "\n".join([problem, "", *self._lines[-60:], "", repr(self.fleet)])


def words(commands: Sequence[AnyCommand]) -> list[str]:
    """Commands without their details, for those who tell no story."""
    return [type(command).__name__ for command in commands]
