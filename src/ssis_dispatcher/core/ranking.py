"""An order that can be asked for the first item which has enough."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

BLOCK = 64
"""Entries of a block that has just been halved."""

Key = tuple[float, float, int]
"""By what items are ordered. No two have the same: the last number is the item's own."""


class Amounts(NamedTuple):
    """What an item has: slices, thousandths of a core, MiB of memory."""

    slices: float
    cpu: float
    mib: float


T = TypeVar("T")
_Entry = tuple[Key, Amounts, T]


class _Block(Generic[T]):
    """Some entries in order, and of what they have the amounts that no other of them beats: who asks for more than each of
    those finds nothing here. What has left may be among them still, and the block is ``loose`` then."""

    __slots__ = ("best", "entries", "loose")

    def __init__(self, entries: list[_Entry[T]]) -> None:
        self.entries = entries
        self.tighten()

    def tighten(self) -> None:
        self.best: list[Amounts] = []
        self.loose = False
        for _, has, _ in self.entries:
            self.add(has)

    def add(self, has: Amounts) -> None:
        if self.may_have(*has):
            return
        slices, cpu, mib = has
        self.best = [each for each in self.best if each[0] > slices or each[1] > cpu or each[2] > mib]
        self.best.append(has)

    def may_have(self, slices: float, cpu: float, mib: float) -> bool:
        for best in self.best:  # noqa: SIM110, a generator costs twice as much
            if best[0] >= slices and best[1] >= cpu and best[2] >= mib:
                return True
        return False


class Ranking(Generic[T]):
    """Items by their keys, each with its amounts: ``place`` tells both, or None for an item that is not to be found.

    It is asked again for what has changed, and not before something is sought: many changes cost next to nothing.

    Items lie in blocks, and a block is passed over when nothing in it has enough. So a search looks at one block in `BLOCK`
    items, and into the one where the item is; entering and leaving look into one.
    """

    __slots__ = ("_blocks", "_changed", "_entries", "_lasts", "_place")

    def __init__(self, place: Callable[[T], tuple[Key, Amounts] | None]) -> None:
        self._place = place
        self._changed: dict[T, None] = {}
        self._entries: dict[T, _Entry[T]] = {}
        self._blocks: list[_Block[T]] = []
        self._lasts: list[Key] = []

    def __iter__(self) -> Iterator[T]:
        """All that are to be found, in order."""
        self._put_right()
        return (item for block in self._blocks for _, _, item in block.entries)

    def changed(self, item: T) -> None:
        """An item is new, or has another place."""
        self._changed[item] = None

    def drop(self, item: T) -> None:
        """An item is no more."""
        self._changed.pop(item, None)
        self._remove(item)

    def _put_right(self) -> None:
        if self._changed:
            for item in self._changed:
                self.look(item)
            self._changed.clear()

    def look(self, item: T) -> bool:
        """Put one item where it belongs now; whether it has been there."""
        place, known = self._place(item), self._entries.get(item)
        if place is None:
            self._remove(item)
            return known is None
        if known is not None:
            if known[:2] == place:
                return True
            self._remove(item)
        self._enter((*place, item))
        return False

    def _enter(self, entry: _Entry[T]) -> None:
        key, has, item = entry
        self._entries[item] = entry
        if not self._blocks:
            self._blocks.append(_Block([entry]))
            self._lasts.append(key)
            return
        at = min(bisect_left(self._lasts, key), len(self._blocks) - 1)
        block = self._blocks[at]
        block.entries.insert(bisect_left(block.entries, entry), entry)
        block.add(has)
        if len(block.entries) <= 2 * BLOCK:
            self._lasts[at] = block.entries[-1][0]
        else:
            self._replace(at, at + 1, block.entries)

    def _remove(self, item: T) -> None:
        entry = self._entries.pop(item, None)
        if entry is None:
            return
        at = bisect_left(self._lasts, entry[0])
        block = self._blocks[at]
        del block.entries[bisect_left(block.entries, entry)]
        block.loose = True
        if len(block.entries) >= BLOCK // 2:
            self._lasts[at] = block.entries[-1][0]
        else:  # it has become short, and is joined with the one beside it
            begin, end = (at - 1, at + 1) if at else (at, at + 2)
            self._replace(begin, end, [entry for block in self._blocks[begin:end] for entry in block.entries])

    def _replace(self, begin: int, end: int, entries: list[_Entry[T]]) -> None:
        """These blocks hold these entries now: none of them, one block, or two."""
        parts = [entries] if len(entries) <= 2 * BLOCK else [entries[:BLOCK], entries[BLOCK:]]
        self._blocks[begin:end] = [_Block(part) for part in parts if part]
        self._lasts[begin:end] = [part[-1][0] for part in parts if part]

    def first(self, slices: float, cpu: float, mib: float, after: Key | None = None) -> tuple[T, Key, Amounts] | None:
        """The first item, behind the key ``after``, that has so much of everything. -inf asks for nothing."""
        self._put_right()
        at = 0 if after is None else bisect_right(self._lasts, after)
        for block in self._blocks[at:] if at else self._blocks:
            if not block.may_have(slices, cpu, mib):
                continue
            for key, has, item in block.entries:
                if has[0] >= slices and has[1] >= cpu and has[2] >= mib and (after is None or key > after):
                    return item, key, has
            if block.loose:
                block.tighten()
        return None
