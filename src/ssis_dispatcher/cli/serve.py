"""`ssis serve`: the dispatcher in the foreground."""

from __future__ import annotations

import errno
import os
import signal
import socket
from typing import TYPE_CHECKING

import click

from ssis_dispatcher import __version__
from ssis_dispatcher.cli.failures import Failure
from ssis_dispatcher.cli.flags import SettingsCommand, with_settings_flags

if TYPE_CHECKING:
    from ssis_dispatcher.cli.trial import Trial
    from ssis_dispatcher.settings import Loaded, Settings


@click.command(cls=SettingsCommand)
@click.option("-q", "--quiet", is_flag=True, help="No banner.")
@click.option("--try", "try_out", is_flag=True, help="Ask the packaged model once, and show what becomes of it.")
@click.option("--once", is_flag=True, help="With --try: stop after the answer; exit code 1 when there was none.")
@with_settings_flags
@click.pass_context
def serve(ctx: click.Context, loaded: Loaded, quiet: bool, try_out: bool, once: bool) -> None:
    """Run the dispatcher in the foreground.

    It stops on Ctrl-C or SIGTERM, when the requests it has taken in are answered. Most settings are flags here, a
    variable SSIS_…, and a key of the settings file; `ssis config` shows which of them count.
    """
    from ssis_dispatcher import assembly

    trials: list[Trial] = []

    def ready(url: str) -> None:
        if not quiet:
            click.echo(banner(loaded, url), err=True)
        if try_out or once:
            trials.append(tried(url, once))

    try:
        code = assembly.serve(loaded.settings, ready=ready)
    except OSError as error:
        raise Failure(_reason(error, loaded.settings)) from None
    for trial in trials:
        trial.wait(5.0)
    ctx.exit(trials[0].code if once and trials else code)


def tried(url: str, once: bool) -> Trial:
    """The try, begun. With ``once`` its end is the dispatcher's, too, as if somebody had pressed Ctrl-C."""
    from ssis_dispatcher.cli.trial import Trial

    trial = Trial(url, over=lambda: os.kill(os.getpid(), signal.SIGTERM) if once else None)
    trial.start()
    return trial


def banner(loaded: Loaded, url: str) -> str:
    """What an operator should know at the start: where it listens, who may call, what to try."""
    settings = loaded.settings
    return "\n".join(
        (
            f"SSIS-Dispatcher {__version__} listens on {_where(settings, url)}",
            f"  callers    {_callers(settings)}",
            f"  settings   {loaded.file or 'no file'}, all of them: ssis config",
            '  try        ssis ask demo "Once upon a time"',
            "  stop       Ctrl-C",
        )
    )


def _where(settings: Settings, url: str) -> str:
    """``url`` is how this machine reaches it; on all addresses it listens where that is not said."""
    return f"all addresses, here as {url}" if settings.host in ("", "0.0.0.0", "::") else url


def _callers(settings: Settings) -> str:
    if settings.is_private:
        return "programs of this machine, without a key"
    return "anybody, without a key (--insecure)" if settings.insecure else f"those with a key of {settings.keys_file}"


def _reason(error: OSError, settings: Settings) -> str:
    """Why listening failed, and what to do."""
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken by another program; choose another port with --port, or stop that program"
    if isinstance(error, socket.gaierror):
        return f"there is no host {settings.host}: {error.strerror}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {settings.host}; choose one of its own with --host"
    if error.errno == errno.EACCES and not error.filename and settings.port < 1024:
        return f"this user may not listen on port {settings.port}; choose one above 1023 with --port"
    return f"cannot serve: {error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
