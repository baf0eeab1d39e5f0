"""L8, the soak: ``python -m bench.edge.soak --minutes 60``. Load with faults; nothing may grow, nothing may stay behind.

Requests and streams run all the time. Meanwhile the inference server is killed and comes back, or answers with garbage, with
too little, with half a stream, or not at all; callers leave while they wait and in the middle of streams, stop reading, send
half a head, or nonsense. Memory is sampled throughout; descriptors, tasks, threads and objects are counted after a warm-up
and at the end, each time with nothing going on.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import socket
import statistics
import struct
import time
from collections import Counter
from collections.abc import Sequence

from bench.edge import candidates, loads, workshop
from bench.edge.loads import Shot, chat
from bench.edge.processes import OTHER_CORE, on_core
from bench.edge.rig import Rig, rig
from bench.edge.rows import HEADER, row, told
from bench.edge.table import Row

STEADY = (("open", 200, loads.UNARY), ("open", 50, loads.SLOW), ("sse", 50, loads.PACED), ("sse", 2, loads.EAGER))
"""What runs all the time: how, how much, what."""

LAP = 10.0
"""Seconds from one kill of the inference server to the next."""

NONSENSE = (
    b"POST /v1/chat/completions HT",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a" * 100_000,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
)


class Soak:
    """One soak of ``r``, from warm-up to the last count."""

    def __init__(self, r: Rig) -> None:
        self.r = r
        self.memory: list[tuple[float, float]] = []
        self.done: Counter[str] = Counter()

    def run(self, seconds: float) -> list[Row]:
        """The rows of the scorecard."""
        self.trouble(max(30.0, seconds / 6))
        before = self.count()
        self.memory.clear()
        self.trouble(seconds)
        after = self.count()
        growth = {name: after[name] - before[name] for name in before}
        faults = sum(self.done.values()) - self.done["answers"]
        return [
            HEADER,
            row("L8", f"{self.done['answers']:,} answers, {faults:,} faults: memory, MiB/h", self.slope(), "≤", 1),
            *(
                row("L8", f"more {name} than before", growth[name], "≤", 2)
                for name in ("descriptors", "tasks", "threads")
            ),
            row("L8", f"more objects than before, of {before['objects']:,}", growth["objects"], "≤", 200),
            row("L8", "seats taken and requests held in the end", after["requests"], "≤", 0),
        ]

    def trouble(self, seconds: float) -> None:
        """Load and faults for so long, lap by lap; a lap ends with the inference server's death."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            steady = [self.r.load(mode, count, LAP, shot) for mode, count, shot in STEADY]
            end = time.monotonic() + LAP
            for fault in itertools.cycle(FAULTS):
                if time.monotonic() > end - 1:
                    break
                self.commit(fault)
                self.memory.append((time.monotonic(), self.r.process.rss()))
            self.r.restart_upstream()
            self.done["killed"] += 1
            for load in steady:
                report = load.report()
                self.done["answers"] += report.all_answers
            os.truncate(self.r.process.log, 0)  # an hour's access log is large

    def commit(self, fault: str) -> None:
        """One caller that does wrong, or one request that the server does wrong."""
        self.done[fault] += 1
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.r.port), 2.0) as caller:
            caller.settimeout(0.2)
            if fault == "nonsense":
                caller.sendall(NONSENSE[self.done[fault] % len(NONSENSE)])
                caller.recv(1000)
                return
            caller.sendall(REQUESTS[fault].raw(candidates.key()))
            if fault == "stops reading":
                time.sleep(0.5)
            elif fault != "leaves at once":
                caller.recv(1000)
            if self.done[fault] % 2:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leave by a reset

    def count(self) -> dict[str, int]:
        """What the dispatcher holds when nothing goes on: all callers gone, and the server's connections with it."""
        self.r.restart_upstream()
        loads.until_answered(self.r.port, candidates.key())
        self.r.restart_upstream()
        time.sleep(1.0)
        fleet = self.r.ask("/api/queue")["waiting"] + self.r.busy()
        self.r.process.signal(signal.SIGUSR2)
        self.r.wait(lambda: b'"tasks"' in self.r.process.log.read_bytes(), 10, "an answer to SIGUSR2")
        told = next(line for line in self.r.process.log.read_bytes().splitlines() if b'"tasks"' in line)
        os.truncate(self.r.process.log, 0)
        process = self.r.process
        own = {"descriptors": process.descriptors(), "threads": process.threads(), "requests": fleet}
        return own | {name: int(value) for name, value in json.loads(told).items()}

    def slope(self) -> float:
        """MiB per hour, by least squares over the samples."""
        times, sizes = zip(*self.memory, strict=True)
        return statistics.linear_regression(times, sizes).slope * 3600


REQUESTS: dict[str, Shot] = {
    "leaves a stream": loads.EAGER,
    "leaves at once": loads.SLOW,
    "stops reading": loads.ENDLESS,
    "no answer": chat("hang", "bench-hang"),
    "garbage": chat("garbage", "bench-garbage"),
    "short reply": chat("short", "bench-short"),
    "broken stream": chat("cut", "bench-cut", stream=True),
}
FAULTS = (*REQUESTS, "nonsense")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.edge.soak", description="Mixed load with faults.")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="without the warm-up [60]")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args(argv)
    with workshop.alone(), on_core(OTHER_CORE), rig() as r:
        soak = Soak(r)
        rows = soak.run(options.minutes * 60)
    code = told(rows, "soak", options.write, f"{options.minutes:g} minutes; ")
    print("", dict(soak.done), sep="\n")
    return code


if __name__ == "__main__":
    workshop.command(main)
