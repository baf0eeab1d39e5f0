"""How a command says that it could not do something: one or two lines on standard error, and the exit code."""

from __future__ import annotations

from typing import IO, Any

import click


class Failure(click.ClickException):
    """It could not be done: exit code 1. The message says what is wrong and what to do."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"ssis: {self.format_message()}", file=file, err=file is None)


class Misused(Failure):
    """It was asked wrongly: exit code 2."""

    exit_code = 2
