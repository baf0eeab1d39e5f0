"""Watches: an open response that is told what happens to a selection of objects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec
from tests.kube import selectors
from tests.kube.api import events
from tests.kube.faults import Faults
from tests.kube.store import Change, Entry, Follower, Json, Key, Shelf

BOOKMARKS = 60.0
"""Seconds between bookmarks."""

LAST_BOOKMARK = 2.0
"""Seconds before the end of a watch at which it says once more how far it has got."""


class Stream(Protocol):
    """An open response."""

    def send(self, data: bytes) -> None: ...
    def end(self) -> None: ...
    def cut(self) -> None: ...


class Watch:
    """One watch. It lives until its time is up or its caller leaves."""

    def __init__(
        self,
        shelf: Shelf,
        namespace: str,
        match: selectors.Match,
        faults: Faults,
        stream: Stream,
        *,
        bookmarks: bool,
        version: Callable[[], int],
    ) -> None:
        self.shelf = shelf
        self._namespace = namespace
        self._match = match
        self._faults = faults
        self._stream = stream
        self._bookmarks = bookmarks
        self._version = version
        self._timers: list[asyncio.TimerHandle] = []
        self._follower: Follower | None = None
        self._shown: dict[Key, list[tuple[str, Entry]]] = {}
        self.open = True
        self.on_leave: Callable[[], None] = lambda: None
        self._has_died = False

    def begin(self, past: list[Change], present: list[Entry], timeout: float, *, initial: bool) -> None:
        """Say what is there (``present``) or was missed (``past``), then what happens."""
        self._follower = self.shelf.follow(self.tell)
        loop = asyncio.get_running_loop()
        self._timers.append(loop.call_later(timeout, self.finish))
        if self._faults.watches.cut_every is not None:
            self._timers.append(loop.call_later(self._faults.watches.cut_every, self.cut))
        if self._bookmarks:
            self._timers.append(loop.call_later(BOOKMARKS, self._bookmark))
            if timeout > 2 * LAST_BOOKMARK:
                self._timers.append(loop.call_later(timeout - LAST_BOOKMARK, self.bookmark))
        if self._is_deaf():
            return
        for entry in present:
            if self._here(entry.object) and self._match(entry.object):
                self._stream.send(line("ADDED", entry))
        if initial:
            self.bookmark(initial=True)
        self.tell(past)

    def _is_deaf(self) -> bool:
        """One that has not said something will never say anything again: its connection is dead, and only looks open."""
        self._has_died = self._has_died or self._faults.watches.deaf
        return self._has_died

    def _here(self, item: Json) -> bool:
        return not self._namespace or item["metadata"].get("namespace") == self._namespace

    def tell(self, changes: list[Change]) -> None:
        """Send what these changes are to this watch, in one piece."""
        if self._is_deaf():
            return
        shown: list[tuple[str, Entry]] = []
        for change in changes:
            if not self._namespace or change.key[0] == self._namespace:
                event = events(change, self._match)
                if event is not None:
                    shown.append(event)
        if shown:
            self._stream.send(b"".join(line(*event) for event in self._garbled(shown)))

    def _garbled(self, shown: list[tuple[str, Entry]]) -> list[tuple[str, Entry]]:
        """The events as the faults want them."""
        wrong, draw = self._faults.watches, self._faults.random.random
        if not (wrong.duplicate or wrong.stale or wrong.reorder):
            return shown
        result: list[tuple[str, Entry]] = []
        for event in shown:
            result.append(event)
            key = _key(event)
            before = self._shown.setdefault(key, [])
            if draw() < wrong.duplicate:
                result.append(event)
            if before and draw() < wrong.stale:
                result.append(before[-1])
            if len(result) > 1 and draw() < wrong.reorder and _key(result[-1]) != _key(result[-2]):
                result[-2:] = [result[-1], result[-2]]
            before[:] = [*before[-3:], event]
        return result

    def _bookmark(self) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(BOOKMARKS, self._bookmark))
        self.bookmark()

    def bookmark(self, *, initial: bool = False) -> None:
        """Say how far the watch has got."""
        if self._is_deaf():
            return
        kind = self.shelf.kind
        metadata: Json = {"resourceVersion": str(self._version())}
        if initial:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        item = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
        self._stream.send(line("BOOKMARK", Entry(item, 0)))

    def finish(self) -> None:
        """The time is up: a proper end, unless the watch is deaf."""
        if self.open and not self._is_deaf():
            self.leave()
            self._stream.end()

    def cut(self) -> None:
        """The connection breaks."""
        if self.open:
            self.leave()
            self._stream.cut()

    def leave(self) -> None:
        """Nobody listens any more."""
        self.open = False
        self.on_leave()
        for timer in self._timers:
            timer.cancel()
        if self._follower is not None:
            self._follower.stop()


def _key(event: tuple[str, Entry]) -> Key:
    metadata = event[1].object["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def line(word: str, entry: Entry) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (word.encode(), entry.raw)


def error_line(status: Json) -> bytes:
    return b'{"type":"ERROR","object":%b}\n' % msgspec.json.encode(status)
