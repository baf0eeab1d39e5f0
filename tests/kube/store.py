"""Where the objects are: one shelf per resource, each with its history, one count of versions over all of them.

Objects on a shelf are never changed in place: a write puts a new one there. Whoever wants to change one takes a `copy`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from tests.kube.kinds import Kind

Json = dict[str, Any]
Key = tuple[str, str]
"""(namespace, name); the namespace is empty for what lies in none."""


class Entry:
    """One state of one object. Its JSON is made once, however many lists and watches send it."""

    __slots__ = ("_raw", "object", "version")

    def __init__(self, item: Json, version: int) -> None:
        self.object = item
        self.version = version
        self._raw: bytes | None = None

    @property
    def raw(self) -> bytes:
        if self._raw is None:
            self._raw = msgspec.json.encode(self.object)
        return self._raw

    def copy(self) -> Json:
        """One of your own, to change."""
        mine: Json = msgspec.json.decode(self.raw)
        return mine


class Change:
    """Something that happened to an object: ``old`` is None when it came, ``new`` is None when it went."""

    __slots__ = ("key", "last", "new", "old", "version")

    def __init__(self, key: Key, old: Entry | None, new: Entry | None, last: Entry, version: int) -> None:
        self.key = key
        self.old = old
        self.new = new
        self.last = last
        """What a watch shows: the new state, or the one it had when it went, under the version of its going."""
        self.version = version


class Follower:
    """Somebody who is told of every change of a shelf."""

    def __init__(self, shelf: Shelf, read: Callable[[list[Change]], None]) -> None:
        self.read = read
        self.unread: list[Change] = []
        self.gone = False
        self._shelf = shelf

    def stop(self) -> None:
        self.gone = True
        self._shelf.leave(self)


class Shelf:
    """The objects of one resource and what happened to them lately."""

    def __init__(self, kind: Kind, history: int) -> None:
        self.kind = kind
        self.objects: dict[Key, Entry] = {}
        self.changes: list[Change] = []
        self.oldest = 0
        """The version of the newest change that is forgotten: who saw nothing newer than this has missed something."""
        self._history = history
        self._followers: list[Follower] = []
        self._waking = False

    def since(self, version: int) -> list[Change]:
        """What happened after ``version``; complete only if ``version`` is not older than `oldest`."""
        return self.changes[bisect_right(self.changes, version, key=lambda change: change.version) :]

    def forget(self, keep: int, version: int | None = None) -> None:
        """Drop all but the ``keep`` newest changes. With ``version``, say that everything up to it is forgotten."""
        drop = max(0, len(self.changes) - keep)
        if drop:
            self.oldest = self.changes[drop - 1].version
            del self.changes[:drop]
        if version is not None:
            self.oldest = max(self.oldest, version)

    def record(self, change: Change) -> None:
        if change.new is None:
            del self.objects[change.key]
        else:
            self.objects[change.key] = change.new
        self.changes.append(change)
        if len(self.changes) >= 2 * self._history:
            self.forget(self._history)
        for follower in self._followers:
            follower.unread.append(change)
        if self._followers and not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = False
        for follower in list(self._followers):
            changes, follower.unread = follower.unread, []
            if changes and not follower.gone:
                follower.read(changes)

    def follow(self, read: Callable[[list[Change]], None]) -> Follower:
        """Have ``read`` called with what happens from now on: all of it, in order, soon after, many changes at once."""
        follower = Follower(self, read)
        self._followers.append(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        if follower in self._followers:
            self._followers.remove(follower)

    def sorted(self, namespace: str = "") -> list[Entry]:
        keys = sorted(key for key in self.objects if not namespace or key[0] == namespace)
        return [self.objects[key] for key in keys]


class Store:
    """All shelves."""

    def __init__(self, kinds: tuple[Kind, ...], history: int) -> None:
        self.version = 1
        self.shelves: dict[tuple[str, str], Shelf] = {}
        self._history = history
        for kind in kinds:
            self.define(kind)

    def define(self, kind: Kind) -> None:
        self.shelves[kind.group, kind.plural] = Shelf(kind, self._history)

    def shelf(self, kind: Kind) -> Shelf:
        return self.shelves[kind.group, kind.plural]

    def __iter__(self) -> Iterator[Shelf]:
        return iter(self.shelves.values())

    def find(self, kind: Kind, name: str, namespace: str = "") -> Entry | None:
        return self.shelf(kind).objects.get((namespace if kind.namespaced else "", name))

    def put(self, kind: Kind, item: Json) -> Entry:
        """Store a new state of an object, which is the store's from now on."""
        shelf = self.shelf(kind)
        key = key_of(kind, item)
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        entry = Entry(item, self.version)
        shelf.record(Change(key, shelf.objects.get(key), entry, entry, self.version))
        return entry

    def remove(self, kind: Kind, key: Key, **marks: Any) -> Entry:
        """Take an object away; ``marks`` are put into the metadata of what watches are shown as its last state."""
        shelf = self.shelf(kind)
        old = shelf.objects[key]
        self.version += 1
        metadata = old.object["metadata"] | marks | {"resourceVersion": str(self.version)}
        last = Entry(old.object | {"metadata": metadata}, self.version)
        shelf.record(Change(key, old, None, last, self.version))
        return last

    def compact(self) -> None:
        """Forget all history, as etcd does every five minutes with what is older than that."""
        for shelf in self:
            shelf.forget(0, self.version)


def key_of(kind: Kind, item: Json) -> Key:
    metadata = item["metadata"]
    return (metadata["namespace"] if kind.namespaced else "", metadata["name"])
