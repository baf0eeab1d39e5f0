"""What the launcher knows of one of its servers. Shared by starting, watching and clearing away."""

from __future__ import annotations

import asyncio
import contextlib


class KnativeServer:
    """One server of ours, ordered or found. ``uid`` is that of its Knative Service, "" until that is created: pods of an
    older service of the same name are not its."""

    def __init__(self, name: str, cause: str, slice: str, node: str, uid: str = "") -> None:
        self.name = name
        self.cause = cause
        self.slice = slice
        self.node = node
        self.uid = uid
        self.seen = bool(uid)  # the mirror has shown its service
        self.launching = not uid
        self.may_have_secret = bool(uid)  # what another dispatcher has started may have one
        self.ready = self.stopping = False
        self.told = ("", "")  # phase and detail
        self.doubted: tuple[str, float] | None = None  # a failure that must stand for a while, and since when it does
        self.changed = asyncio.Event()

    @property
    def is_watched(self) -> bool:
        """Whether what becomes of it is told as it comes: nobody waits for it in a call."""
        return not (self.launching or self.stopping)

    async def wait(self, seconds: float) -> None:
        """Until something about it changes, or for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.changed.wait()
