"""Blocking calls beside the event loop, a bounded number at once, in threads that never keep the process from ending.

The standard library's executor joins its threads at exit: a download from a hub that fell silent would hold up a dispatcher
that was told to stop. Used by `ssis_dispatcher.models.directory`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """At most ``most`` calls at once; others wait their turn, on the loop."""

    def __init__(self, most: int, name: str) -> None:
        self._name = name
        self._free = asyncio.Semaphore(most)

    async def run(self, call: Callable[[], T], unwanted: Callable[[T], None] | None = None) -> T:
        """The result of ``call``, made in a thread. When the caller is cancelled meanwhile, the call goes on, keeps its
        place, and what it returns is handed to ``unwanted``."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def succeeded(result: T) -> None:
            self._free.release()
            if not answer.cancelled():
                answer.set_result(result)
            elif unwanted is not None:
                unwanted(result)

        def failed(error: BaseException) -> None:
            self._free.release()
            if not answer.cancelled():
                answer.set_exception(error)

        def work() -> None:
            try:
                result = call()
            except BaseException as error:
                _tell(loop, failed, error)
            else:
                if not _tell(loop, succeeded, result) and unwanted is not None:
                    unwanted(result)

        try:
            threading.Thread(target=work, name=self._name, daemon=True).start()
        except RuntimeError:  # no more threads
            self._free.release()
            raise
        return await answer


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[T], None], argument: T) -> bool:
    """Have ``loop`` make a call; False when it is closed and nobody waits any more."""
    try:
        loop.call_soon_threadsafe(call, argument)
    except RuntimeError:
        return False
    return True
