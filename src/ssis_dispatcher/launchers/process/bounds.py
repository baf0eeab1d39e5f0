"""How a server is kept to its share of this machine's memory.

Two ways, the better one where it can be had: a control group (version 2) of its own, where the kernel counts and enforces;
else a limit on the private memory of each process (RLIMIT_DATA) together with the supervisor's look at all of them four
times a second. Called by `launcher`, and by ``ssis doctor`` through `detect`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

MIB = 1 << 20

STACK_BYTES = 8 * MIB
"""Address space that RLIMIT_DATA counts for a thread, whatever it uses of it."""

_SLACK = 256 * MIB
"""Address space that the runtime has without using it, threads of the engine's own included."""


class Bounds(msgspec.Struct, frozen=True):
    """For `child.Order`; bytes, 0 for none. ``cgroup`` is the server's own group, where it has one."""

    memory: int = 0
    data: int = 0
    cgroup: Path | None = None


class Bounder:
    """Makes bounds, and takes them away again. ``groups`` is the control group below which servers get theirs, None for the
    other way."""

    def __init__(self, groups: Path | None) -> None:
        self._groups = groups

    def describe(self) -> str:
        """Which way is used, for people."""
        if self._groups is not None:
            return f"control group v2 ({self._groups}): the kernel enforces memory.max"
        return "RLIMIT_DATA, and a look at the memory in use every 0.25 s (no control group v2 is delegated to us)"

    def make(self, server: str, share_mib: int, threads: int, embedded: bool) -> Bounds:
        """Bounds for ``server``. RLIMIT_DATA only for our own runtime: others reserve address space that they never use."""
        if self._groups is not None:
            with contextlib.suppress(OSError):
                return Bounds(cgroup=_make_group(self._groups / f"server-{os.getpid()}-{server}", share_mib * MIB))
        data = share_mib * MIB + _SLACK + threads * STACK_BYTES if embedded else 0
        return Bounds(share_mib * MIB, data)

    def exceeded(self, bounds: Bounds) -> bool:
        """Whether the kernel killed something of the server for memory."""
        return bounds.cgroup is not None and _events(bounds.cgroup).get("oom_kill", 0) > 0

    def remove(self, bounds: Bounds) -> None:
        """After the last process has ended."""
        if bounds.cgroup is not None:
            _remove_group(bounds.cgroup)

    def close(self) -> None:
        """After the last server."""
        if self._groups is not None:
            _leave_groups(self._groups)


def kernel_kills(root: Path = Path("/")) -> int:
    """How many processes the kernel has killed for memory since it started, on the whole machine."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def detect(root: Path = Path("/")) -> Bounder:
    """The best way on this machine, found out by trying. Undone by `Bounder.close`."""
    own = _own_group(root)
    if own is None or not _is_ours(own, root):
        return Bounder(None)
    try:
        _enter_groups(own)
    except OSError:
        _leave_groups(own)
        return Bounder(None)
    return Bounder(own)


def _own_group(root: Path) -> Path | None:
    """The version 2 group of this process, if the memory controller is there."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                group = root / "sys/fs/cgroup" / line[3:].lstrip("/")
                if "memory" in (group / "cgroup.controllers").read_text().split():
                    return group
    return None


def _is_ours(group: Path, root: Path) -> bool:
    """Whether it was given to us to divide. Root may write everywhere, but only what systemd has delegated, or a container's
    own top group, is left alone by others."""
    if not os.access(group / "cgroup.subtree_control", os.W_OK):
        return False
    if os.geteuid() != 0 or group == root / "sys/fs/cgroup":
        return True
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _enter_groups(own: Path) -> None:
    """Processes may only be in leaves: put ourselves into one, and let the others count memory. Raises `OSError` when that
    is not possible, as when strangers are in the group too."""
    with contextlib.suppress(FileExistsError):
        (own / "dispatcher").mkdir()
    (own / "dispatcher/cgroup.procs").write_text(str(os.getpid()))
    (own / "cgroup.subtree_control").write_text("+memory")
    for stale in own.glob("server-*"):
        _remove_group(stale)
    _remove_group(_make_group(own / "server-probe", 64 * MIB))


def _leave_groups(own: Path) -> None:
    """The other way round, as far as it goes."""
    for undo in (
        lambda: (own / "cgroup.subtree_control").write_text("-memory"),
        lambda: (own / "cgroup.procs").write_text(str(os.getpid())),
        lambda: (own / "dispatcher").rmdir(),
    ):
        with contextlib.suppress(OSError):
            undo()


def _make_group(group: Path, limit: int) -> Path:
    """A group of at most ``limit`` bytes, no swap, that dies as a whole."""
    group.mkdir(exist_ok=True)
    (group / "memory.max").write_text(str(limit))
    with contextlib.suppress(OSError):  # where swap is not accounted, there is no such file
        (group / "memory.swap.max").write_text("0")
    (group / "memory.oom.group").write_text("1")
    return group


def _remove_group(group: Path) -> None:
    with contextlib.suppress(OSError):  # somebody lives there
        group.rmdir()


def _events(group: Path) -> dict[str, int]:
    """``memory.events``: how often what happened."""
    with contextlib.suppress(OSError, ValueError):
        return {name: int(count) for name, count in map(str.split, (group / "memory.events").read_text().splitlines())}
    return {}
