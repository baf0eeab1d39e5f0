"""Numbers of all rounds, and the tables made of them."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

Row = Sequence[str]

COLUMNS = (
    # title, figure, digits, how it is told
    ("rps", "rps", 0, "plain"),
    ("× Envoy", "rps", 2, "ratio"),
    ("CPU µs/request", "CPU µs/request", 1, "plain"),
    ("of it kernel", "kernel µs/request", 1, "plain"),
    ("added p50 µs", "p50 µs", 0, "added"),
    ("added p99 µs", "p99 µs", 0, "added"),
    ("CPU µs/chunk", "CPU µs/chunk", 1, "plain"),
    ("forward p99 ms", "forward p99 ms", 1, "plain"),
    ("coalesced", "coalesced", 0, "plain"),
    ("fast chunks/s", "fast chunks/s", 0, "plain"),
    ("fast CPU µs/chunk", "fast CPU µs/chunk", 1, "plain"),
    ("RSS MiB", "RSS MiB", 0, "plain"),
    ("start s", "start s", 2, "plain"),
)


class Figures:
    """Lists of numbers by figure and candidate, one for each round."""

    def __init__(self) -> None:
        self._all: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, figure: str, name: str, value: float) -> None:
        self._all[figure][name].append(value)

    def names(self, figure: str) -> list[str]:
        return list(self._all[figure])

    def values(self, figure: str, name: str) -> list[float]:
        return self._all[figure][name]

    def median(self, figure: str, name: str) -> float | None:
        values = self._all[figure][name]
        return median(values) if values else None

    def ratio(self, figure: str, name: str, other: str) -> float | None:
        """Median of the rounds' ratios, which what disturbs a whole round does not move."""
        pairs = list(zip(self._all[figure][name], self._all[figure][other], strict=False))
        return median(one / two for one, two in pairs) if pairs and all(two for _, two in pairs) else None

    def added(self, figure: str, name: str, other: str = "direct") -> float | None:
        """Median of the rounds' differences."""
        pairs = list(zip(self._all[figure][name], self._all[figure][other], strict=False))
        return median(one - two for one, two in pairs) if pairs else None

    def told(self, figure: str, name: str, how: str) -> float | None:
        if how == "ratio":
            return self.ratio(figure, name, "envoy")
        return self.added(figure, name) if how == "added" else self.median(figure, name)


def candidates_table(figures: Figures, names: Iterable[str]) -> list[Row]:
    """One row for each candidate; columns that were not measured are left out."""
    columns = [column for column in COLUMNS if figures.names(column[1])]
    rows = [("", *(title for title, *_ in columns))]
    for name in names:
        told = ((figures.told(figure, name, how), digits) for _, figure, digits, how in columns)
        rows.append((name, *(number(value, digits) for value, digits in told)))
    return list(rows)


def targets_table(figures: Figures) -> list[Row]:
    """What was promised, against what was measured; only what was measured has a row."""
    ours = "ours"
    added = [figures.added("p99 µs", name) for name in (ours, "envoy")]
    checks = [
        *((f"rps ÷ {peer}", figures.ratio("rps", ours, peer), "≥", least) for peer, least in LEAST.items()),
        ("added p99 µs, against Envoy's", added[0], "≤", added[1]),
        ("CPU per chunk ÷ envoy", figures.ratio("CPU µs/chunk", ours, "envoy"), "≤", 1.4),
        ("forward p99 ms", figures.median("forward p99 ms", ours), "≤", 20.0),
        ("chunks coalesced over 100 ms", figures.median("coalesced", ours), "≤", 0.0),
        ("start to listening, s", figures.median("start s", ours), "≤", 0.3),
        *((f"rps {name} ÷ same dialect", ratio, "≥", 0.5) for name, ratio in translations(figures)),
    ]
    rows = [
        (name, f"{sign} {number(bound, 2)}", number(value, 2), verdict(value, sign, bound))
        for name, value, sign, bound in checks
        if value is not None and bound is not None
    ]
    return [("figure", "must", "measured", ""), *rows]


LEAST = {"envoy-json": 2.0, "envoy": 1.6, "vllm-router": 2.3, "sglang-router": 3.0}
"""Requests per second of ours, in those of the others, at least."""


def translations(figures: Figures) -> list[tuple[str, float | None]]:
    same, *others = figures.names("translated rps") or [""]
    return [(name, figures.ratio("translated rps", name, same)) for name in others]


def verdict(value: float, sign: str, bound: float) -> str:
    return "good" if (value <= bound if sign == "≤" else value >= bound) else "MISSED"


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def text(rows: Sequence[Row]) -> str:
    """For terminals."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def markdown(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" + "|---:" * (len(rows[0]) - 1) + "|", *lines[1:]])


def conditions() -> str:
    """Where and when: what a reader needs to judge the numbers."""
    cpu = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ": ?"
    )
    model, today = cpu.partition(":")[2].strip(), datetime.now(UTC).date()
    return f"{today}, {os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}"


def quiet(figures: Figures) -> str:
    """Whether the machine was quiet: how far the canary (no proxy) moved over the rounds, and what others took of it."""
    rates, others = figures.values("rps", "direct"), figures.median("others %", "all")
    spread = f"the canary moved by {100 * (max(rates) / min(rates) - 1):.0f} % over the rounds; " if rates else ""
    return f"{spread}other programs took {others or 0:.0f} % of a core"


def errors(figures: Figures) -> list[str]:
    """Who gave answers that were not good: such rows say little."""
    counts = {name: sum(figures.values("errors", name)) for name in figures.names("errors")}
    return [f"{name} gave {count:,.0f} answers that were not good" for name, count in counts.items() if count]


def write_section(page: Path, name: str, content: str) -> None:
    """Put ``content`` between the marks ``<!-- name -->`` and ``<!-- /name -->`` of ``page``. Raises `ValueError`."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, mark, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closing, after = rest.partition(end)
    if not mark or not closing:
        raise ValueError(f"{page} has no section {name}")
    page.write_text(f"{before}{begin}{content}\n{end}{after}", encoding="utf-8")
