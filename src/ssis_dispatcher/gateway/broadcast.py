"""What happens, told to whoever listens: fleet events as server-sent events, for `/api/events` and the dashboard.

A `Broadcast` is the dispatcher's ``Recorder``. Nobody who listens can hold it up: a listener that falls behind is dropped and
told so. Without listeners an event costs one look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import get_args

import msgspec

from ssis_dispatcher.core.messages import AnyEvent, Event, Recorded, encode
from ssis_dispatcher.errors import Unavailable

KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(AnyEvent)}
"""The events that there are, by name."""


class Broadcast:
    """``most`` listeners at once, each at most ``backlog`` events behind. ``listens`` while there are any."""

    def __init__(self, most: int = 32, backlog: int = 1_000) -> None:
        self._most = most
        self._backlog = backlog
        self._listeners: dict[Subscription, None] = {}
        self.listens = False

    def __call__(self, now: float, event: AnyEvent) -> None:
        """Tell everybody that the fleet is told ``event`` at ``now`` (seconds of the loop's clock)."""
        frame = b""
        for listener in tuple(self._listeners):
            if listener.wants(event):
                frame = frame or _frame(type(event).__name__, encode(Recorded(now, event)))
                listener.offer(frame)

    def subscribe(self, only: frozenset[type[Event]] = frozenset()) -> Subscription:
        """Listen from now on, to these kinds of event or to all. Raises `Unavailable` when too many listen."""
        if len(self._listeners) >= self._most:
            raise Unavailable(
                f"{self._most} clients follow the events, the most there may be. Close one of them.", retry_after=10.0
            )
        listener = Subscription(only, self._backlog, self._forget)
        self._listeners[listener] = None
        self.listens = True
        return listener

    def close(self) -> None:
        """End every stream: a drain would wait for them for ever."""
        for listener in tuple(self._listeners):
            listener.end("closed", "The dispatcher is shutting down.")

    def __len__(self) -> int:
        return len(self._listeners)

    def _forget(self, listener: Subscription) -> None:
        self._listeners.pop(listener, None)
        self.listens = bool(self._listeners)


class Subscription:
    """One listener. A context manager: it listens until the block is left, or until it was ended."""

    def __init__(self, only: frozenset[type[Event]], backlog: int, forget: Callable[[Subscription], None]) -> None:
        self._only = only
        self._backlog = backlog
        self._forget = forget
        self._frames: list[bytes] = []
        self._news = asyncio.Event()
        self._ended = False

    def wants(self, event: AnyEvent) -> bool:
        """Whether this listener asked for events of that kind."""
        return not self._only or type(event) in self._only

    def offer(self, frame: bytes) -> None:
        """Put one event in line. A listener that is too far behind loses what it has not read."""
        if len(self._frames) >= self._backlog:
            missed = len(self._frames) + 1
            self._frames.clear()
            self.end("dropped", f"This client reads too slowly: {missed} events are lost. Connect again.")
            return
        self._frames.append(frame)
        self._news.set()

    def end(self, name: str, detail: str) -> None:
        """Say a last word, and stop listening."""
        if not self._ended:
            self._ended = True
            self._frames.append(_frame(name, msgspec.json.encode({"detail": detail})))
            self.close()

    def close(self) -> None:
        """Stop listening; `read` gives what is left, then the end."""
        self._ended = True
        self._forget(self)
        self._news.set()

    async def read(self) -> bytes:
        """Wait for what happened since the last call, as bytes of an event stream; empty at the end."""
        while not self._frames and not self._ended:
            self._news.clear()
            await self._news.wait()
        chunk = b"".join(self._frames)
        self._frames.clear()
        return chunk

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _frame(name: str, data: bytes) -> bytes:
    """One server-sent event; JSON from msgspec has no line breaks."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
