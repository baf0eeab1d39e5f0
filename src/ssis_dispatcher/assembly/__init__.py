"""Builds the program from `Settings`, owns its start and its stop, and does what the command line does without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssis_dispatcher.assembly.doctor import Check
from ssis_dispatcher.assembly.doctor import doctor as diagnose
from ssis_dispatcher.assembly.offline import cached, local_pools, plan_offline, pull, remove

if TYPE_CHECKING:
    from collections.abc import Callable

    from ssis_dispatcher.assembly.passage import Passage
    from ssis_dispatcher.settings import Settings

__all__ = [
    "Check",
    "cached",
    "diagnose",
    "diagnose_cluster",
    "find_passage",
    "local_pools",
    "plan_offline",
    "pull",
    "remove",
    "serve",
]


def serve(settings: Settings, *, ready: Callable[[str], None] | None = None) -> int:
    """Run the dispatcher until SIGINT or SIGTERM; the exit code.

    ``ready`` is called once, with the URL, when it listens. Raises `OSError` when it cannot listen, `DispatchError` when
    the settings cannot work together.
    """
    from ssis_dispatcher.assembly.running import run

    return run(settings, ready)


def find_passage(settings: Settings) -> Passage:
    """The way to the dispatcher in a cluster, through its API server. Raises `DispatchError`, which says what is missing."""
    from ssis_dispatcher.assembly import passage

    return passage.find_passage(settings)


def diagnose_cluster(settings: Settings) -> list[Check]:
    """Look at everything that a dispatcher needs of a cluster. Never raises; takes some seconds."""
    from ssis_dispatcher.assembly.doctor.cluster import doctor

    return doctor(settings)
