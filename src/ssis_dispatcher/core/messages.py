"""Events (past tense) go into the fleet, commands (imperative) come out.

They are frozen `msgspec.Struct`s rather than dataclasses: made in C, so that a warm request pays a tenth of a
microsecond for each, and a recorded history can be written down and replayed (`encode`, `decode`).

Every event names its ``cause``: the request id that a caller sees, ``launcher``, ``timer``, ``operator: …``.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec

from ssis_dispatcher.core.sizing import Profile
from ssis_dispatcher.core.slices import Host, Pool, SliceKind
from ssis_dispatcher.errors import Problem


class Model(msgspec.Struct, frozen=True):
    """What a request names. Two requests share a server only when their models are equal.

    Made by `Model.of`, which computes ``key``: the model id, ``#``, and 24 hexadecimal digits of a hash of the full
    identity. ``engine`` and ``revision`` are resolved before that, so that saying a default aloud changes nothing.
    ``context`` is what the caller asked for, in tokens; None leaves it to the catalogue and the model.
    """

    key: str
    id: str
    revision: str = ""
    engine: str = ""
    arguments: tuple[tuple[str, str], ...] = ()
    scope: str = "public"
    context: int | None = None

    @staticmethod
    def of(
        id: str,
        *,
        revision: str = "",
        engine: str = "",
        arguments: tuple[tuple[str, str], ...] = (),
        scope: str = "public",
        context: int | None = None,
    ) -> Model:
        arguments = tuple(sorted(arguments))
        identity = msgspec.json.encode((id, revision, engine, arguments, scope, context))
        key = f"{id}#{hashlib.blake2b(identity, digest_size=12).hexdigest()}"
        return Model(key, id, revision, engine, arguments, scope, context)


class FailureKind(StrEnum):
    """Why a server failed, as far as it changes what is done next."""

    OUT_OF_MEMORY = "out_of_memory"
    """Too small a slice: the next launch takes a larger one."""
    CRASHED = "crashed"
    """Died by itself: retried after a growing pause."""
    TIMED_OUT = "timed_out"
    """Did not become ready within its start budget."""
    MISCONFIGURED = "misconfigured"
    """Cannot work as asked (no such file, image, argument): trying again soon cannot help."""
    LOST = "lost"
    """Its slice, node or process went away from under it."""
    REMOVED = "removed"
    """Somebody else took it away: replaced once for who asks, then not more often than once a minute."""


class Failure(msgspec.Struct, frozen=True):
    """What went wrong with a server, in words that a caller may read (redacted by the launcher)."""

    kind: FailureKind
    message: str


class Event(msgspec.Struct, frozen=True, tag=True):
    """Something that happened."""

    cause: str


class CallerLimits(msgspec.Struct, frozen=True):
    """A caller's own limits, where they differ from the policy's: slices held at once, launches per minute, and the kinds
    of slices that are launched for it (none named: all)."""

    slices: int | None = None
    launches_per_minute: int | None = None
    kinds: tuple[SliceKind, ...] = ()


class RequestArrived(Event, frozen=True):
    """A caller wants a seat. ``size`` is what holding it costs, in bytes; ``patience`` the caller's own limit in seconds."""

    request: int
    model: Model
    caller: str
    size: int
    patience: float | None = None
    limits: CallerLimits | None = None


class RequestGone(Event, frozen=True):
    """The reply has ended, or the caller left: the seat or the place in the line is free."""

    request: int


class ModelDescribed(Event, frozen=True):
    """What a `Describe` asked for."""

    model: Model
    profile: Profile


class ModelRejected(Event, frozen=True):
    """A `Describe` found that this model cannot be served here."""

    model: Model
    problem: Problem


class ServerPlaced(Event, frozen=True):
    """The platform chose the node of a server; or somebody has given it ``slice`` (a resource name) in place of the one that
    it was launched on."""

    server: str
    node: str
    slice: str = ""


class ServerProgressed(Event, frozen=True):
    """A starting server entered a phase (``downloading``, ``loading`` …); ``detail`` is for people."""

    server: str
    phase: str
    detail: str = ""


class ServerReady(Event, frozen=True):
    """A server can answer at ``address`` (``host:port`` or a URL). ``seats`` where the server knows better than the plan."""

    server: str
    address: str
    seats: int | None = None


class ServerFailed(Event, frozen=True):
    """A server is gone, or useless, without having been told to stop; its slice is free."""

    server: str
    failure: Failure


class ServerStopped(Event, frozen=True):
    """A `Stop` is carried out: the slice is free."""

    server: str


class ServerAdopted(Event, frozen=True):
    """A server of ours was found running: after a restart of the dispatcher, on a platform that outlives it.

    Those that are reported before the first `InventoryChanged` are taken in with it, before anything is launched, so that
    nothing is started that runs already.
    """

    server: str
    model: Model
    profile: Profile
    slice: str
    node: str
    count: int
    seats: int
    address: str | None


class InventoryChanged(Event, frozen=True):
    """What slices exist, and how many of them others hold: of all nodes, or only of ``nodes``, while the others are as they
    were. The first one tells of all.

    ``hosts`` tells what CPU and memory the nodes have for our servers; a node that is not among them has as much as anybody
    asks. Servers that were found running are reported before the first of these, see `ServerAdopted`.
    """

    pools: tuple[Pool, ...]
    hosts: tuple[Host, ...] = ()
    nodes: tuple[str, ...] | None = None

    def since(self, before: InventoryChanged) -> InventoryChanged:
        """The same for those who know what was ``before``: of the nodes that have changed. Both tell of all."""
        now, then = self._by_node(), before._by_node()
        changed = {node for node in now.keys() | then.keys() if now.get(node) != then.get(node)}
        pools = tuple(pool for pool in self.pools if pool.node in changed)
        hosts = tuple(host for host in self.hosts if host.node in changed)
        return InventoryChanged(self.cause, pools, hosts, tuple(sorted(changed)))

    def _by_node(self) -> dict[str, list[Pool | Host]]:
        found: dict[str, list[Pool | Host]] = {}
        everything: tuple[Pool | Host, ...] = (*self.pools, *self.hosts)
        for told in everything:
            found.setdefault(told.node, []).append(told)
        return found


class HandsTied(Event, frozen=True):
    """The platform's control plane cannot be reached (``tied``), or can be again. While it cannot, ready servers go on being
    used, and nothing is started, evicted or stopped for being idle; afterwards, all that is due happens."""

    tied: bool


class TimePassed(Event, frozen=True):
    """A `WakeAt` came due."""


class StopAsked(Event, frozen=True):
    """An operator wants a server gone. A busy one finishes its requests first."""

    server: str


class ModelPinned(Event, frozen=True):
    """An operator wants this model's server to stay (``pinned``) or to be an ordinary one again."""

    model: Model
    pinned: bool


class ModelForgotten(Event, frozen=True):
    """What is known of this model may have changed (catalogue edited, cache removed): it is described anew."""

    key: str


class DrainBegan(Event, frozen=True):
    """The dispatcher is going away: nothing new is taken in, held requests are told, seated ones finish."""


class Command(msgspec.Struct, frozen=True, tag=True):
    """Something to do; ``cause`` is that of the event which led to it."""

    cause: str


class Seat(Command, frozen=True):
    """Let this request through to this server."""

    request: int
    server: str


class Refuse(Command, frozen=True):
    """Tell this request why it is not served."""

    request: int
    problem: Problem


class Describe(Command, frozen=True):
    """Find out what this model needs, and answer with `ModelDescribed` or `ModelRejected`."""

    model: Model


class Launch(Command, frozen=True):
    """Start a server for ``model`` on ``count`` slices of ``pool``, with ``seats`` requests at once of ``context`` tokens
    each, within ``budget`` seconds. ``pool`` is as the fleet knows it; on the node `slices.PENDING` the platform chooses
    one. What the server asks of its node beside the slices is in ``profile``."""

    server: str
    model: Model
    profile: Profile
    pool: Pool
    count: int
    seats: int
    context: int
    budget: float


class Stop(Command, frozen=True):
    """Stop a server and answer with `ServerStopped` when its slice is free. ``why`` is for people."""

    server: str
    why: str


class WakeAt(Command, frozen=True):
    """Send `TimePassed` at ``when`` (the clock of `Fleet.handle`). The latest one replaces those before it."""

    when: float


class Remember(Command, frozen=True):
    """Keep what a launch taught, over restarts: ``outcome`` is ``ready`` or ``out_of_memory``."""

    model: Model
    slice: str
    kind: str
    memory_mib: int
    outcome: str
    seconds: float


AnyEvent = (
    RequestArrived
    | RequestGone
    | ModelDescribed
    | ModelRejected
    | ServerPlaced
    | ServerProgressed
    | ServerReady
    | ServerFailed
    | ServerStopped
    | ServerAdopted
    | InventoryChanged
    | HandsTied
    | TimePassed
    | StopAsked
    | ModelPinned
    | ModelForgotten
    | DrainBegan
)
AnyCommand = Seat | Refuse | Describe | Launch | Stop | WakeAt | Remember


class Recorded(msgspec.Struct, frozen=True):
    """One line of a recorded history: when the fleet was told what."""

    now: float
    event: AnyEvent


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Recorded).decode
