"""Our edge beside other proxies: ``python -m bench.edge --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.edge import loads, table, workshop
from bench.edge.candidates import CANDIDATES
from bench.edge.measures import MEASURES, Bench
from bench.edge.processes import OTHER_CORE, on_core
from bench.edge.rows import words


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.edge", description="Our edge beside other proxies.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds; tables show their medians [5]")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="of one run of the load generator [4]")
    parser.add_argument("--tries", type=int, default=3, metavar="N", help="of a run that others disturb [3]")
    parser.add_argument("--rate", type=int, metavar="RPS", help="of the latency runs [half of what Envoy can do]")
    parser.add_argument("--streams", type=int, default=1000, metavar="N", help="paced streams at once [1000]")
    parser.add_argument(
        "--only", type=words(list(MEASURES)), default=list(MEASURES), metavar="WHAT", help=", ".join(MEASURES)
    )
    names = [name for name in CANDIDATES if name != "direct"]
    parser.add_argument("--candidates", type=words(names), default=names, metavar="WHO", help=", ".join(names))
    parser.add_argument(
        "--write", action="store_true", help=f"put the tables into {workshop.PAGE.relative_to(workshop.ROOT)}"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    options = arguments(argv)
    with workshop.alone():
        try:
            workshop.tool("load")
            upstream, port = loads.upstream()
        except workshop.Missing as error:
            print(error, file=sys.stderr)
            return 1
        with upstream, on_core(OTHER_CORE):
            bench = Bench(options, upstream, port)
            bench.run()
    show(bench)
    return 0


def show(bench: Bench) -> None:
    figures, options = bench.figures, bench.options
    tables = [table.candidates_table(figures, ["direct", *options.candidates]), table.targets_table(figures)]
    notes = [
        f"{table.conditions()}; {options.rounds} rounds of {options.seconds:g} s; {', '.join(workshop.PACKAGES)}",
        f"rate of the latency runs: {bench.rate} requests/s" if "latency" in options.only else "",
        table.quiet(figures),
        *table.errors(figures),
        *(f"{name} was left out: {reason}" for name, reason in bench.skipped.items()),
    ]
    said = [note for note in notes if note]
    print("\n\n".join(["", *map(table.text, tables), "\n".join(said)]))
    if options.write:
        lines = "\n".join(f"- {note}" for note in said)
        table.write_section(workshop.PAGE, "bench-edge", "\n\n".join([*map(table.markdown, tables), lines]))


if __name__ == "__main__":
    workshop.command(main)
