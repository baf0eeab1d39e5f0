"""The record of one server, and its lifecycle as a table."""

from __future__ import annotations

import base64
import hashlib
import re
from enum import StrEnum
from typing import TYPE_CHECKING

from ssis_dispatcher.core.messages import Event, Model, ServerFailed, ServerReady, ServerStopped, Stop
from ssis_dispatcher.core.sizing import Profile

if TYPE_CHECKING:
    from ssis_dispatcher.core.callers import Caller
    from ssis_dispatcher.core.shelves import Bin
    from ssis_dispatcher.core.states import ModelState, Need


class State(StrEnum):
    """Where a server is in its life. A server holds its slice in every state but `GONE`."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    GONE = "gone"


LIFECYCLE: dict[State, dict[type[Event] | type[Stop], State]] = {
    State.STARTING: {
        ServerReady: State.READY,
        ServerFailed: State.GONE,
        ServerStopped: State.GONE,
        Stop: State.STOPPING,
    },
    State.READY: {ServerFailed: State.GONE, ServerStopped: State.GONE, Stop: State.STOPPING},
    State.STOPPING: {ServerFailed: State.GONE, ServerStopped: State.GONE},
    State.GONE: {},
}
"""State → what happens → next state. What is not here is not allowed, and is ignored when a platform reports it."""


def server_name(model: Model, replica: int) -> str:
    """A name for people and platforms: a slug of the model id (at most 20 of ``[a-z0-9]``, beginning with a letter) and
    10 base32 characters of a hash of model and replica. Valid as DNS-1035 label, without a hyphen."""
    slug = re.sub(r"[^a-z0-9]", "", model.id.rsplit("/", 1)[-1].lower())[:20]
    if not slug[:1].isalpha():
        slug = f"m{slug}"[:20]
    digest = hashlib.blake2b(f"{model.key} {replica}".encode(), digest_size=10).digest()
    return slug + base64.b32encode(digest).decode().lower()[:10]


class Server:
    """One running (or starting, or stopping) inference server: a model on a slice.

    ``ask`` is what it takes of its node beside the slice, ``owner`` the caller whose account it burdens, ``claim`` the
    launch that waits for it to be gone, ``indexed`` whether it has been idle, its dwell time over, since its shelf looked at
    it last. ``extra``: the model had another when this one was launched, and still has.
    """

    __slots__ = (
        "address",
        "ask",
        "bin",
        "born",
        "busy",
        "claim",
        "context",
        "count",
        "detail",
        "evictable_at",
        "extra",
        "id",
        "idle_since",
        "indexed",
        "keep_armed",
        "leaving",
        "model",
        "order",
        "owner",
        "phase",
        "profile",
        "ready_at",
        "replica",
        "seats",
        "start_deadline",
        "state",
        "why",
    )

    def __init__(
        self,
        id: str,
        replica: int,
        order: int,
        model: ModelState,
        profile: Profile,
        bin: Bin,
        count: int,
        owner: Caller,
        born: float,
    ) -> None:
        self.id = id
        self.replica = replica
        self.order = order
        self.model = model
        self.profile = profile
        self.ask = profile.ask
        self.bin = bin
        self.count = count
        self.owner = owner
        self.born = born
        self.state = State.STARTING
        self.phase = "launching"
        self.detail = ""
        self.seats = 0
        self.context = 0
        self.busy = 0
        self.address: str | None = None
        self.extra = False
        self.leaving = False
        self.claim: Need | None = None
        self.indexed = False
        self.keep_armed = False
        self.ready_at: float | None = None
        self.idle_since = 0.0
        self.evictable_at = 0.0
        self.start_deadline = 0.0
        self.why = ""

    @property
    def evictable(self) -> bool:
        """Whether it may be stopped for another model: idle, not pinned, its dwell time over."""
        return self.indexed and self.state is State.READY and not self.busy and not self.model.pinned

    def index(self) -> None:
        """Make an idle server a possible victim."""
        if not self.indexed:
            self.indexed = True
            self.bin.rack.changed()

    @property
    def goes_unclaimed(self) -> bool:
        """Whether it stops, and no launch waits for that."""
        return self.state is State.STOPPING and self.claim is None

    def enter(self, happened: type[Event] | type[Stop]) -> bool:
        """Take the step of `LIFECYCLE`; False, and nothing changes, where it is not allowed."""
        following = LIFECYCLE[self.state].get(happened)
        if following is None:
            return False
        self.state = following
        return True

    def __repr__(self) -> str:
        slice = self.bin.shelf.slice.name
        return f"<Server {self.id}: {self.state}, {self.busy}/{self.seats} seats, {self.count} × {slice} on {self.bin.node}>"
