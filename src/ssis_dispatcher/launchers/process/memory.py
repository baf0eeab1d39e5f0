"""How much of this machine's memory servers may have, seen from inside a container too. Called by `inventory` and doctor."""

from __future__ import annotations

import os
from pathlib import Path

MIB = 1 << 20

_UNLIMITED = 1 << 60
"""Control groups of version 1 write a number near 2⁶³ where nothing is limited."""


def usable_mib(reserve_mib: int, root: Path = Path("/")) -> int:
    """MiB that servers may have together: what is available now, or what the container's limit leaves if that is less,
    without ``reserve_mib`` for the system and the dispatcher; on a small machine the reserve is at most half.

    ``root`` is where /proc and /sys are found.
    """
    available = min(_meminfo(root, "MemAvailable:"), _left_in_groups(root)) // MIB
    return max(0, available - min(reserve_mib, available // 2))


def total_mib(root: Path = Path("/")) -> int:
    """MiB of this machine's memory."""
    return _meminfo(root, "MemTotal:") // MIB


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _meminfo(root: Path, field: str) -> int:
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def _left_in_groups(root: Path) -> int:
    """Bytes that the tightest control group above this process leaves it."""
    left = _UNLIMITED
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            left = min(left, _left_below(root / "sys/fs/cgroup", path, "memory.max", "memory.current"))
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            left = min(left, _left_below(mount, path, "memory.limit_in_bytes", "memory.usage_in_bytes"))
    return left


def _left_below(mount: Path, path: str, limit: str, used: str) -> int:
    """The least that any group from ``path`` up to ``mount`` leaves. In a container the path may not be there: then the
    mount is its own group."""
    folder = mount / path.lstrip("/")
    if not folder.is_dir():
        folder = mount
    left = _UNLIMITED
    while True:
        most, now = _number(folder / limit), _number(folder / used)
        if most is not None and most < _UNLIMITED:
            left = min(left, max(0, most - (now or 0) + _cache(folder)))
        if folder == mount:
            return left
        folder = folder.parent


def _cache(folder: Path) -> int:
    """Bytes of files that the group's use counts, and that the kernel gives back when they are needed."""
    for line in _read(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
