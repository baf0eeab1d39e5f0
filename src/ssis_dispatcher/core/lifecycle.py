"""Servers: starting, serving, idling, failing, stopping."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ssis_dispatcher.core.book import Book
from ssis_dispatcher.core.messages import (
    Failure,
    FailureKind,
    ModelDescribed,
    ModelForgotten,
    ModelPinned,
    ModelRejected,
    Remember,
    ServerAdopted,
    ServerFailed,
    ServerPlaced,
    ServerProgressed,
    ServerReady,
    ServerStopped,
    Stop,
    StopAsked,
)
from ssis_dispatcher.core.servers import Server, State, server_name
from ssis_dispatcher.core.states import ModelState
from ssis_dispatcher.errors import Problem

if TYPE_CHECKING:
    from ssis_dispatcher.core.fleet import Fleet


_LEAST_PAUSE = {FailureKind.MISCONFIGURED: 30.0, FailureKind.REMOVED: 60.0}
"""Seconds. What cannot work as asked will hardly work a second later; who takes a server away for the second time means it,
and is not to be fought."""


class Lifecycle:
    """What becomes of a server, and what its model learns from that."""

    def __init__(self, book: Book, fleet: Fleet) -> None:
        self._book = book
        self._fleet = fleet

    # What is known of a model

    def described(self, event: ModelDescribed, now: float) -> None:
        state = self._book.models.get(event.model.key)
        if state is None:
            return
        state.describing = False
        state.profile, state.fits_kinds = event.profile, -1
        state.pinned = state.pinned or event.profile.pinned
        if state.need is not None:
            self._fleet.allotment.known(state.need, now)
        self._book.forget_if_empty(state, now)

    def rejected(self, event: ModelRejected, now: float) -> None:
        state = self._book.models.get(event.model.key)
        if state is not None:
            state.describing = False
            if state.need is not None:
                self._fleet.intake.refuse_line(state, event.problem, now)
            self._book.forget_if_empty(state, now)

    def forgotten(self, event: ModelForgotten, now: float) -> None:
        state = self._book.models.get(event.key)
        if state is None:
            return
        state.profile, state.floor_mib = None, 0
        self._forgive(state)
        if state.need is not None:
            self._fleet.allotment.describe(state.need, now)
        self._book.forget_if_empty(state, now)

    def pinned(self, event: ModelPinned, now: float) -> None:
        state = self._book.models.get(event.model.key) or ModelState(event.model)
        self._book.models[event.model.key] = state
        state.pinned = event.pinned
        for server in list(state.ready):
            if not server.busy and not event.pinned:
                self._arm_keep_alive(server, now)
                self._may_be_evicted(server, now)
        self._book.forget_if_empty(state, now)

    # Starting

    def starts(self, server: Server, now: float) -> float:
        """Enter a new server into the book; its start budget in seconds."""
        state = server.model
        server.extra = bool(state.ready) or state.starting() is not None
        server.owner.held += server.count
        server.owner.ties += 1
        server.bin.shelf.put(server, server.bin)
        self._book.servers[server.id] = state.servers[server.id] = server
        budget = self._budget(server)
        server.start_deadline = now + budget
        self._book.timers.at(server.start_deadline, lambda later: self._start_due(server, later))
        return budget

    def _budget(self, server: Server) -> float:
        policy = self._book.policy
        return max(policy.start_wait, policy.start_factor * server.profile.start_seconds)

    def placed(self, event: ServerPlaced, now: float) -> None:
        """The launch was ordered on a node, and the platform may have taken another, even one on which nothing was free: then
        that is overdrawn until the inventory is told anew, or somebody goes. The same with a slice that somebody else chose;
        one of which nobody knows what it is changes nothing."""
        stock = self._book.stock
        server = self._book.servers.get(event.server)
        if server is None:
            self._correct(event.server, node=event.node, slice=event.slice)
            return
        before = server.bin
        slice = before.shelf.slice
        if before.node == event.node and event.slice in ("", slice.name):
            return
        bin = stock.found(event.node, event.slice or slice.name) or stock.bin(event.node, slice)
        if bin is not before:
            stock.move(server, bin)
            self._fleet.allotment.offer_at(before, server.count, now)
            self._fleet.allotment.may_go(server, now)

    def progressed(self, event: ServerProgressed, now: float) -> None:
        """Bytes that come in are life: while a model downloads, the start budget counts from the last word of it."""
        server = self._book.servers.get(event.server)
        if server is not None and server.state is State.STARTING:
            server.phase, server.detail = event.phase, event.detail
            if event.phase == "downloading":
                server.start_deadline = now + self._budget(server)

    def ready(self, event: ServerReady, now: float) -> None:
        server = self._book.servers.get(event.server)
        if server is None:
            self._correct(event.server, address=event.address, seats=event.seats)
            return
        if not server.enter(ServerReady):
            return
        server.address = event.address
        server.seats = event.seats or server.seats
        self._remember(server, "ready", now, event.cause)
        self._serve(server, now, event.cause)

    def _serve(self, server: Server, now: float, cause: str) -> None:
        """A server can answer: seat its line; its dwell time and its idle time begin."""
        state, book = server.model, self._book
        server.phase, server.detail = "ready", ""
        server.ready_at = state.clock = now
        server.evictable_at = now + book.policy.dwell
        server.owner.held -= server.count
        state.ready.append(server)
        book.timers.at(server.evictable_at, lambda later: self._may_be_evicted(server, later))
        book.timers.at(now + book.policy.settled_after, lambda _: self._settled(server))
        self._fleet.intake.grant(server, now, cause)
        if not server.busy:
            server.idle_since = now
            self._arm_keep_alive(server, now)
        self._fleet.intake.arm(state)
        if state.line:
            self._fleet.allotment.watch_line(state, now)

    def adopted(self, event: ServerAdopted, now: float) -> None:
        """A server of ours runs already. It is kept also where the node takes no more of them, or has no such slice any more;
        one on slices of which nobody knows what they are is left alone."""
        book = self._book
        if not book.stock.known:
            book.found[event.server] = event
            return
        bin = book.stock.found(event.node, event.slice) if event.server not in book.servers else None
        if bin is None:
            return
        state = book.models.setdefault(event.model.key, ModelState(event.model))
        state.profile = state.profile or event.profile
        state.pinned = state.pinned or event.profile.pinned
        replica = next((n for n in range(64) if server_name(event.model, n) == event.server), 64 + len(state.servers))
        owner = book.caller("operator", now)
        server = Server(event.server, replica, book.next_order(), state, event.profile, bin, event.count, owner, now)
        server.seats, server.context = max(1, event.seats), event.profile.context
        self.starts(server, now)
        if state.need is not None:
            self._fleet.allotment.end(state.need, now)
        if event.address is not None and server.enter(ServerReady):
            server.address = event.address
            self._serve(server, now, event.cause)

    def _correct(
        self, server: str, *, node: str = "", slice: str = "", address: str | None = None, seats: int | None = None
    ) -> None:
        """More is known of a server that was found, and that waits for the inventory."""
        found = self._book.found.get(server)
        if found is not None:
            self._book.found[server] = msgspec.structs.replace(
                found,
                node=node or found.node,
                slice=slice or found.slice,
                address=address or found.address,
                seats=seats or found.seats,
            )

    # Failing

    def _start_due(self, server: Server, now: float) -> None:
        if server.state is not State.STARTING:
            return
        if self._book.tied and server.start_deadline <= now:
            self._start_unseen(server, now)
        if server.start_deadline > now:
            self._book.timers.at(server.start_deadline, lambda later: self._start_due(server, later))
            return
        doing = f"{server.phase} {server.detail}".rstrip()
        failure = Failure(FailureKind.TIMED_OUT, f"not ready after {now - server.born:.0f} s ({doing})")
        self._learn(server, failure, now, "timer")
        self.stop(server, "start timed out", "timer", now)
        self._after(server.model, now)

    def _start_unseen(self, server: Server, now: float) -> None:
        """It may be ready for all we know. Those who wait are told; it gets its time again."""
        server.start_deadline = now + self._budget(server)
        if not server.model.ready:
            message = (
                f"{server.model.model.id} is starting, but the platform cannot be reached to learn whether it is ready."
            )
            problem = Problem(503, "platform_unreachable", message, retry_after=10.0)
            self._fleet.intake.refuse_line(server.model, problem, now)

    def failed(self, event: ServerFailed, now: float) -> None:
        self._book.found.pop(event.server, None)
        server = self._book.servers.get(event.server)
        if server is None:
            return
        if server.state is not State.STOPPING:
            self._learn(server, event.failure, now, event.cause)
        server.enter(ServerFailed)
        self._remove(server, now)

    def _learn(self, server: Server, failure: Failure, now: float, cause: str) -> None:
        """What a failure means for the next launch of this model: a larger slice, or a pause that grows each time."""
        state, book = server.model, self._book
        book.failures += 1
        state.trouble = f"{state.model.id} failed: {failure.message}"
        if failure.kind is FailureKind.OUT_OF_MEMORY:
            state.floor_mib = max(state.floor_mib, server.bin.shelf.slice.memory_mib * server.count + 1)
            state.fits_kinds = -1
            self._remember(server, "out_of_memory", now, cause)
            return
        pause = self._pause(server, failure.kind, now)
        if state.failures:
            state.pause_until = now + pause
            state.remembered_until = state.pause_until + book.policy.pause_most
            book.timers.at(state.remembered_until, lambda later: book.forget_if_empty(state, later))

    def _pause(self, server: Server, kind: FailureKind, now: float) -> float:
        """How long this model rests. Losing a server that worked is nobody's fault, nor is one loss while starting, nor one
        that somebody took away; but what is lost again and again must not be started for ever."""
        state, policy = server.model, self._book.policy
        worked = 0.0 if server.ready_at is None else now - server.ready_at
        if worked >= policy.settled_after or (kind is FailureKind.LOST and server.ready_at is not None):
            return 0.0
        state.failures += 1
        if kind in (FailureKind.LOST, FailureKind.REMOVED) and state.failures == 1:
            return 0.0
        pause = min(policy.pause_most, policy.pause_first * 2.0 ** min(state.failures - 1, 32))
        return max(pause, _LEAST_PAUSE.get(kind, 0.0))

    def _settled(self, server: Server) -> None:
        """It has worked long enough to show that the model does."""
        if server.state is State.READY:
            self._forgive(server.model)

    @staticmethod
    def _forgive(state: ModelState) -> None:
        state.failures, state.trouble = 0, ""
        state.pause_until = state.remembered_until = 0.0

    # Ending

    def stop(self, server: Server, why: str, cause: str, now: float) -> None:
        """Tell a server to go. Its slice stays taken until it is gone; a launch that waits may count on it already."""
        if not server.enter(Stop):
            return
        server.why = why
        server.phase, server.detail = "stopping", why
        if server in server.model.ready:
            server.model.ready.remove(server)
        self._book.out.append(Stop(cause, server.id, why))
        if server.claim is None:
            server.bin.rack.changed()
            self._fleet.allotment.may_go(server, now)

    def stop_asked(self, event: StopAsked, now: float) -> None:
        """An operator's word. A busy server takes nobody in any more, and goes when the last request has ended."""
        server = self._book.servers.get(event.server)
        if server is None or server.state is State.STOPPING or server.leaving:
            return
        why = "asked by an operator"
        if server.busy:
            server.leaving, server.why = True, why
            server.model.ready.remove(server)
        else:
            self.stop(server, why, event.cause, now)
        self._after(server.model, now)

    def stopped(self, event: ServerStopped, now: float) -> None:
        self._book.found.pop(event.server, None)
        server = self._book.servers.get(event.server)
        if server is not None:
            server.enter(ServerStopped)
            self._remove(server, now)

    def _remove(self, server: Server, now: float) -> None:
        """A server is gone: its slice goes to whose turn it is, its line needs another."""
        state, book = server.model, self._book
        del book.servers[server.id]
        del state.servers[server.id]
        if server in state.ready:
            state.ready.remove(server)
        if len(state.servers) == 1:
            for last in state.servers.values():
                last.extra = False
        server.bin.shelf.take_off(server)
        server.owner.ties -= 1
        if server.busy or server.ready_at is None:
            server.owner.held -= server.count
        self._fleet.allotment.freed(server, now)
        self._after(state, now)

    def _after(self, state: ModelState, now: float) -> None:
        """The line has lost a server it may have counted on, and its clock starts again."""
        state.clock = now
        self._fleet.allotment.need_again(state, now)
        self._fleet.intake.arm(state)
        self._book.forget_if_empty(state, now)

    def _remember(self, server: Server, outcome: str, now: float, cause: str) -> None:
        slice = server.bin.shelf.slice
        memory = slice.memory_mib * server.count
        self._book.out.append(
            Remember(cause, server.model.model, slice.name, slice.kind, memory, outcome, now - server.born)
        )

    # Idling

    def went_idle(self, server: Server, now: float, cause: str) -> bool:
        """The last request of a server has ended. True when nothing followed from it (the usual, and it must be cheap)."""
        server.idle_since = now
        if server.leaving:
            self.stop(server, server.why, cause, now)
            return False
        quiet = server.keep_armed
        if not quiet:
            self._arm_keep_alive(server, now)
        if now >= server.evictable_at:
            server.index()
            if server.bin.shelf.wants or server.bin.rack.wanted():
                self._fleet.allotment.may_go(server, now)
                quiet = False
        return quiet

    def _may_be_evicted(self, server: Server, now: float) -> None:
        """Its dwell time is over, or its pin gone."""
        idle = server.state is State.READY and not server.busy and not server.model.pinned
        if idle and now >= server.evictable_at:
            server.index()
            self._fleet.allotment.may_go(server, now)

    def _keep_alive(self, server: Server) -> float:
        own = server.profile.keep_alive
        return self._book.policy.keep_alive if own is None else own

    def _arm_keep_alive(self, server: Server, now: float) -> None:
        """One timer a server, which looks when it comes due whether the server was used meanwhile."""
        if not server.keep_armed:
            server.keep_armed = True
            due = server.idle_since + self._keep_alive(server)
            self._book.timers.at(max(now, due), lambda later: self._keep_alive_due(server, later))

    def _keep_alive_due(self, server: Server, now: float) -> None:
        if self._book.tied:
            self._book.deferred.append(lambda later: self._keep_alive_due(server, later))
            return
        server.keep_armed = False
        if server.state is not State.READY or server.busy or server.model.pinned:
            return
        if server.idle_since + self._keep_alive(server) > now:
            self._arm_keep_alive(server, now)
        else:
            self.stop(server, f"idle for {now - server.idle_since:.0f} s", "timer", now)
