"""Rows of the scorecard: what was asked, what was measured, and how a run of them ends."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from bench.edge import table, workshop
from bench.edge.table import Row, number, verdict

HEADER: Row = ("row", "what", "must", "measured", "")


def row(name: str, what: str, value: float, sign: str, bound: float) -> Row:
    digits = 0 if isinstance(value, int) else 2
    return name, what, f"{sign} {bound:g}", number(value, digits), verdict(value, sign, bound)


def words(known: Sequence[str]) -> Callable[[str], list[str]]:
    """The type of an option: a list of these words, with commas between."""

    def some(text: str) -> list[str]:
        chosen = text.split(",")
        if strange := [word for word in chosen if word not in known]:
            raise argparse.ArgumentTypeError(f"{strange[0]!r} is none of {', '.join(known)}")
        return chosen

    return some


def add_arguments(parser: argparse.ArgumentParser, known: Sequence[str], note: str = "") -> None:
    """Which rows, and where their table goes."""
    parser.add_argument("--only", type=words(known), default=known, metavar="ROWS", help=f"{', '.join(known)}{note}")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")


def measured(options: argparse.Namespace, measure: Callable[[str], list[Row]]) -> list[Row]:
    """The rows that were asked for; what cannot be measured is one that has failed."""
    rows: list[Row] = [HEADER]
    for name in options.only:
        try:
            rows += measure(name)
        except (RuntimeError, OSError, workshop.Missing) as error:  # a TimeoutError is an OSError
            rows.append((name, str(error), "", "", "FAILED"))
    return rows


def told(rows: Sequence[Row], section: str, write: bool, conditions: str = "") -> int:
    """Print the table, and ``write`` it into this section of the page; the exit code."""
    conditions += table.conditions()
    print(table.text(rows), conditions, sep="\n\n")
    if write:
        table.write_section(workshop.PAGE, section, f"{table.markdown(rows)}\n\n{conditions}")
    return int(any(row[-1] in ("MISSED", "FAILED") for row in rows))
