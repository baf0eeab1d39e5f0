"""`ssis pull`, `cached` and `rm`: the model cache of this machine. No dispatcher is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import click

from ssis_dispatcher.cli.failures import Failure
from ssis_dispatcher.cli.options import output_option, with_settings
from ssis_dispatcher.cli.output import emit, mib, table

if TYPE_CHECKING:
    from ssis_dispatcher.settings import Loaded


@contextmanager
def _told() -> Iterator[None]:
    """What the system refuses, as a `Failure`."""
    try:
        yield
    except OSError as error:
        raise Failure(f"{error.filename or 'the model cache'}: {error.strerror or error}") from None


@click.command()
@click.argument("model")
@with_settings
def pull(loaded: Loaded, model: str) -> None:
    """Download a model into the cache.

    A download that was broken off goes on where it was.
    """
    from ssis_dispatcher import assembly

    with _told(), _progress(model) as progress:
        path = assembly.pull(loaded.settings, model, progress.moved)
    click.echo(path)


@click.command()
@output_option
@with_settings
def cached(loaded: Loaded, output: str) -> None:
    """List the models of the cache."""
    import msgspec

    from ssis_dispatcher import assembly

    with _told():
        found = assembly.cached(loaded.settings)
    data = [msgspec.to_builtins(one, enc_hook=str) for one in found]
    headings = ["MODEL", "SIZE", "LAST USED", "", "FILE"]
    rows = (
        (one.model, mib(one.bytes / 2**20), _day(one.used), "in use" if one.busy else "", str(one.path))
        for one in found
    )
    emit(data, output, lambda: table(headings, rows))


def _day(when: float) -> str:
    return f"{datetime.fromtimestamp(when).astimezone():%Y-%m-%d %H:%M}"


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@with_settings
def rm(loaded: Loaded, models: tuple[str, ...]) -> None:
    """Remove models from the cache."""
    from ssis_dispatcher import assembly

    for model in models:
        with _told():
            freed = assembly.remove(loaded.settings, model)
        if not freed:
            raise Failure(f"{model} is not in the cache; `ssis cached` lists what is")
        click.echo(f"{model} is removed, {mib(freed / 2**20)} are free again", err=True)


class _Lines:
    """Progress where there is no terminal: a line for every tenth, or for every GiB where the size is unknown."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._last = -1

    def moved(self, done: int, total: int | None) -> None:
        step = done * 10 // total if total else done // 2**30
        if step > self._last:
            self._last = step
            share = f" of {mib(total / 2**20)}" if total else ""
            click.echo(f"{self._model}: {mib(done / 2**20)}{share}", err=True)


class _Bar:
    """Progress on a terminal."""

    def __init__(self, model: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = TextColumn(model, markup=False), BarColumn(), DownloadColumn(True), TransferSpeedColumn()
        self.shown = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        self._task = self.shown.add_task(model, total=None)

    def moved(self, done: int, total: int | None) -> None:
        self.shown.update(self._task, completed=done, total=total)


@contextmanager
def _progress(model: str) -> Iterator[_Lines | _Bar]:
    if not sys.stderr.isatty():
        yield _Lines(model)
        return
    bar = _Bar(model)
    with bar.shown:
        yield bar
