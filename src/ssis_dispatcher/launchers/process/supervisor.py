"""The small program that stands between the dispatcher and one server, so that nothing of it is ever left behind.

Started by `child.Child` as a script, never imported by the dispatcher. Standard library only, and little of it: its start is
part of every cold start.

Theory of operation. It makes itself the subreaper, so every process of the server, also one that made itself a session of
its own, stays among its descendants until it is dead. It holds the read end of a pipe whose other end only the dispatcher
has; when that pipe closes, however the dispatcher ended, the server has `ORPHAN_GRACE` seconds and is then killed. It ends
when the last descendant has ended, so whoever sees it end knows that the slice is free.

::

    stdin   ←  the order (`Order`), then lines: "stop SECONDS", or "look" (at the memory in use, now); end of file means that
               the dispatcher is gone
    stdout  →  lines: "started PID" or "failed REASON"; "ready …" in the server's own words; "within", when it was to look
               and the server is within its bounds; at last "ended STATUS USED OVER": as from waitpid, most bytes in use as
               far as seen, and, where that was too much and it was killed for it, how much (else 0)
    stderr  →  what the server prints; it is handed on as the server's stdout and stderr
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import time

ORPHAN_GRACE = 2.0
"""Seconds that a server has to end after the dispatcher is gone. Nobody waits for its answers any more."""

LEFTOVER_GRACE = 1.0
"""Seconds that processes have which outlive the server's first one."""

CHECK_EVERY = 0.25
"""Seconds between two looks at the memory in use."""

SCAN_SHARE = 200
"""Looking for new processes takes a walk through /proc: at most one part in this many of the time."""

PREFERRED_VICTIM = "500"
"""``oom_score_adj`` of the server: the kernel takes it before the dispatcher and most else."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_READY_FD = 3
_libc = ctypes.CDLL(None, use_errno=True)


class Order:
    """What to start: ``argv`` and ``env``; whether it says itself when it is ready (a line on descriptor 3); and its bounds
    in bytes, each 0 for none: ``memory`` of all its processes together, ``data`` of each (RLIMIT_DATA). ``cgroup`` is the
    ``cgroup.procs`` file to enter, or "".

    On the wire: its length in bytes, a line feed, and these texts with NUL between them: says_ready, memory, data, cgroup,
    number of arguments, the arguments, ``NAME=value`` for each variable. No argument or variable can hold a NUL.
    """

    def __init__(self, text: str) -> None:
        says_ready, memory, data, self.cgroup, count, *rest = text.split("\0")
        self.says_ready = says_ready == "1"
        self.memory, self.data = int(memory), int(data)
        self.argv = rest[: int(count)]
        self.env = dict(pair.split("=", 1) for pair in rest[int(count) :])

    @staticmethod
    def read() -> Order:
        """From stdin. Ends the process when the dispatcher is gone already."""
        head = b""
        while not head.endswith(b"\n"):
            head += _read_or_exit(1)
        body = b""
        while len(body) < int(head):
            body += _read_or_exit(int(head) - len(body))
        return Order(os.fsdecode(body))


class Supervisor:
    """One server, from its start to the end of its last process."""

    def __init__(self, order: Order, woken: int) -> None:
        self._order = order
        self._woken = woken
        self._input = b""
        self._ready = b""
        self._status: int | None = None
        self._kill_at: float | None = None
        self._over = 0
        self._used = 0
        self._family: list[int] = []
        self._scan_at = 0.0
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)
        self._poll.register(woken, select.POLLIN)
        self._ready_fd, ready_end = os.pipe()
        self._child = _start(order, ready_end)
        os.close(ready_end)
        if order.says_ready:
            self._poll.register(self._ready_fd, select.POLLIN)

    def run(self) -> None:
        """Until the last process of the server has ended."""
        _say(f"started {self._child}")
        while not self._reap():
            self._act_on_time()
            for descriptor, _ in self._poll.poll(self._patience()):
                if descriptor == 0:
                    self._read_input()
                elif descriptor == self._ready_fd:
                    self._read_ready()
                else:
                    self._read_signals()
        _say(f"ended {self._status} {self._used} {self._over}")

    def _patience(self) -> float | None:
        """Milliseconds until something is to be done unasked."""
        waits = [CHECK_EVERY] if self._is_watched() else []
        if self._kill_at is not None:
            waits.append(max(0.0, self._kill_at - time.monotonic()) + 0.001)
        return min(waits) * 1000 if waits else None

    def _is_watched(self) -> bool:
        """Whether its memory is still to be looked at."""
        return bool(self._order.memory) and self._status is None and not self._over

    def _act_on_time(self) -> None:
        if self._is_watched():
            self._check_memory()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = time.monotonic() + 0.02  # again, for those that were born meanwhile
            _signal(descendants(), signal.SIGKILL)

    def _is_within_bounds(self) -> bool:
        """Look at its memory now, and not when it is time again."""
        if self._is_watched():
            self._check_memory()
        return not self._over

    def _check_memory(self) -> None:
        now = time.monotonic()
        if now >= self._scan_at:
            self._family = descendants()
            self._scan_at = now + SCAN_SHARE * (time.monotonic() - now)
        used = memory_of(self._family, self._order.memory)
        self._used = max(self._used, used)
        if used > self._order.memory:
            self._over = used
            self._end_within(0.0)

    def _end_within(self, seconds: float) -> None:
        """Kill all of it then, or before, where that was said already."""
        deadline = time.monotonic() + seconds
        self._kill_at = deadline if self._kill_at is None else min(self._kill_at, deadline)

    def _stop(self, grace: float) -> None:
        if self._status is None:
            _signal([self._child], signal.SIGTERM)
        self._end_within(grace)

    def _read_input(self) -> None:
        data = os.read(0, 4096)
        if not data:
            self._poll.unregister(0)
            _signal(descendants(), signal.SIGTERM)
            self._end_within(ORPHAN_GRACE)
            return
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            word, _, seconds = line.partition(b" ")
            if word == b"stop":
                self._stop(float(seconds))
            else:
                self._scan_at = 0.0
                if self._is_within_bounds():
                    _say("within")

    def _read_ready(self) -> None:
        data = os.read(self._ready_fd, 4096)
        self._ready += data
        line, end, _ = self._ready.partition(b"\n")
        if end and self._is_within_bounds():
            _say(f"ready {os.fsdecode(line)}")
        if end or not data:
            self._poll.unregister(self._ready_fd)

    def _read_signals(self) -> None:
        asked = set(os.read(self._woken, 64)) & {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
        if asked:
            self._stop(ORPHAN_GRACE)

    def _reap(self) -> bool:
        """Collect who has ended; whether all have. Then nobody is left: an orphan becomes a child of ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if not pid:
                return False
            if pid == self._child:
                self._status = status
                _signal(descendants(), signal.SIGTERM)
                self._end_within(LEFTOVER_GRACE)


def _start(order: Order, ready_end: int) -> int:
    """Start the server. Raises `OSError` when its program cannot be started."""
    error_read, error_write = os.pipe()
    child = os.fork()
    if not child:
        try:
            _become(order, ready_end)
        except BaseException as error:  # nothing may come back from here
            os.write(error_write, f"{getattr(error, 'strerror', None) or error}".encode())
        finally:
            os._exit(127)
    os.close(error_write)
    with open(error_read, "rb") as pipe:
        reason = pipe.read()  # closes unwritten when the program starts
    if reason:
        os.waitpid(child, 0)
        raise OSError(reason.decode())
    return child


def _become(order: Order, ready_end: int) -> None:
    """In the new process: all that must be so before the server's program starts."""
    os.setsid()
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        _write("/proc/self/oom_score_adj", PREFERRED_VICTIM)
    except OSError:  # a /proc that cannot be written: then it is as likely a victim as any
        pass
    if order.cgroup:
        _write(order.cgroup, "0")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump holds prompts
    if order.data:
        resource.setrlimit(resource.RLIMIT_DATA, (order.data, order.data))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    if order.says_ready:
        if ready_end != _READY_FD:
            os.dup2(ready_end, _READY_FD)
        os.set_inheritable(_READY_FD, True)
    os.execvpe(order.argv[0], order.argv, order.env)


def descendants() -> list[int]:
    """All processes below this one."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            # pid (name) state parent …; the name may hold anything, brackets too
            after_name = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if after_name:
                children.setdefault(int(after_name[1]), []).append(int(name))
    family = children.get(os.getpid(), [])
    for pid in family:  # grows while it is walked
        family.extend(children.get(pid, ()))
    return family


def memory_of(family: list[int], limit: int) -> int:
    """Bytes that the kernel cannot take back from these processes: anonymous and shared memory, not pages of files.

    Pages that several of them share are counted with each, which is quick, and once more with care if that goes over
    ``limit``.
    """
    quick = sum(_fields(f"/proc/{pid}/status", (b"RssAnon:", b"RssShmem:")) for pid in family)
    if quick <= limit or len(family) == 1:
        return quick
    fair = sum(_fields(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:")) for pid in family)
    return fair or quick


def _fields(path: str, names: tuple[bytes, ...]) -> int:
    """The sum of these fields, in bytes; 0 for a process that has ended."""
    return sum(int(line.split()[1]) * 1024 for line in _read(path).splitlines() if line.startswith(names))


def _read(path: str) -> bytes:
    """A file of /proc; empty when its process has ended."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:  # it has ended, or has made itself somebody else
            pass


def _say(line: str) -> None:
    """One line to the dispatcher, if it is still there."""
    try:
        os.write(1, os.fsencode(line) + b"\n")
    except BrokenPipeError:
        pass


def _read_or_exit(most: int) -> bytes:
    data = os.read(0, most)
    if not data:
        sys.exit(1)
    return data


def main() -> None:
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    order = Order.read()
    try:
        supervisor = Supervisor(order, woken)
    except OSError as error:
        _say(f"failed {error}")
    else:
        supervisor.run()


if __name__ == "__main__":
    main()
