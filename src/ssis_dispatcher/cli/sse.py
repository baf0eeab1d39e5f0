"""Server-sent events, as bytes arrive. Pure.

Lines end with LF, CR LF or CR and nothing else: JSON may contain U+2028 and U+0085, which Unicode-aware line splitters
take for line ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r(?!$))")


class Event(NamedTuple):
    """One event, or, with ``comment``, one comment line (which holds the connection open and says why)."""

    data: str = ""
    name: str = "message"
    comment: str | None = None


class EventStream:
    """Bytes in, events out. An event whose empty line never came is none, as the standard has it."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self._name = "message"

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield what ``data`` completes. A CR at the very end waits for the LF that may follow."""
        self._rest += data
        end = 0
        for found in _LINE.finditer(self._rest):
            end = found.end()
            yield from self._line(found[0].rstrip(b"\r\n").decode(errors="replace"))
        self._rest = self._rest[end:]

    def _line(self, line: str) -> Iterator[Event]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if self._data:
                yield Event("\n".join(self._data), self._name)
            self._data, self._name = [], "message"
        elif not field:
            yield Event(comment=value)
        elif field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
