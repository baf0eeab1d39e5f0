"""How data is printed: as a table for people, as JSON or YAML for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

Cell = str | int | float | None

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def emit(data: Any, output: str, table: Callable[[], str]) -> None:
    """Print ``data`` to standard output as ``output`` (``table``, ``json``, ``yaml``) says."""
    if output == "json":
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(table())


def safe(text: str) -> str:
    """``text`` without control characters: what others wrote must not steer somebody's terminal."""
    return _CONTROL.sub("�", text)


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Columns two spaces apart, numbers to the right; the headings alone where there is nothing."""
    body = [tuple(row) for row in rows]
    cells = [[safe(_shown(cell)).replace("\n", " ") for cell in row] for row in (tuple(headings), *body)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [bool(body) and all(isinstance(row[i], int | float | None) for row in body) for i in range(len(headings))]
    lines = (
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _shown(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:g}" if isinstance(cell, float) else str(cell)


def seconds(value: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 min``, ``2.5 h``; ``-`` for None."""
    if value is None:
        return "-"
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def mib(value: float | None) -> str:
    """``512 MiB``, ``4.8 GiB``; ``-`` for None."""
    if value is None:
        return "-"
    return f"{value:.0f} MiB" if value < 1024 else f"{value / 1024:.1f} GiB"
