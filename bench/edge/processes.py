"""Processes under measurement: pinned to a core, watched from outside, ended with their whole session."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PROXY_CORE, OTHER_CORE = 0, 1
_TICKS = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started inside runs on ``core`` alone (where there is more than one)."""
    before = os.sched_getaffinity(0)
    if core in before or core < (os.cpu_count() or 1):
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A program that was started on ``core``, in a session of its own; its output goes to the file ``log``."""

    def __init__(
        self, command: Sequence[str | Path], core: int, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self.began = time.monotonic()
        log.unlink(missing_ok=True)
        with on_core(core), log.open("ab") as output:  # appending, so that it may be emptied meanwhile
            self._child = subprocess.Popen(
                [str(part) for part in command],
                env=os.environ | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._child.pid

    def wait_until_listening(self, port: int, within: float = 60.0) -> float:
        """Seconds from the start until somebody listens on ``port``. Raises `RuntimeError` when it ends instead."""
        while time.monotonic() - self.began < within:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                return time.monotonic() - self.began
            if self._child.poll() is not None:
                break
            time.sleep(0.002)
        raise RuntimeError(f"did not begin to listen; see {self.log}")

    def signal(self, number: int) -> None:
        self._child.send_signal(number)

    def cpu(self) -> float:
        """Seconds of processor time so far, of all its processes and threads."""
        return sum(sum(_times(pid)) for pid in self.tree())

    def kernel(self) -> float:
        """How much of `cpu` was spent in the kernel."""
        return sum(_times(pid)[1] for pid in self.tree())

    def rss(self) -> float:
        """MiB of resident memory, of all its processes."""
        return sum(_field(pid, "VmRSS") for pid in self.tree()) / 1024

    def threads(self) -> int:
        return sum(_field(pid, "Threads") for pid in self.tree())

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def tree(self) -> list[int]:
        """The process and all that it started."""
        found, todo = [], [self.pid]
        while todo:
            found.append(todo.pop())
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{found[-1]}/task").iterdir():
                    todo += map(int, (task / "children").read_text().split())
        return found

    def stop(self) -> None:
        """End it and everything in its session: politely, after 5 s by force."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(5.0)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def machine_cpu() -> float:
    """Seconds of processor time that the whole machine has used, idle time left out."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, *rest = map(int, file.readline().split()[1:])
    return (user + nice + system + sum(rest[:3])) / _TICKS


def _times(pid: int) -> tuple[float, float]:
    """utime and stime of proc(5)'s stat in seconds, which count all threads; the name before them may hold spaces."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) / _TICKS, int(fields[12]) / _TICKS
    return 0.0, 0.0


def _field(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0
