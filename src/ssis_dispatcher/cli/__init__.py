"""The `ssis` command.

Data goes to standard output and everything else to standard error. Exit codes: 0 done, 1 it could not be done, 2 asked
wrongly (command line or settings), 130 interrupted.

A command's module is imported when that command runs, and not before: `ssis --help` imports none of them, which is why
the summaries stand here, too.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import click

from ssis_dispatcher.cli.failures import Failure

_COMMANDS = {
    "Run": {
        "serve": ("serve", "Run the dispatcher in the foreground."),
        "doctor": ("doctor", "Check what works on this machine or in a cluster, and say how to fix the rest."),
        "config": ("config", "Print every setting, its value and where it came from."),
        "keys": ("keys", "Make, list and revoke API keys."),
    },
    "Use": {
        "ask": ("ask", "Ask a model, and stream its answer."),
        "plan": ("plan", "Explain where a model would run, and why not elsewhere."),
        "models": ("look", "List the models that can be asked for."),
    },
    "Look": {
        "servers": ("look", "List the running inference servers."),
        "slices": ("look", "List the slices: how many, how many are held, what is free."),
        "queue": ("look", "List who is waiting, for what, and for how long."),
        "logs": ("logs", "Print what a server printed last."),
    },
    "Steer": {
        "warm": ("steer", "Start a model before somebody asks it."),
        "stop": ("steer", "Stop servers; a busy one finishes first."),
        "pin": ("steer", "Keep a model's server, however idle."),
        "unpin": ("steer", "Let a pinned model go when it is idle."),
    },
    "Cache": {
        "pull": ("cache", "Download a model into the cache."),
        "cached": ("cache", "List the models of the cache."),
        "rm": ("cache", "Remove models from the cache."),
    },
    "More": {
        "version": ("version", "Print the version."),
    },
}
"""Section of the help → command → module of this package and summary. The command has its name there."""

ALIASES = {"ps": "servers"}

INTERRUPTED = 130
"""128 + SIGINT, as shells have it: a loop around `ssis ask` ends, too."""


class Commands(click.Group):
    """The commands, imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in _COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        for section in _COMMANDS.values():
            if name in section:
                module = importlib.import_module(f"{__name__}.{section[name][0]}")
                command: click.Command = getattr(module, name)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], [*self.list_commands(ctx), *ALIASES])
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise click.UsageError(error.message + hint, ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        others = {name: alias for alias, name in ALIASES.items()}
        for title, section in _COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (f"{name}, {others[name]}" if name in others else name, summary)
                        for name, (_, summary) in section.items()
                    ]
                )

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. What its rooms refuse, in words meant for people, becomes the command's failure."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click would print "Aborted!" and exit with 1
            click.echo(err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from ssis_dispatcher.errors import DispatchError
            from ssis_dispatcher.files import BadFile

            if isinstance(error, DispatchError | BadFile):
                raise Failure(str(error)) from None
            raise


def _version(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from ssis_dispatcher import __version__

        click.echo(f"ssis {__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
)
def main() -> None:
    """One HTTP endpoint in front of every language model.

    `ssis serve` runs the dispatcher; the other commands talk to it, or look at this machine.
    """
