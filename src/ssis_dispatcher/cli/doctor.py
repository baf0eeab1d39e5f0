"""`ssis doctor`: what works on this machine, what is missing, and the command that fixes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ssis_dispatcher.cli.flags import SettingsCommand, with_settings_flags
from ssis_dispatcher.cli.options import output_option
from ssis_dispatcher.cli.output import emit, table

if TYPE_CHECKING:
    from ssis_dispatcher.settings import Loaded

_MARKS = {True: "ok", False: "NO", None: "--"}


@click.command(cls=SettingsCommand)
@output_option
@with_settings_flags
@click.pass_context
def doctor(ctx: click.Context, loaded: Loaded, output: str) -> None:
    """Check what works on this machine, and say how to fix the rest.

    `--` marks what is worth a word and keeps nothing from working. Exit code 1 means that something does not work.
    """
    from ssis_dispatcher import assembly

    checks = assembly.diagnose(loaded.settings)
    found = [{"name": one.name, "ok": one.ok, "detail": one.detail, "fix": one.fix} for one in checks]
    rows = [(one.name, _MARKS[one.ok], one.detail, "" if one.ok else one.fix) for one in checks]
    emit(found, output, lambda: table(["CHECK", "", "DETAIL", "TO DO"], rows))
    ctx.exit(any(one.ok is False for one in checks))
