"""`ssis doctor`: what works on this machine, what is missing, and the command that fixes it.

Every check looks by itself, changes nothing that it does not undo, and ends within seconds. Called by the command line;
what is checked may be missing, so nothing beyond the standard library is imported before it is looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ssis_dispatcher.assembly.doctor import gpus, listening, machine, places, runtime
from ssis_dispatcher.assembly.doctor.check import Check

if TYPE_CHECKING:
    from ssis_dispatcher.settings import Settings

__all__ = ["Check", "doctor"]

Look = Callable[["Settings"], Check]

_LOOKS: tuple[tuple[str, Look], ...] = (
    ("python", runtime.python),
    ("httptools", runtime.httptools),
    ("uvloop", runtime.uvloop),
    ("libgomp", runtime.libgomp),
    ("xllamacpp", runtime.xllamacpp),
    ("demo model", runtime.demo_model),
    ("port", listening.port),
    ("keys", listening.keys),
    ("cache directory", places.cache_dir),
    ("state directory", places.state_dir),
    ("model hub", places.hub),
    ("open files", machine.open_files),
    ("memory limits", machine.memory_limits),
    ("oom score", machine.oom_score),
    ("gpus", gpus.gpus),
)


def doctor(settings: Settings) -> list[Check]:
    """Look at everything that a dispatcher with these settings would need. Never raises; takes some seconds."""
    return [_examined(name, look, settings) for name, look in _LOOKS]


def _examined(name: str, look: Look, settings: Settings) -> Check:
    try:
        return look(settings)
    except Exception as error:
        # One look that fails must not hide the others: this is read when things are broken.
        return Check(name, None, f"could not be looked at: {type(error).__name__}: {error}")
