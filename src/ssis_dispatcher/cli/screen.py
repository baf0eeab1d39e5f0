"""What a person sees on standard error while waiting: a spinner on a terminal, a line per phase elsewhere."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Protocol

import click

from ssis_dispatcher.cli.output import safe, seconds

if TYPE_CHECKING:
    from rich.status import Status

_PHASES = {
    "describing": "finding out what it needs",
    "slice": "waiting for a slice",
    "starting": "starting",
    "seat": "waiting for a seat",
}


class Screen(Protocol):
    """Where the waiting is shown."""

    def phase(self, name: str, words: str) -> None:
        """The phase ``name`` goes on, in ``words``."""

    def clear(self) -> None:
        """The waiting is over; what follows is printed by others."""


class Lines:
    """A line for each phase, when it begins: for logs and pipes."""

    def __init__(self) -> None:
        self._last = ""

    def phase(self, name: str, words: str) -> None:
        if name != self._last:
            self._last = name
            click.echo(words, err=True)

    def clear(self) -> None:
        pass


class Spinner:
    """One line that changes in place."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._status: Status | None = None

    def phase(self, name: str, words: str) -> None:
        from rich.text import Text

        if self._status is None:
            self._status = self._console.status(Text(words))
            self._status.start()
        self._status.update(Text(words))

    def clear(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


class Nothing:
    """Nothing at all: `--quiet`."""

    def phase(self, name: str, words: str) -> None:
        pass

    def clear(self) -> None:
        pass


def screen(quiet: bool = False) -> Screen:
    """What suits standard error."""
    if quiet:
        return Nothing()
    return Spinner() if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else Lines()


def in_words(request: dict[str, object]) -> str:
    """A request of `/api/requests/{id}` as one line: the phase, what is behind it, and for how long it may last."""
    phase = str(request.get("phase") or request.get("state") or "waiting")
    parts = [f"{request.get('model', '')}: {_PHASES.get(phase, phase)}"]
    if words := request.get("detail") or request.get("why"):  # the reason says the detail again, in a sentence
        parts.append(str(words).removesuffix("."))
    if isinstance(position := request.get("position"), int):
        parts.append(f"position {position}")
    expected = request.get("expected_seconds")
    if isinstance(expected, int | float) and expected > 0:
        parts.append(f"about {seconds(expected)}")
    return safe(", ".join(parts))
