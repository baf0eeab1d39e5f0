"""`ssis keys`: make, list and revoke API keys, in the file that the dispatcher reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from ssis_dispatcher.cli.failures import Failure
from ssis_dispatcher.cli.options import output_option, with_settings
from ssis_dispatcher.cli.output import emit, table

if TYPE_CHECKING:
    from ssis_dispatcher.gateway.keys import KeyFile
    from ssis_dispatcher.settings import Loaded

_KINDS = click.Choice(["cpu", "mig", "mps", "gpu"])


@click.group()
def keys() -> None:
    """Make, list and revoke API keys.

    They are kept, hashed, in the file of the setting `keys_file`. A running dispatcher takes a change over by itself.
    """


@contextmanager
def _file(loaded: Loaded) -> Iterator[KeyFile]:
    """The file of keys; what the system refuses becomes a `Failure`."""
    from ssis_dispatcher.gateway.keys import KeyFile

    path = loaded.settings.keys_file
    if path.is_dir():
        raise Failure(f"{path} is a directory, which others write; name one of its files with SSIS_KEYS_FILE")
    try:
        yield KeyFile(path)
    except OSError as error:
        raise Failure(f"{error.filename or path}: {error.strerror}; SSIS_KEYS_FILE names another file") from None


def _moment(ctx: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """When a key ends: a duration from now, or a date of this machine's time zone."""
    from ssis_dispatcher.settings.kinds import read_seconds

    if value is None:
        return None
    try:
        return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=read_seconds(value))
    except (ValueError, TypeError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a duration (30d, 12h) nor a date (2030-01-31)") from None
    return moment if moment.tzinfo else moment.astimezone()


@keys.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["use", "operate", "admin"]),
    default="use",
    show_default=True,
    help="Rights; admin is operate today.",
)
@click.option("--model", "models", multiple=True, metavar="PATTERN", help="Models it may use, as `org/*`; repeatable.")
@click.option(
    "--kind", "kinds", multiple=True, type=_KINDS, help="Slice kinds that models are started on for it; repeatable."
)
@click.option("--in-flight", type=click.IntRange(1), metavar="N", help="Most requests at once.")
@click.option("--per-minute", type=click.IntRange(1), metavar="N", help="Most requests per minute.")
@click.option("--slices", type=click.IntRange(1), metavar="N", help="Most slices held at once.")
@click.option("--launches-per-minute", type=click.IntRange(1), metavar="N", help="Most servers started per minute.")
@click.option("--expires", callback=_moment, metavar="WHEN", help="When it ends: in 30d, or on 2030-01-31.")
@with_settings
def create(loaded: Loaded, name: str, models: tuple[str, ...], **limits: Any) -> None:
    """Make a key, and print its secret, once."""
    with _file(loaded) as file:
        secret = file.create(name, models=models or ("*",), **limits)
    click.echo(secret)
    click.echo(f"This is the only time that the secret of {name} is shown; {file.path} has a hash of it.", err=True)


@keys.command("list")
@output_option
@with_settings
def list_keys(loaded: Loaded, output: str) -> None:
    """List the keys and what they may do; the secrets are nowhere."""
    import msgspec

    with _file(loaded) as file:
        records = file.list()
    data = [
        {name: value for name, value in msgspec.to_builtins(msgspec.structs.asdict(one)).items() if name != "hash"}
        for one in records
    ]
    headings = ["NAME", "ROLE", "MODELS", "KINDS", "AT ONCE", "PER MINUTE", "SLICES", "LAUNCHES", "EXPIRES"]
    rows = (
        (
            one.name,
            one.role,
            ", ".join(one.models),
            ", ".join(one.kinds) or "all",
            one.in_flight,
            one.per_minute,
            one.slices,
            one.launches_per_minute,
            _expiry(one.expires),
        )
        for one in records
    )
    emit(data, output, lambda: table(headings, rows))


def _expiry(moment: datetime | None) -> str:
    if moment is None:
        return "never"
    return f"{moment:%Y-%m-%d %H:%M %Z}" + (" (over)" if moment <= datetime.now(UTC) else "")


@keys.command()
@click.argument("name")
@with_settings
def revoke(loaded: Loaded, name: str) -> None:
    """Remove a key; the dispatcher refuses it from then on."""
    with _file(loaded) as file:
        file.revoke(name)
    click.echo(f"{name} is revoked", err=True)
