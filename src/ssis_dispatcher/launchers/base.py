"""The Launcher protocol: all that the dispatcher asks of a platform.

A launcher decides nothing. It carries out what it is told, tells the truth about what happened, and never raises
anything but `LaunchFailed` for reasons that lie in the platform. ``tests/launchers/test_contract.py`` holds every
launcher to this page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ssis_dispatcher.core.messages import AnyEvent, Failure, FailureKind, Launch, ServerReady
from ssis_dispatcher.errors import CallerError, DispatchError

Report = Callable[[AnyEvent], None]


class LaunchFailed(Exception):
    """A launch came to nothing, and whatever it had taken is free again."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure

    @staticmethod
    def of(error: DispatchError) -> LaunchFailed:
        """For a model whose source cannot be told: what the caller must mend, no other start of it mends."""
        kind = FailureKind.MISCONFIGURED if isinstance(error, CallerError) else FailureKind.CRASHED
        return LaunchFailed(Failure(kind, error.problem.message))


class Launcher(Protocol):
    """One platform."""

    name: str

    async def watch(self, report: Report) -> None:
        """Report what is there, then everything that happens by itself. Runs until cancelled, and may be begun anew.

        First `ServerAdopted` for every server of ours that runs already, and only then `InventoryChanged`: with that the
        fleet begins to launch, and what it does not know by then it starts a second time. An address of None means that the
        server is still starting; `ServerReady`, `ServerFailed` and `ServerPlaced` then follow from here, as they do from
        `launch` for others. What was reported before may be reported again.

        Afterwards: changes of the inventory, of all nodes or of those that changed, without what our own servers hold of
        slices, CPU and memory; `ServerFailed` for servers whose launch had already succeeded, once each; and `HandsTied`
        while nothing can be started, stopped or seen."""

    async def launch(self, order: Launch, report: Report) -> ServerReady:
        """Start a server and return when it can answer. Phases go to ``report`` as `ServerProgressed`, and the node as
        `ServerPlaced` where the platform chooses it: always for an order on `core.slices.PENDING`, and whenever it is not
        the one of the order. Raises `LaunchFailed`. Cancelling it leaves the server to `stop`."""

    async def stop(self, server: str, grace: float) -> None:
        """Stop a server, starting or running: let it finish what it has for ``grace`` seconds, then by force. Returns
        when its slice is free; unknown servers are already stopped."""

    async def logs(self, server: str) -> list[str]:
        """The last lines the server printed, redacted, oldest first; also after it failed. Empty when unknown."""

    async def close(self) -> None:
        """Let go of the platform. Servers that cannot outlive the dispatcher are stopped."""
