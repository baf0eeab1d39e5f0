"""The command as a whole: its help, its exit codes, and what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import click
import pytest

from ssis_dispatcher import __version__
from ssis_dispatcher.cli import _COMMANDS, ALIASES, main

Ssis = Callable[..., Any]

EVERY = [(name, summary) for section in _COMMANDS.values() for name, (_, summary) in section.items()]


@pytest.mark.parametrize(("name", "summary"), EVERY)
def test_the_summary_in_the_help_is_the_first_line_of_the_command(name: str, summary: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").partition("\n")[0] == summary


@pytest.mark.parametrize("name", [*(name for name, _ in EVERY), *ALIASES])
def test_every_command_has_help(ssis: Ssis, name: str) -> None:
    result = ssis(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ssis ")


def python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_and_version_import_nothing_that_takes_time() -> None:
    heavy = ("httpx2", "msgspec", "rich", "yaml", "asyncio", "ssis_dispatcher.settings", "ssis_dispatcher.assembly")
    for flag in ("--help", "--version"):
        found = python(
            "import sys\nfrom ssis_dispatcher.cli import main\n"
            f"main([{flag!r}], standalone_mode=False)\n"
            f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
        )
        assert found.returncode == 0
        assert found.stderr == "[]\n"


def test_the_shell_completes_commands_without_importing_them() -> None:
    code = "from ssis_dispatcher.cli import main\nmain(prog_name='ssis')"
    found = python(code, _SSIS_COMPLETE="bash_complete", COMP_WORDS="ssis sl", COMP_CWORD="1")
    assert found.stdout == "plain,slices\n"


def test_version(ssis: Ssis) -> None:
    assert ssis("--version").stdout == f"ssis {__version__}\n"
    assert ssis("version").stdout.startswith(f"ssis {__version__} (Python 3.")
    assert json.loads(ssis("version", "-o", "json").stdout)["ssis"] == __version__


def test_wrong_settings_end_any_command_with_two(ssis: Ssis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSIS_PROT", "80")
    monkeypatch.setenv("SSIS_PORT", "high")
    result = ssis("servers")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        'ssis: SSIS_PORT="high": expected a whole number, 0 to 65535\n'
        "ssis: unknown variable SSIS_PROT in the environment; did you mean SSIS_PORT?\n"
    )


def test_an_option_that_does_not_exist_ends_with_two(ssis: Ssis) -> None:
    assert ssis("servers", "--outptu", "json").exit_code == 2
