"""The dispatcher in front of the fake inference server, both running: what the scorecard and the soak work on."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.edge import candidates, loads, workshop
from bench.edge.loads import Load
from bench.edge.processes import PROXY_CORE, Process


class Rig:
    """The dispatcher in front of the fake server, both running."""

    def __init__(self, process: Process, port: int, upstream_port: int, upstream: Process) -> None:
        self.process = process
        self.port = port
        self.upstream_port = upstream_port
        self.upstream = upstream

    def load(self, mode: str, count: int, seconds: float, shot: loads.Shot, status: int = 200) -> Load:
        return Load(mode, self.port, count, seconds, shot, candidates.key(), status)

    def ask(self, path: str) -> Any:
        """The answer of one of the operations routes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {candidates.key()}"})
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def restart_upstream(self) -> None:
        """Kill the fake server, and let it come back at the same port after a moment."""
        self.upstream.signal(signal.SIGKILL)
        self.upstream.stop()
        time.sleep(0.2)
        self.upstream, _ = loads.upstream(self.upstream_port)

    def busy(self) -> int:
        """Seats that are taken."""
        return sum(server["busy"] for server in self.ask("/api/servers")["servers"])

    def wait(self, fact: Callable[[], bool], within: float, what: str) -> float:
        """Seconds until ``fact`` is true. Raises `RuntimeError`."""
        begun = time.monotonic()
        while time.monotonic() - begun < within:
            if fact():
                return time.monotonic() - begun
            time.sleep(0.02)
        raise RuntimeError(f"not within {within:g} s: {what}")


@contextlib.contextmanager
def rig(*more: str, warm: bool = True) -> Iterator[Rig]:
    """A rig whose dispatcher has these options; where it is ``warm``, it has answered a request."""
    upstream, upstream_port = loads.upstream()
    port = workshop.free_port()
    command = candidates.ours(port, upstream_port, *more)
    with Process(command.argv, PROXY_CORE, workshop.WORK / "ours.log") as process:
        r = Rig(process, port, upstream_port, upstream)
        try:
            process.wait_until_listening(port)
            if warm:
                loads.until_answered(port, candidates.key())
            yield r
        finally:
            r.upstream.stop()
