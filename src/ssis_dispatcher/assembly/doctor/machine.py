"""What the kernel and the hardware allow."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from ssis_dispatcher.assembly.doctor.check import Check

if TYPE_CHECKING:
    from ssis_dispatcher.settings import Settings

_OWN_FILES = 256
"""Open files besides connections: children's pipes, logs, caches."""

ROOT = Path("/")
"""Where /proc and /sys are found."""

OOM_SCORE = Path("/proc/self/oom_score_adj")


def open_files(settings: Settings) -> Check:
    """Every connection is an open file, and so is the one to its inference server. The dispatcher raises its own limit as
    far as the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * settings.max_connections + _OWN_FILES
    shown = "without limit" if hard == resource.RLIM_INFINITY else f"{hard} at most"
    detail = f"{shown} (now {soft}, raised by the dispatcher itself)"
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        return Check("open files", True, detail)
    fix = f"LimitNOFILE={wanted} in the systemd unit, `ulimit -Hn {wanted}` as root, or lower max_connections"
    return Check("open files", None, f"{detail}; {settings.max_connections} connections need {wanted}", fix)


def oom_score(settings: Settings) -> Check:
    """When memory runs out the kernel should end a model's server, never the dispatcher. Writes the value that is there."""
    try:
        OOM_SCORE.write_text(OOM_SCORE.read_text())
    except OSError as error:
        detail = f"{OOM_SCORE}: {error.strerror}; when memory runs out the kernel may end the dispatcher itself"
        return Check("oom score", None, detail, "run where /proc is mounted and writable")
    return Check("oom score", True, "servers are ended before the dispatcher when memory runs out")


def memory_limits(settings: Settings) -> Check:
    """How a server would be kept to its share of this machine's memory. Finding out means dividing our control group for
    a moment, which would undo what a dispatcher in the same group has done: then it is not tried."""
    from ssis_dispatcher.launchers.process.bounds import detect

    if _divided():
        return Check("memory limits", None, "not tried: a dispatcher runs in this control group, and its log tells")
    bounder = detect(ROOT)
    try:
        way = bounder.describe()
    finally:
        bounder.close()
    if "RLIMIT_DATA" not in way:
        return Check("memory limits", True, way)
    systemd = (ROOT / "run/systemd/system").is_dir()
    user = "" if os.geteuid() == 0 else "--user "
    return Check("memory limits", None, way, f"systemd-run {user}--scope -p Delegate=yes ssis serve" if systemd else "")


def _divided() -> bool:
    """Whether the groups below our own are given memory limits already."""
    try:
        lines = (ROOT / "proc/self/cgroup").read_text().splitlines()
        own = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
        return "memory" in (ROOT / "sys/fs/cgroup" / own / "cgroup.subtree_control").read_text().split()
    except (OSError, StopIteration):
        return False
