"""``docs/cli.md``, written from the commands themselves: ``python -m ssis_dispatcher.cli.reference > docs/cli.md``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from ssis_dispatcher.cli import ALIASES, main
from ssis_dispatcher.cli.flags import SettingsCommand
from ssis_dispatcher.settings.fields import fields

_HEAD = """# The command line

<!-- Written by `python -m ssis_dispatcher.cli.reference`; edit src/ssis_dispatcher/cli/ instead. -->

`ssis serve` runs the dispatcher; the other commands talk to it, or look at this machine.

- Data goes to standard output and everything else to standard error. `-o json` and `-o yaml` print it for programs.
- Exit codes: 0 done, 1 it could not be done, 2 asked wrongly (the command line, or a setting that cannot be read),
  130 interrupted.
- Commands that talk to a dispatcher find it by `--url`, else `$SSIS_URL`, else where `ssis serve` would listen with the
  same settings, and send the key of `--api-key`, else `$SSIS_API_KEY`. See [settings](settings.md).
- `--cluster` finds the dispatcher that is deployed in a Kubernetes cluster: by the kubeconfig's current context (or the
  one of `--kube-context`), in namespace `$SSIS_NAMESPACE` (`nthulab`). Requests go through the API server: nothing has to be
  forwarded; it takes the rights `list` on `pods` and `get,create,delete` on `pods/proxy`. Without a key of yours it sends
  the one that `make deploy` left in the Secret `dispatcher-api-key`, if you may read it. It needs the extra `k8s`.
- Without a terminal there are no colours and no spinners: the phases of a starting model are lines.
- Completion in the shell: `eval "$(_SSIS_COMPLETE=bash_source ssis)"` for bash, `zsh_source` for zsh, and
  `_SSIS_COMPLETE=fish_source ssis | source` for fish.
"""


def page() -> str:
    """The whole page, as Markdown."""
    context = click.Context(main, info_name="ssis")
    return "\n".join([_HEAD, *_sections(main, context)])


def _sections(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        yield _section(command, inner)
        if isinstance(command, click.Group):
            yield from _sections(command, inner)


def _section(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## {context.command_path}", "", f"    {usage}", "", inspect.cleandoc(command.help or ""), ""]
    aliases = [f"Also `ssis {alias}`." for alias, name in ALIASES.items() if name == context.info_name]
    parts += [*aliases, ""] if aliases else []
    takes_settings = isinstance(command, SettingsCommand)
    own = [parameter for parameter in command.params if not (takes_settings and parameter.name in fields())]
    records = [parameter.get_help_record(context) for parameter in own if isinstance(parameter, click.Option)]
    parts += (
        [*(f"- `{names}` {' '.join(words.split())}" for names, words in filter(None, records)), ""] if records else []
    )
    if takes_settings:
        parts += [
            "Most [settings](settings.md) are flags of it, too, as that page says: `--keep-alive 20m`, `--no-access-log`.",
            "",
        ]
    return "\n".join(parts)


if __name__ == "__main__":
    click.echo(page(), nl=False)
