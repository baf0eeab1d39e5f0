"""Heads that come again.

A program that calls us says the same head with every request, but for the length of the body; an inference server does so
with its replies. What llhttp has read once, and what was found good, need not be read again when the same bytes come: they
cannot mean anything else. So each connection remembers its last head as a `Known`, and asks it first.

Only a message that comes in one piece, with a body exactly as long as it says, and with nothing before or behind it, is
taken this way. Everything else goes through the parser.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

_DIGITS = 9
"""As many as a length has at most: a gigabyte less one."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})\r\n", re.IGNORECASE)

_LARGEST = 2048
"""Bytes of a head beyond which it is not remembered."""

_MOST = 1024
"""Heads that are remembered in all."""


class Known(Generic[T]):
    """The bytes of one head before and after the digits of its Content-Length, and the ``head`` that was read there."""

    __slots__ = ("_after", "_before", "_reach", "_rest", "_start", "head")

    def __init__(self, before: bytes, after: bytes, head: T) -> None:
        self._before = before
        self._after = after
        self._start = len(before)
        self._rest = len(after)
        self._reach = self._start + _DIGITS + len(after)
        self.head = head

    def body_at(self, data: bytes) -> int:
        """Where the body begins, if ``data`` is a message with this head, whole, and nothing else; else 0."""
        if not data.startswith(self._before):
            return 0
        start = self._start
        end = data.find(self._after, start, self._reach)
        at = end + self._rest
        return at if end > 0 and data[start:end] == b"%d" % (len(data) - at) else 0


class Memory(Generic[T]):
    """All heads that are remembered, so that a thousand connections of one program share one."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes, Hashable], Known[T]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def keep(self, data: bytes, length: int, head: T, whose: Hashable) -> Known[T] | None:
        """Remember ``head``, which was read from ``data``, if that is all of a message with a body of ``length`` bytes.
        ``whose``: heads are shared only where this is equal."""
        end = data.find(b"\r\n\r\n") + 4
        if len(data) - end != length or end > _LARGEST:
            return None
        found = _LENGTH.search(data, 0, end)
        if found is None or int(found[1]) != length:
            return None
        before, after = data[: found.start(1)], data[found.end(1) : end]
        known = self._known.get((before, after, whose))
        if known is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            known = self._known[before, after, whose] = Known(before, after, head)
        return known
