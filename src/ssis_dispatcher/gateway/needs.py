"""What a caller must be allowed to do before a route runs. Every route of the gateway states it, inference and operations.

The door asks a `NeedTable` before any body byte is read; a test generated from the same tables proves that nothing opens
without a key.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from starlette.routing import compile_path


class Need(Enum):
    """``PUBLIC``: anybody, without a key. The others are the roles of a key, as `Key.demand` takes them; a higher one
    includes the lower."""

    PUBLIC = "public"
    USE = "use"
    OPERATE = "operate"
    ADMIN = "admin"


class Stated(NamedTuple):
    """One route and method with its need; ``path`` is a template (``/api/servers/{id}``)."""

    path: str
    method: str
    need: Need


class NeedTable:
    """Finds the need of a request. Templates are matched by the same expressions as in Starlette's router, so that the
    two can never disagree about which route a path means; the first one that matches counts, as there."""

    def __init__(self, stated: Iterable[Stated]) -> None:
        stated = tuple(stated)
        self._exact = {(row.method, row.path): row.need for row in stated if "{" not in row.path}
        self._patterns = [(row.method, compile_path(row.path)[0], row.need) for row in stated]

    def of(self, method: str, path: str) -> Need | None:
        """The need of ``method`` on ``path`` (percent-decoded, without the query); None where there is no such route, and
        so nothing would run."""
        need = self._exact.get((method, path))
        if need is not None:
            return need
        for known, pattern, need in self._patterns:
            if known == method and pattern.match(path):
                return need
        return None
