"""What is measured of each candidate, and in which order."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.edge import candidates, loads, workshop
from bench.edge.loads import Load, Report, Shot
from bench.edge.processes import PROXY_CORE, Process, machine_cpu
from bench.edge.table import Figures

DISTURBED = 10.0
"""Percent of a core that others may take during a run; with more, the run is tried again."""

TRANSLATIONS = {
    "openai → vLLM (same dialect)": loads.UNARY,
    "openai → TGI": loads.OPENAI_TO_TGI,
    "ssis → llama.cpp": loads.SSIS_TO_LLAMACPP,
    "tgi → vLLM": loads.TGI_TO_VLLM,
}


@dataclass(frozen=True)
class Target:
    """A candidate that listens on ``port``; without a process it is the fake inference server itself."""

    name: str
    port: int
    process: Process | None = None

    def cpu(self) -> float:
        return self.process.cpu() if self.process else 0.0

    def kernel(self) -> float:
        return self.process.kernel() if self.process else 0.0


@dataclass(frozen=True)
class Run:
    """One run of the load generator: what it saw, the target's seconds of processor time and how many of them were the
    kernel's, others' share of a core."""

    report: Report
    cpu: float
    kernel: float
    others: float

    @property
    def cpu_per_request(self) -> float:
        return self.cpu / max(1, self.report.all_answers) * 1e6

    @property
    def kernel_per_request(self) -> float:
        return self.kernel / max(1, self.report.all_answers) * 1e6

    @property
    def cpu_per_chunk(self) -> float:
        return self.cpu / max(1, self.report.all_chunks) * 1e6


class Bench:
    """One run of everything that was asked for. ``skipped`` tells who was left out, and why."""

    def __init__(self, options: argparse.Namespace, upstream: Process, upstream_port: int) -> None:
        self.options = options
        self.figures = Figures()
        self.skipped: dict[str, str] = {}
        self.rate = options.rate
        self._upstream = upstream
        self._upstream_port = upstream_port

    def run(self) -> None:
        """Canary and rate first, then the rounds: in each, every candidate is started afresh, in an order that moves on."""
        names = list(self.options.candidates)
        if "latency" in self.options.only and not self.rate:
            self.calibrate("envoy" if "envoy" in names else names[0])
        for number in range(self.options.rounds):
            turn = number % len(names)
            for name in ("direct", *names[turn:], *names[:turn]):
                if name not in self.skipped:
                    print(f"round {number + 1} of {self.options.rounds}: {name}", file=sys.stderr)
                    self.visit(name, self.options.only)

    def calibrate(self, name: str) -> None:
        """The rate of the latency runs: half of what ``name`` can do, by the worst of three runs."""
        for _ in range(3):
            self.visit(name, ("unary",))
        self.rate = int(min(self.figures.values("rps", name), default=10_000) / 2)
        self.figures = Figures()  # a cold machine's; the rounds begin anew

    def visit(self, name: str, measures: Sequence[str]) -> None:
        """Start one candidate, measure it, stop it. What goes wrong is its own."""
        start = candidates.CANDIDATES[name]
        try:
            if start is None:
                self.measure(Target(name, self._upstream_port), measures)
                return
            port = workshop.free_port()
            command = start(port, self._upstream_port)
            with Process(command.argv, PROXY_CORE, workshop.WORK / f"{name}.log", command.env) as process:
                seconds = process.wait_until_listening(port)
                self.figures.add("start s", name, start_of_serve() if name == "ours" else seconds)
                loads.until_answered(port, candidates.key())
                time.sleep(0.3)
                self.figures.add("RSS MiB", name, process.rss())
                self.measure(Target(name, port, process), measures)
        except (workshop.Missing, RuntimeError) as error:
            self.skipped[name] = str(error)

    def measure(self, target: Target, measures: Sequence[str]) -> None:
        for measure in measures:
            MEASURES[measure](self, target)

    def unary(self, target: Target) -> None:
        run = self.load("closed", target, 64, loads.UNARY)
        self.figures.add("rps", target.name, run.report.answers / run.report.seconds)
        if target.process:
            self.figures.add("CPU µs/request", target.name, run.cpu_per_request)
            self.figures.add("kernel µs/request", target.name, run.kernel_per_request)

    def latency(self, target: Target) -> None:
        run = self.load("open", target, self.rate, loads.UNARY)
        self.figures.add("p50 µs", target.name, run.report.latency.p50)
        self.figures.add("p99 µs", target.name, run.report.latency.p99)

    def sse(self, target: Target) -> None:
        run = self.load("sse", target, self.options.streams, loads.PACED)
        if target.process:
            self.figures.add("CPU µs/chunk", target.name, run.cpu_per_chunk)
        self.figures.add("forward p99 ms", target.name, run.report.forward.p99 / 1000)
        self.figures.add("coalesced", target.name, run.report.coalesced)

    def fast(self, target: Target) -> None:
        run = self.load("sse", target, 100, loads.EAGER)
        self.figures.add("fast chunks/s", target.name, run.report.chunks / run.report.seconds)
        if target.process:
            self.figures.add("fast CPU µs/chunk", target.name, run.cpu_per_chunk)

    def translated(self, target: Target) -> None:
        """Ours alone: the others have nothing like it."""
        for name, shot in TRANSLATIONS.items() if target.name == "ours" else ():
            report = self.load("closed", target, 64, shot).report
            self.figures.add("translated rps", name, report.answers / report.seconds)

    def load(self, mode: str, target: Target, count: int, shot: Shot) -> Run:
        """The least disturbed of a few runs; the first that was not disturbed is enough."""
        runs: list[Run] = []
        while len(runs) < self.options.tries and not any(run.others < DISTURBED for run in runs):
            runs.append(self.load_once(mode, target, count, shot))
        best = min(runs, key=lambda run: run.others)
        self.figures.add("errors", target.name, best.report.errors)
        self.figures.add("others %", "all", best.others)
        return best

    def load_once(self, mode: str, target: Target, count: int, shot: Shot) -> Run:
        begun, before = time.monotonic(), self.clocks(target)
        load = Load(mode, target.port, count, self.options.seconds, shot, candidates.key())
        report = load.report()
        own, kernel, known, machine = (now - then for now, then in zip(self.clocks(target), before, strict=True))
        if report.errors:
            print(f"{target.name}: {report.errors} errors, {load.complaint.strip()[:300]}", file=sys.stderr)
        return Run(report, own, kernel, 100 * (machine - own - known) / (time.monotonic() - begun))

    def clocks(self, target: Target) -> tuple[float, float, float, float]:
        """Seconds of processor time: the target's, the kernel's for it, the fake server's with the load generators', the
        whole machine's."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        known = self._upstream.cpu() + children.ru_utime + children.ru_stime
        return target.cpu(), target.kernel(), known, machine_cpu()


MEASURES: dict[str, Callable[[Bench, Target], None]] = {
    "unary": Bench.unary,
    "latency": Bench.latency,
    "sse": Bench.sse,
    "fast": Bench.fast,
    "translated": Bench.translated,
}


def start_of_serve() -> float:
    """Seconds until the real command listens, without what `bench.edge.dispatcher` puts around the program."""
    port = workshop.free_port()
    cached = {"PYTHONDONTWRITEBYTECODE": ""}  # as where nobody forbids it, which from the second start on is everywhere
    with Process(candidates.serve(port), PROXY_CORE, workshop.WORK / "serve.log", cached) as process:
        return process.wait_until_listening(port)
