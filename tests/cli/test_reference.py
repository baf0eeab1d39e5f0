"""The documentation says what the commands do."""

from __future__ import annotations

from pathlib import Path

import click

from ssis_dispatcher.cli import main
from ssis_dispatcher.cli.reference import page

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_page_in_the_repository_is_the_generated_one() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(), "commands changed: run `python -m ssis_dispatcher.cli.reference > docs/cli.md`"


def test_every_command_has_its_heading() -> None:
    lines = page().splitlines()
    names = main.list_commands(click.Context(main))
    assert [line for line in lines if line.startswith("## ") and line.count(" ") == 2] == [
        f"## ssis {name}" for name in names
    ]
    assert "## ssis keys create" in lines
