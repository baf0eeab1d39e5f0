"""Slices: which model gets one, which idle server goes, who waits for which."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from ssis_dispatcher.core.book import Book
from ssis_dispatcher.core.callers import Caller
from ssis_dispatcher.core.messages import Describe, Launch
from ssis_dispatcher.core.placement import candidates
from ssis_dispatcher.core.servers import Server, server_name
from ssis_dispatcher.core.shelves import Bin, Shelf
from ssis_dispatcher.core.sizing import Fit
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

    def need(self, state: ModelState, caller: str, cause: str, now: float) -> None:
        """This model needs a server: find out about it if nothing is known, else place it."""
        book = self._book
        need = state.need = Need(state, book.caller(caller, now), cause, book.next_order(), now)
        if state.profile is not None:
            self.hang(need)
            self.place(need, now)
        elif not state.describing:
            state.describing = True
            book.out.append(Describe(cause, state.model))

    def need_again(self, state: ModelState, now: float) -> None:
        """The line has lost the server it counted on: it needs another, or rests and is told why."""
        oldest = state.line.oldest()
        if oldest is None or state.has_hope():
            return
        if now < state.pause_until:
            self._fleet.intake.refuse_line(state, state.resting(now), now)
        else:
            self.need(state, oldest.caller, oldest.cause, now)

    def fits(self, state: ModelState) -> tuple[Fit, ...]:
        """How this model fits on each slice kind; worked out anew only when something about it changed."""
        profile, stock = state.profile, self._book.stock
        assert profile is not None
        if state.fits_kinds != stock.kinds:
            if state.floor_mib > profile.floor_mib:
                profile = state.profile = msgspec.structs.replace(profile, floor_mib=state.floor_mib)
            state.fits = candidates(profile, stock.largest())
            state.fits_kinds = stock.kinds
        return state.fits

    def hang(self, need: Need) -> None:
        """Let a need wait on every shelf that it could use."""
        self._unhang(need)
        shelves = self._book.stock.shelves
        fits = self.fits(need.model)
        need.fits = [(fit, shelves[fit.slice]) for fit in fits if fit.seats > 0 and need.allows(fit.slice.kind)]
        need.shelves = list({id(shelf): shelf for _, shelf in need.fits}.values())
        for shelf in need.shelves:
            shelf.wants[need.order] = need

    @staticmethod
    def _unhang(need: Need) -> None:
        for shelf in need.shelves:
            shelf.wants.pop(need.order, None)
            shelf.barred.pop(need.order, None)
        need.shelves = []

    def end(self, need: Need) -> None:
        """This need is met, or nobody has it any more; what stopped for it may serve another."""
        self._unhang(need)
        for id in need.claims:
            server = self._book.servers.get(id)
            if server is not None:
                server.claimed = False
                server.bin.shelf.retiring[id] = server
        need.model.need = None

    # Placing

    def place(self, need: Need, now: float) -> None:
        """Rules 5, 6 and 7, and the part of 1 that must know the slices."""
        if not self._book.stock.known:
            return
        if not need.fits:
            self._give_up(need, now)
            return
        for fit, shelf in need.fits:  # (5)
            bin = None if self._barred(shelf, need) else shelf.find(fit.count)
            if bin is not None:
                self.end(need)
                self._count_overtaken(shelf, need.order)
                self._launch(need.model, fit, bin, need.caller, need.cause, now)
                return
        if need.claims:
            return
        for fit, shelf in need.fits:  # (6)
            if not self._barred(shelf, need) and self._make_room(need, fit, shelf, now):
                return
        # (7) it hangs on its shelves

    @staticmethod
    def _barred(shelf: Shelf, need: Need) -> bool:
        """Whether an older launch has been passed often enough here."""
        return any(order < need.order for order in islice(shelf.barred, 1))

    def _count_overtaken(self, shelf: Shelf, order: int) -> None:
        """Each need is passed at most ``policy.overtakes`` times in its life, so this costs each need that many steps."""
        for older, need in shelf.wants.items():
            if older > order:
                break
            need.overtaken += 1
            if need.overtaken >= self._book.policy.overtakes:
                for each in need.shelves:
                    each.barred = OrderedDict(sorted([*each.barred.items(), (older, need)]))

    def _make_room(self, need: Need, fit: Fit, shelf: Shelf, now: float) -> bool:
        """Claim a server that stops anyhow, else stop idle ones."""
        going = next((server for server in shelf.retiring.values() if server.count >= fit.count), None)
        if going is not None:
            del shelf.retiring[going.id]
            going.claimed = True
            need.claims.add(going.id)
            return True
        victims = shelf.victims(fit.count, self._book.policy.reload_weight)
        for server in victims:
            self._book.evictions += 1
            server.claimed = True
            need.claims.add(server.id)
            self._fleet.lifecycle.stop(server, f"evicted for {need.model.model.id}", need.cause)
        return bool(victims)

    def _launch(self, state: ModelState, fit: Fit, bin: Bin, caller: Caller, cause: str, now: float) -> None:
        book, profile = self._book, state.profile
        assert profile is not None
        taken = {server.replica for server in state.servers.values()}
        replica = next(n for n in range(len(taken) + 1) if n not in taken)
        name = server_name(state.model, replica)
        server = Server(name, replica, book.next_order(), state, profile, bin, fit.count, now)
        server.seats, server.context = fit.seats, profile.context
        server.owner = caller
        caller.held += 1
        bin.shelf.change(bin, ours=fit.count)
        book.launches += 1
        budget = self._fleet.lifecycle.starts(server, now)
        book.out.append(
            Launch(cause, name, state.model, profile, bin.pool(), fit.count, fit.seats, profile.context, budget)
        )

    def _give_up(self, need: Need, now: float) -> None:
        """Nothing here will do: for anybody, or only for the caller whose need it is."""
        state, caller = need.model, need.caller
        self.end(need)
        kinds = {fit.slice.kind for fit in self.fits(state) if fit.seats > 0}
        if not kinds:
            self._fleet.intake.refuse_line(state, self._does_not_fit(state), now)
            return
        message = f"{state.model.id} needs a slice of kind {' or '.join(sorted(kinds))}; this caller may use "
        problem = Problem(403, "slice_kind_not_allowed", message + f"{' or '.join(caller.kinds)} only.", param="model")
        self._fleet.intake.refuse_caller(state, caller.name, problem, now)
        self.need_again(state, now)

    def _does_not_fit(self, state: ModelState) -> Problem:
        fits = self.fits(state)
        if not fits:
            return Problem(503, "no_slices", "No slices are advertised here now.", retry_after=30.0)
        largest = max(fits, key=lambda fit: fit.slice.memory_mib * fit.count)
        failed = f" Last failure: {state.problem.message}" if state.problem else ""
        message = f"{state.model.id} fits on no slice here. {largest.slice.name}: {largest.why}.{failed}"
        return Problem(422, "model_does_not_fit", message, param="model")

    # When something changed

    def offer(self, shelf: Shelf, now: float) -> None:
        """Slices of this kind are free: the oldest launch that can use them takes them."""
        skipped = 0
        while shelf.free() > 0 and (need := next(islice(shelf.wants.values(), skipped, None), None)) is not None:
            self.place(need, now)
            skipped += need.order in shelf.wants

    def evict_for_waiting(self, shelf: Shelf, now: float) -> None:
        """A server here has become a possible victim: the oldest launch that waits for nobody yet may have its slice."""
        need = next((need for need in shelf.wants.values() if not need.claims), None)
        if need is not None:
            self.place(need, now)

    def freed(self, server: Server, now: float) -> None:
        """A server has given its slice back: whose turn it is, and then those it was promised to."""
        shelf = server.bin.shelf
        claimants = [need for need in shelf.wants.values() if server.id in need.claims] if server.claimed else []
        for need in claimants:
            need.claims.discard(server.id)
        self.offer(shelf, now)
        for need in claimants:
            if not need.claims and need.model.need is need:
                self.place(need, now)

    def inventory_changed(self, freed: list[Shelf], kinds_changed: bool, now: float) -> None:
        if kinds_changed:
            waiting = [state.need for state in self._book.models.values() if state.need and state.profile]
            waiting.sort(key=lambda need: need.order)
            for need in waiting:
                self.hang(need)
            for need in waiting:
                if need.model.need is need:
                    self.place(need, now)
        for shelf in freed:
            self.offer(shelf, now)

    # A second server for one model

    def watch_line(self, state: ModelState, now: float) -> None:
        """All seats are taken: look again when the line has waited long."""
        if not state.scale_armed:
            state.scale_armed = True
            self._book.timers.at(now + self._book.policy.scale_out_after, lambda later: self._scale_out(state, later))

    def _scale_out(self, state: ModelState, now: float) -> None:
        state.scale_armed = False
        oldest = state.line.oldest()
        if oldest is None or not state.ready:
            return
        self.watch_line(state, now)
        most = (state.profile and state.profile.max_servers) or self._book.policy.servers_per_model
        waited = now - max(oldest.arrived, state.clock)
        if waited < self._book.policy.scale_out_after or state.starting() or len(state.servers) >= most:
            return
        found = self._spare(state)
        caller = self._book.caller(oldest.caller, now)
        if found is not None and caller.take_launch(now) is None:
            self._launch(state, *found, caller, oldest.cause, now)

    def _spare(self, state: ModelState) -> tuple[Fit, Bin] | None:
        """The smallest free slice that fits and that no launch waits for."""
        if state.profile is None:
            return None
        for fit in self.fits(state):
            shelf = self._book.stock.shelves[fit.slice]
            bin = shelf.find(fit.count) if fit.seats and not shelf.wants else None
            if bin is not None:
                return fit, bin
        return None
