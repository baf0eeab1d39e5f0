"""The scorecard's rows under full load: ``python -m bench.edge.scorecard`` (about three minutes).

L1 held while cold, L2 beyond the bound, L3 added latency, L4 step burst, L5 streams, L6 slow reader. Their functional forms,
without a clock, are tests.
"""

from __future__ import annotations

import argparse
import resource
import signal
import socket
import time
from collections.abc import Callable, Sequence

from bench.edge import candidates, loads, rows, workshop
from bench.edge.loads import Load
from bench.edge.processes import OTHER_CORE, on_core
from bench.edge.rig import rig
from bench.edge.rows import row
from bench.edge.table import Row, number


def canary(options: argparse.Namespace) -> list[Row]:
    """The machine without the dispatcher: where this is bad, so is all that follows."""
    upstream, port = loads.upstream()
    with upstream:
        unary = Load("closed", port, 64, 3, loads.UNARY, candidates.key()).report()
        paced = Load("sse", port, 1000, 5, loads.PACED, candidates.key()).report()
    return [
        ("canary", "no dispatcher: requests/s", "", number(unary.answers / unary.seconds, 0), ""),
        ("canary", "no dispatcher: 1,000 streams, forward p99 ms", "", number(paced.forward.p99 / 1000, 2), ""),
    ]


def held(options: argparse.Namespace) -> list[Row]:
    """L1 and L2: so many requests to a cold model, more beyond the bound, then it is ready."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    seats = min(options.held, most - options.held - 256)
    with rig("--held", "--bound", str(options.held), "--seats", str(seats), warm=False) as r:
        waiting = r.load("hold", options.held, 120, loads.UNARY)
        r.wait(lambda: bool(r.ask("/api/queue")["waiting"] == options.held), 60, f"{options.held} requests held")
        memory = r.process.rss()
        beyond = r.load("open", 2000, 5, loads.UNARY, status=503).report()
        ready = time.monotonic_ns()
        r.process.signal(signal.SIGUSR1)
        report = waiting.report()
    seconds = (report.last_ns - ready) / 1e9
    return [
        row("L1", f"{options.held} held, MiB in all", memory, "≤", 256),
        row("L1", f"all answered after ready ({seats} seats), s", seconds, "≤", 2),
        row("L1", "errors", report.errors, "≤", 0),
        row("L2", f"{beyond.answers} refused with Retry-After, p99 ms", beyond.latency.p99 / 1000, "≤", 50),
        row("L2", "other answers, and held ones lost", beyond.errors + report.errors, "≤", 0),
    ]


def latency(options: argparse.Namespace) -> list[Row]:
    """L3: 1,000 requests a second to a server that takes 100 ms, against the same without the dispatcher."""
    with rig() as r:
        direct = Load("open", r.upstream_port, 1000, min(options.seconds, 20), loads.SLOW, candidates.key()).report()
        report = r.load("open", 1000, options.seconds, loads.SLOW).report()
    added95, added99 = (
        (getattr(report.latency, name) - getattr(direct.latency, name)) / 1000 for name in ("p95", "p99")
    )
    return [
        row("L3", "1,000 requests/s, added p95 ms", added95, "≤", 10),
        row("L3", "1,000 requests/s, added p99 ms", added99, "≤", 20),
        row("L3", f"errors in {report.all_answers}", report.errors, "≤", 0),
    ]


def burst(options: argparse.Namespace) -> list[Row]:
    """L4: 1,000, 2,000, then 3,000 requests a second."""
    with rig() as r:
        reports = [r.load("open", rate, options.seconds / 3, loads.SLOW).report() for rate in (1000, 2000, 3000)]
    return [
        row("L4", "steps of 1k, 2k, 3k requests/s: longest, s", max(one.latency.max for one in reports) / 1e6, "≤", 10),
        row("L4", "errors", sum(one.errors for one in reports), "≤", 0),
    ]


def streams(options: argparse.Namespace) -> list[Row]:
    """L5: 1,000 streams of 20 tokens a second."""
    with rig() as r:
        report = r.load("sse", 1000, options.seconds, loads.PACED).report()
    return [
        row("L5", f"{report.chunks:,} chunks of 1,000 streams: forward p99 ms", report.forward.p99 / 1000, "≤", 20),
        row("L5", "coalesced over 100 ms", report.coalesced, "≤", 0),
        row("L5", "errors", report.errors, "≤", 0),
    ]


def slow_reader(options: argparse.Namespace) -> list[Row]:
    """L6: a stream of 400 MB, read at 1 MB/s for 10 s; then the reader leaves."""
    with rig() as r:
        before = most = r.process.rss()
        with socket.create_connection(("127.0.0.1", r.port)) as reader:
            reader.sendall(loads.ENDLESS.raw(candidates.key()))
            begun, got = time.monotonic(), 0
            while (passed := time.monotonic() - begun) < 10:
                if got < passed * 1e6:
                    got += len(reader.recv(16_384))
                else:
                    most = max(most, r.process.rss())
                    time.sleep(0.01)
        freed = r.wait(lambda: r.busy() == 0, 10, "the seat of a reader that left is free")
        still = r.upstream.cpu()
        time.sleep(0.5)
        still = r.upstream.cpu() - still
    return [
        row("L6", f"slow reader ({got / 1e6:.0f} MB read), growth MiB", most - before, "≤", 8),
        row("L6", "reader left: seat free after, s", freed, "≤", 1),
        row("L6", "and the server works on, % of a core", 200 * still, "≤", 2),
    ]


ROWS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "canary": canary,
    "L1": held,
    "L3": latency,
    "L4": burst,
    "L5": streams,
    "L6": slow_reader,
}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.edge.scorecard", description="The edge under full load.")
    parser.add_argument("--held", type=int, default=10_000, metavar="N", help="requests held while cold [10000]")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="of L3, L4 and L5 [30]")
    rows.add_arguments(parser, list(ROWS), " (L2 goes with L1)")
    options = parser.parse_args(argv)
    with workshop.alone(), on_core(OTHER_CORE):
        found = rows.measured(options, lambda name: ROWS[name](options))
    return rows.told(found, "scorecard", options.write)


if __name__ == "__main__":
    workshop.command(main)
