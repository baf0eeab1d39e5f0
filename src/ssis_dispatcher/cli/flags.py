"""Every setting as a flag, for the commands that run the dispatcher or tell how it would run."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import click

from ssis_dispatcher.cli.options import Command, settings_of
from ssis_dispatcher.settings.declared import SECTIONS, Place
from ssis_dispatcher.settings.fields import Field, fields


class SettingsCommand(click.Command):
    """A command whose help has the settings section by section, after its own options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            field = fields().get(parameter.name or "")
            if record := parameter.get_help_record(ctx):
                records.setdefault(SECTIONS[field.about.section] if field else "Options", []).append(record)
        for title in ("Options", *SECTIONS.values()):
            if title in records:
                with formatter.section(title):
                    formatter.write_dl(records[title])


def with_settings_flags(command: Command) -> Command:
    """Hand over ``loaded``: the settings, flags counted in. The command's class is `SettingsCommand`."""

    @functools.wraps(command)
    def run(*args: Any, config: Path | None, **kwargs: Any) -> Any:
        flags = {name: kwargs.pop(name) for name in list(kwargs) if name in fields()}
        return command(*args, loaded=settings_of(flags, config), **kwargs)

    decorated: Command = run
    for field in reversed(fields().values()):
        if field.is_flag:
            decorated = _flag(field)(decorated)
    return click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings file.")(decorated)


def _flag(field: Field) -> Command:
    doc = field.about.doc.replace("`", "")
    if isinstance(field.default, bool):
        return click.option(f"{field.flag}/--no-{field.flag[2:]}", field.name, default=None, help=doc)
    return click.option(field.flag, field.name, metavar=_metavar(field), help=f"{doc}{_default(field)}")


def _metavar(field: Field) -> str:
    name = field.kind.name
    if " or " in name:
        return f"[{name.replace(' or ', '|')}]"
    return {"whole number": "N", "number": "X"}.get(name, name.partition(" ")[0].upper())


def _default(field: Field) -> str:
    if isinstance(field.default, Place):
        return f"  [default: {field.default}]"
    return f"  [default: {field.kind.write(field.default)}]" if field.default not in (None, ()) else ""
