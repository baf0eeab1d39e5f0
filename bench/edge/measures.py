"""What is measured of each candidate, and in which order."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Sequence

from bench.edge import candidates, loads, workshop
from bench.edge.loads import Load, Report, Shot
from bench.edge.processes import PROXY_CORE, Process, machine_cpu
from bench.edge.table import Figures

MEASURES = ("unary", "latency", "sse", "fast", "translated")
TRANSLATIONS = {
    "unary": "openai → vLLM (same dialect)",
    "openai": "openai → TGI",
    "ssis": "ssis → llama.cpp",
    "tgi": "tgi → vLLM",
}


class Bench:
    """One run of everything that was asked for. ``figures[name][candidate]`` has one number for each round."""

    def __init__(self, options: argparse.Namespace, upstream: Process, upstream_port: int) -> None:
        self.options = options
        self.figures = Figures()
        self.skipped: dict[str, str] = {}
        self.rate = options.rate
        self._upstream = upstream
        self._upstream_port = upstream_port
        self._measures: dict[str, Callable[[str, int, Process | None], None]] = {
            "unary": self.unary,
            "latency": self.latency,
            "sse": self.sse,
            "fast": self.fast,
            "translated": self.translated,
        }

    def run(self) -> None:
        """Canary and rate first, then the rounds: in each, every candidate is started afresh, in an order that moves on."""
        names = list(self.options.candidates)
        if "latency" in self.options.only and not self.rate:
            self.calibrate("envoy" if "envoy" in names else "ours")
        for round in range(self.options.rounds):
            for name in ["direct", *(names[round % len(names) :] + names[: round % len(names)])]:
                if name not in self.skipped:
                    print(f"round {round + 1}/{self.options.rounds}: {name}", end="   \r", file=sys.stderr, flush=True)
                    self.visit(name, self.options.only)

    def calibrate(self, name: str) -> None:
        """The rate of the latency runs: half of what ``name`` can do."""
        self.visit(name, ("unary",))
        self.rate = int((self.figures.median("rps", name) or 10_000) / 2)
        self.figures = Figures()  # a cold machine's; the rounds begin anew

    def visit(self, name: str, measures: Sequence[str]) -> None:
        """Start one candidate, measure it, stop it. What goes wrong is its own."""
        start = candidates.CANDIDATES[name]
        try:
            if start is None:
                self.measure(name, self._upstream_port, None, measures)
                return
            port = workshop.free_port()
            command = start(port, self._upstream_port)
            with Process(command.argv, PROXY_CORE, workshop.WORK / f"{name}.log", command.env) as process:
                seconds = process.wait_until_listening(port)
                self.figures.add("start s", name, start_of_serve() if name == "ours" else seconds)
                loads.until_answered(port, candidates.key())
                time.sleep(0.3)
                self.figures.add("RSS MiB", name, process.rss())
                self.measure(name, port, process, measures)
        except (workshop.Missing, RuntimeError) as error:
            self.skipped[name] = str(error)

    def measure(self, name: str, port: int, process: Process | None, measures: Sequence[str]) -> None:
        for measure in measures:
            self._measures[measure](name, port, process)

    # What is measured

    def unary(self, name: str, port: int, process: Process | None) -> None:
        report, cpu = self.load("closed", name, port, process, 64, loads.UNARY)
        self.figures.add("rps", name, report.answers / report.seconds)
        if process:
            self.figures.add("CPU µs/request", name, cpu / max(1, report.all_answers) * 1e6)

    def latency(self, name: str, port: int, process: Process | None) -> None:
        report, _ = self.load("open", name, port, process, self.rate, loads.UNARY)
        self.figures.add("p50 µs", name, report.latency.p50)
        self.figures.add("p99 µs", name, report.latency.p99)

    def sse(self, name: str, port: int, process: Process | None) -> None:
        report, cpu = self.load("sse", name, port, process, self.options.streams, loads.PACED)
        if process:
            self.figures.add("CPU µs/chunk", name, cpu / max(1, report.all_chunks) * 1e6)
        self.figures.add("forward p99 ms", name, report.forward.p99 / 1000)
        self.figures.add("coalesced", name, report.coalesced)

    def fast(self, name: str, port: int, process: Process | None) -> None:
        report, cpu = self.load("sse", name, port, process, 100, loads.EAGER)
        self.figures.add("fast chunks/s", name, report.chunks / report.seconds)
        if process:
            self.figures.add("fast CPU µs/chunk", name, cpu / max(1, report.all_chunks) * 1e6)

    def translated(self, name: str, port: int, process: Process | None) -> None:
        if name != "ours":
            return
        for shot in (loads.UNARY, loads.OPENAI_TO_TGI, loads.SSIS_TO_LLAMACPP, loads.TGI_TO_VLLM):
            report, _ = self.load("closed", name, port, process, 64, shot)
            self.figures.add("translated rps", TRANSLATIONS[shot.name], report.answers / report.seconds)

    def load(
        self, mode: str, name: str, port: int, process: Process | None, count: int, shot: Shot
    ) -> tuple[Report, float]:
        """One run of the load generator, and the processor time that the candidate took meanwhile."""
        begun, before = time.monotonic(), self.clocks(process)
        load = Load(mode, port, count, self.options.seconds, shot, candidates.key())
        report = load.report()
        own, upstream, children, machine = (now - then for now, then in zip(self.clocks(process), before, strict=True))
        self.figures.add("others %", "all", 100 * (machine - own - upstream - children) / (time.monotonic() - begun))
        if report.errors:
            print(f"{name}: {report.errors} errors in {shot.name}: {load.complaint.strip()[:200]}", file=sys.stderr)
        return report, own

    def clocks(self, process: Process | None) -> tuple[float, ...]:
        """Seconds of processor time: the candidate's, the fake server's, the load generators', the machine's."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = children.ru_utime + children.ru_stime
        return process.cpu() if process else 0.0, self._upstream.cpu(), spent, machine_cpu()


def start_of_serve() -> float:
    """Seconds until the real command listens, without what `bench.edge.dispatcher` puts around the program."""
    port = workshop.free_port()
    with Process(candidates.serve(port), PROXY_CORE, workshop.WORK / "serve.log") as process:
        return process.wait_until_listening(port)
