"""Follows one request beside whatever waits for it."""

from __future__ import annotations

import threading
from types import TracebackType

from ssis_dispatcher.cli.client import Client, NotThere, segment
from ssis_dispatcher.cli.failures import Failure
from ssis_dispatcher.cli.screen import Screen, in_words

_EVERY = 0.25


class Watch:
    """A thread that shows on ``screen`` where the request ``id`` stands, until the block is left.

    It first looks after a quarter of a second, so that a warm answer is never watched. It is a courtesy: when looking
    fails (the key may not), it stops, and `hint` takes over; the request goes on.
    """

    def __init__(self, client: Client, id: str, screen: Screen) -> None:
        self._client = client
        self._path = f"/api/requests/{segment(id)}"
        self._screen = screen
        self._over = threading.Event()
        self._blind = False
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Show nothing more. Does not wait for a look that is under way: what it brings is dropped."""
        with self._lock:
            self._over.set()
            self._screen.clear()

    def hint(self, words: str) -> None:
        """What the waiting stream itself says, shown where looking does not work."""
        if self._blind:
            self._show(words, words)

    def _show(self, name: str, words: str) -> None:
        with self._lock:
            if not self._over.is_set():
                self._screen.phase(name, words)

    def _run(self) -> None:
        while not self._over.wait(_EVERY):
            try:
                request = self._client.get(self._path)
            except NotThere:  # not there yet, or seated: the answer itself will tell
                continue
            except Failure:
                self._blind = True
                return
            except Exception:
                if self._over.is_set():  # the client was closed under this look
                    return
                raise
            if request.get("state") != "seated":
                self._show(str(request.get("phase")), in_words(request))
