"""`ssis config`: every setting, its value, and where it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from ssis_dispatcher.cli.flags import SettingsCommand, with_settings_flags
from ssis_dispatcher.cli.options import output_option
from ssis_dispatcher.cli.output import emit, table
from ssis_dispatcher.settings.fields import fields

if TYPE_CHECKING:
    from ssis_dispatcher.settings import Loaded, Origin


def _page(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from ssis_dispatcher.settings.page import page

        click.echo(page(), nl=False)
        ctx.exit()


@click.command(cls=SettingsCommand)
@click.option("--docs", is_flag=True, expose_value=False, is_eager=True, callback=_page, help="Print docs/settings.md.")
@output_option
@with_settings_flags
def config(loaded: Loaded, output: str) -> None:
    """Print every setting, its value and where it came from.

    With the flags of `ssis serve`, it shows what they would change. Secrets are not shown.
    """
    shown = {name: field.show(getattr(loaded.settings, name)) for name, field in fields().items()}
    data = {name: {"value": shown[name]} | msgspec.to_builtins(origin) for name, origin in loaded.origins.items()}
    emit(
        data,
        output,
        lambda: table(
            ["SETTING", "VALUE", "FROM"], [(name, shown[name], _from(loaded.origins[name])) for name in fields()]
        ),
    )


def _from(origin: Origin) -> str:
    return origin.place or origin.source
