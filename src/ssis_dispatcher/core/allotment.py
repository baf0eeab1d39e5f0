"""Slices: which model gets one, which idle server goes, who waits for which."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING

import msgspec

from ssis_dispatcher.core.book import Book
from ssis_dispatcher.core.callers import Caller
from ssis_dispatcher.core.choice import Places, choose, fitting, places
from ssis_dispatcher.core.messages import Describe, Launch
from ssis_dispatcher.core.racks import Rack
from ssis_dispatcher.core.servers import Server, State, server_name
from ssis_dispatcher.core.shelves import Bin, Shelf
from ssis_dispatcher.core.sizing import NOTHING, Fit
from ssis_dispatcher.core.slices import PENDING
from ssis_dispatcher.core.states import ModelState, Need
from ssis_dispatcher.errors import Problem

if TYPE_CHECKING:
    from ssis_dispatcher.core.fleet import Fleet


class Allotment:
    """Rules 5, 6 and 7, for one model at a time, and for whoever waits when something changed."""

    def __init__(self, book: Book, fleet: Fleet) -> None:
        self._book = book
        self._fleet = fleet

    # Needs

    def need(self, state: ModelState, caller: Caller, cause: str, now: float) -> None:
        """This model needs a server: find out about it if nothing is known, else place it."""
        need = state.need = Need(state, caller, cause)
        caller.wanted += 1
        caller.ties += 1
        if state.profile is not None:
            self.known(need, now)
        else:
            self.describe(need, now)

    def describe(self, need: Need, now: float) -> None:
        """Ask what this model needs, unless that has been asked already; meanwhile its launch hangs nowhere."""
        closed = self._closed_by(need)
        self._unhang(need)
        need.places = ()
        self._release(need, need.claims.values(), now)
        if not need.model.describing:
            need.model.describing = True
            self._book.out.append(Describe(need.cause, need.model.model))
        self._reopen(closed, need, now)

    def known(self, need: Need, now: float) -> None:
        """It is known what this model needs."""
        closed = self._closed_by(need)
        self._hang(need, now)
        self.place(need, now)
        self._reopen(closed, need, now)

    def need_again(self, state: ModelState, now: float) -> None:
        """The line may have lost the server it counted on: then it needs another, or rests and is told why."""
        oldest = state.line.oldest()
        if oldest is None or state.has_hope():
            return
        if now < state.pause_until:
            self._fleet.intake.refuse_line(state, state.resting(now), now)
        else:
            self.need(state, oldest.caller, oldest.cause, now)

    def end(self, need: Need, now: float) -> None:
        """This need is met, or nobody has it any more: what stopped for it may serve another, and whom it barred may pass."""
        closed = self._closed_by(need)
        self._unhang(need)
        need.model.need = None
        need.caller.wanted -= 1
        need.caller.ties -= 1
        self._release(need, need.claims.values(), now)
        self._reopen(closed, need, now)

    def _closed_by(self, need: Need) -> list[Shelf]:
        """Where later launches do not get past this one: on its shelves, and for the sake of CPU and memory on those beside
        them."""
        closed = [shelf for _, shelf in need.places if need.order in shelf.barring]
        return list(self._book.stock.shelves.values()) if closed and any(need.ask) else closed

    def _reopen(self, closed: Iterable[Shelf], need: Need, now: float) -> None:
        for shelf in closed:
            if need.order not in shelf.barring:
                self.offer(shelf, now)

    def fits(self, state: ModelState) -> tuple[Fit, ...]:
        """How this model fits on each slice kind; worked out anew only when something about it changed."""
        profile, stock = state.profile, self._book.stock
        assert profile is not None
        if state.fits_kinds != stock.kinds:
            if state.floor_mib > profile.floor_mib:
                profile = state.profile = msgspec.structs.replace(profile, floor_mib=state.floor_mib)
            state.fits = fitting(profile, stock)
            state.fits_kinds = stock.kinds
        return state.fits

    def _hang(self, need: Need, now: float) -> None:
        """Let a need wait on every shelf that it could use. What stops on others does not stop for it any more."""
        self._unhang(need)
        if not need.order:
            need.order = self._book.next_order()
        need.places = self._places(need.model, need.caller)
        need.ask = need.model.profile.ask if need.model.profile is not None else NOTHING
        for _, shelf in need.places:
            shelf.hang(need, need.overtaken >= self._book.policy.overtakes)
        bins = [shelf.bins for _, shelf in need.places]
        useless = [server for server in need.claims.values() if not any(server.bin.node in nodes for nodes in bins)]
        self._release(need, useless, now)

    def _places(self, state: ModelState, caller: Caller) -> Places:
        def allowed(fit: Fit) -> bool:
            return caller.allows(fit.slice.kind) and caller.affords(fit.count)

        return places(self.fits(state), self._book.stock.shelves, allowed)

    @staticmethod
    def _unhang(need: Need) -> None:
        for _, shelf in need.places:
            shelf.unhang(need)

    def _release(self, need: Need, servers: Iterable[Server], now: float) -> None:
        """These stop for this launch no more; another that waits may count on them."""
        for server in list(servers):
            del need.claims[server.id]
            server.claim = None
            server.bin.rack.changed()
            self.may_go(server, now)

    # Placing

    def place(self, need: Need, now: float, at: Rack | None = None) -> bool:
        """Rules 5, 6 and 7, and the part of 1 that must know the slices. False when the need waits on as before; then
        nothing has changed. For ``at`` see `choose`."""
        if not self._book.stock.known or self._book.draining:
            return False
        if not need.places:
            self._give_up(need, now)
            return True
        if self._book.tied:
            return False
        choice = choose(need.places, need.ask, need.order, evict=not need.claims, at=at)
        if choice is None:  # (7) it hangs on its shelves
            return False
        if choice.victims:  # (6)
            self._claim(need, choice.victims, now)
        else:  # (5)
            self._launch(need.model, choice.fit, choice.bin, need.caller, need.cause, now)
            self._count_overtaken(need, choice.bin)
            self.end(need, now)
        return True

    def place_all(self, now: float) -> None:
        """Every launch that waits, in the order of their turn."""
        for need in self._waiting():
            if need.model.need is need:
                self.place(need, now)

    def _waiting(self) -> list[Need]:
        waiting = [state.need for state in self._book.models.values() if state.need and state.profile]
        return sorted(waiting, key=lambda need: need.order)

    def _count_overtaken(self, need: Need, bin: Bin) -> None:
        """Each need is passed at most ``policy.overtakes`` times in its life, so this costs each need that many steps."""
        for older in self._passed_by(need, bin):
            older.overtaken += 1
            if older.overtaken >= self._book.policy.overtakes:
                for _, each in older.places:
                    each.barring[older.order] = older

    @staticmethod
    def _passed_by(need: Need, bin: Bin) -> Iterable[Need]:
        """Launches whose turn was before this one's, which has gone to ``bin``: those that could have used the slice, and
        those that want another slice there and now lack the node's CPU or memory."""
        rack = bin.rack
        passed = {}
        for each in rack.bins.values() if rack.limited and any(need.ask) else (bin,):
            for order, older in each.shelf.wants.items():
                if order >= need.order:
                    break
                if each is bin or (rack.could(older.ask) and not older.ask.within(rack.left)):
                    passed[order] = older
        return passed.values()

    def _claim(self, need: Need, victims: Sequence[Server], now: float) -> None:
        """The need waits for these servers to be gone; those that do not stop already are told to."""
        for server in victims:
            need.claims[server.id] = server
            server.claim = need
            if server.state is not State.STOPPING:
                self._book.evictions += 1
                self._fleet.lifecycle.stop(server, f"evicted for {need.model.model.id}", need.cause, now)

    def _launch(self, state: ModelState, fit: Fit, bin: Bin, caller: Caller, cause: str, now: float) -> None:
        book, profile = self._book, state.profile
        assert profile is not None
        taken = {server.replica for server in state.servers.values()}
        replica = next(n for n in range(len(taken) + 1) if n not in taken)
        name = server_name(state.model, replica)
        server = Server(name, replica, book.next_order(), state, profile, bin, fit.count, caller, now)
        server.seats, server.context = fit.seats, profile.context
        budget = self._fleet.lifecycle.starts(server, now)
        book.launches += 1
        book.out.append(
            Launch(cause, name, state.model, profile, bin.pool(), fit.count, fit.seats, profile.context, budget)
        )

    def _give_up(self, need: Need, now: float) -> None:
        """Nothing here will do: for anybody, or only for the caller whose need it is."""
        state, caller = need.model, need.caller
        self.end(need, now)
        good = [fit for fit in self.fits(state) if fit.seats > 0]
        if not good:
            self._fleet.intake.refuse_line(state, self._does_not_fit(state), now)
            return
        problem = caller.over_slices()
        if not any(caller.allows(fit.slice.kind) for fit in good):
            kinds = sorted({fit.slice.kind for fit in good})
            message = f"{state.model.id} needs a slice of kind {' or '.join(kinds)}; this caller may use "
            problem = Problem(
                403, "slice_kind_not_allowed", f"{message}{' or '.join(caller.kinds)} only.", param="model"
            )
        self._fleet.intake.refuse_caller(state, caller, problem, now)
        self.need_again(state, now)

    def _does_not_fit(self, state: ModelState) -> Problem:
        fits = self.fits(state)
        if not fits:
            return Problem(503, "no_slices", "No slices are advertised here now.", retry_after=30.0)
        largest = max(fits, key=lambda fit: (fit.host_short, fit.slice.memory_mib * fit.count))
        failed = f" Last failure: {state.trouble}" if state.trouble else ""
        message = f"{state.model.id} fits on no slice here. {largest.slice.name}: {largest.why}.{failed}"
        return Problem(422, "model_does_not_fit", message, param="model")

    # When something changed

    def offer(self, shelf: Shelf, now: float) -> None:
        """There is more of this kind than before: whose turn it is takes it."""
        while self._first([shelf], now, None):
            pass

    def offer_at(self, bin: Bin, more: int, now: float) -> None:
        """There are so many ``more`` slices in this bin than before, and more of what its node has: whose turn it is takes
        it. Nothing more can come of it when nothing is free any more, unless the bin was overdrawn and its servers that may
        go are worth something again."""
        shelves = self._concerned(bin)
        for_free = bin.free >= more and len(shelves) == 1
        while (bin.shelf.free() > 0 or not for_free) and self._first(shelves, now, bin.rack):
            pass

    def may_go(self, server: Server, now: float) -> None:
        """A server has become a possible victim, or stops for nobody: the launch whose turn it is, of those that wait for
        none yet, may count on what it has. One that comes before it may find something else to do here."""
        while (server.evictable or server.goes_unclaimed) and self._first(
            self._concerned(server.bin), now, server.bin.rack
        ):
            pass

    @staticmethod
    def _concerned(bin: Bin) -> list[Shelf]:
        """On which shelves somebody may wait for what is in this bin: where the node is limited, also on its others."""
        return [each.shelf for each in bin.rack.bins.values()] if bin.rack.limited else [bin.shelf]

    def _first(self, shelves: Sequence[Shelf], now: float, at: Rack | None) -> bool:
        """The first launch in turn that can do something does it; False when none can."""
        if self._book.tied:
            return False
        turns = [shelf.in_turn() for shelf in shelves]
        needs = turns[0] if len(turns) == 1 else heapq.merge(*turns, key=lambda need: need.order)
        return any(self.place(need, now, at) for need in needs)

    def freed(self, server: Server, now: float) -> None:
        """A server has given back what it had: whose turn it is, and then the launch that waited for this one."""
        need, server.claim = server.claim, None
        if need is not None:
            del need.claims[server.id]
        self.offer_at(server.bin, server.count, now)
        if need is not None and not need.claims and need.model.need is need:
            self.place(need, now)

    def inventory_changed(self, freed: list[Shelf], kinds_changed: bool, now: float) -> None:
        if kinds_changed:
            waiting = self._waiting()
            for need in waiting:
                self._unhang(need)
                need.places = ()
            for need in waiting:
                self._hang(need, now)
            self.place_all(now)
        for shelf in freed:
            self.offer(shelf, now)

    # A second server for one model

    def watch_line(self, state: ModelState, now: float) -> None:
        """All seats are taken: look again when the line has waited long."""
        oldest = state.line.oldest()
        if oldest is not None and not state.scale_armed:
            state.scale_armed = True
            due = self._long(state, oldest.arrived)
            again = now + self._book.policy.scale_out_after
            self._book.timers.at(due if due > now else again, lambda later: self._scale_out(state, later))

    def _long(self, state: ModelState, arrived: float) -> float:
        """When a request will have waited long for a seat of the servers there are now."""
        return max(arrived, state.clock) + self._book.policy.scale_out_after

    def _scale_out(self, state: ModelState, now: float) -> None:
        state.scale_armed = False
        oldest = state.line.oldest()
        if oldest is None or not state.ready:
            return
        most = (state.profile and state.profile.max_servers) or self._book.policy.servers_per_model
        if now >= self._long(state, oldest.arrived) and not state.starting() and len(state.servers) < most:
            self._launch_extra(state, oldest.caller, oldest.cause, now)
        self.watch_line(state, now)

    def _launch_extra(self, state: ModelState, caller: Caller, cause: str, now: float) -> None:
        """On the smallest free slice that fits and that no launch waits for, if there is one; nobody goes for it, and no node
        comes."""
        if state.profile is None or self._book.tied:
            return
        unwanted = [(fit, shelf) for fit, shelf in self._places(state, caller) if not shelf.wants]
        choice = choose(unwanted, state.profile.ask, inf, evict=False)
        if choice is None or choice.bin.node == PENDING or choice.bin.rack.wanted():
            return
        if caller.take_launch(now) is None:
            self._launch(state, choice.fit, choice.bin, caller, cause, now)
