"""Where models come from, and where they and what was learned are kept."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ssis_dispatcher.assembly.doctor.check import Check

if TYPE_CHECKING:
    from ssis_dispatcher.settings import Settings

GIB = 2**30

LITTLE_ROOM = 5 * GIB
"""About one 7B model at four bits."""

HUB_SECONDS = 3.0


def cache_dir(settings: Settings) -> Check:
    """Downloaded models: writable, with room for at least one."""
    return _folder("cache directory", settings.cache_dir, "cache_dir", LITTLE_ROOM)


def state_dir(settings: Settings) -> Check:
    """What launches taught: a few MiB."""
    return _folder("state directory", settings.state_dir, "state_dir", 2**24)


def _folder(name: str, path: Path, setting: str, room: int) -> Check:
    """Whether a file can be made there, or where the folder itself would be made."""
    variable = f"SSIS_{setting.upper()}"
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"x")
    except OSError as error:
        fix = f'mkdir -p {path} && chown "$USER" {path}, or name another folder with {variable}'
        return Check(name, False, f"nothing can be written in {nearest}: {error.strerror}", fix)
    free = shutil.disk_usage(nearest).free
    detail = f"{path}: {free / GIB:.1f} GiB free" + ("" if nearest == path else ", made when it is needed")
    if free < room:
        return Check(name, None, detail, f"ssis rm MODEL, or name a folder on a larger disk with {variable}")
    return Check(name, True, detail)


def hub(settings: Settings) -> Check:
    """Whether the hub answers. Without it everything works that is in the cache, so this is never a failure."""
    if settings.hub_offline:
        return Check("model hub", None, "not asked: hub_offline is set. Models in the cache are served")
    trouble = hub_trouble(settings)
    if not trouble:
        return Check("model hub", True, f"{settings.hub_endpoint} answers")
    fix = "check the network and HTTPS_PROXY, or set SSIS_HUB_OFFLINE=1"
    return Check("model hub", None, f"{settings.hub_endpoint}: {trouble}. Models in the cache are served", fix)


def hub_trouble(settings: Settings) -> str:
    """What goes wrong when the hub is asked, "" when it answers, and when it must not be asked."""
    if settings.hub_offline:
        return ""
    answers: list[str] = []
    # The name is resolved by the system, which may take longer than any time-out given here: hence a thread that can
    # be left behind.
    thread = threading.Thread(target=_ask, args=(settings.hub_endpoint, answers), name="hub", daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return answers[0] if answers else f"no answer within {HUB_SECONDS:.0f} s"


def _ask(endpoint: str, answers: list[str]) -> None:
    """Add what went wrong, or "" when anything at all was answered."""
    try:
        import httpx2

        httpx2.head(endpoint, timeout=HUB_SECONDS)
    except Exception as error:
        answers.append(f"{type(error).__name__} {error}".rstrip(" ."))
    else:
        answers.append("")
