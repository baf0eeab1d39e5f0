"""What the documentation says must hold: links lead somewhere, commands and settings exist, versions agree."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

import ssis_dispatcher
from ssis_dispatcher.cli import main

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z_-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:^|`)make ([a-z_-]+)", page.read_text(), re.MULTILINE):
        assert target in targets


def commands_in(page: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line.removeprefix(".venv/bin/") for line in lines if re.match(r"(\.venv/bin/)?ssis ", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_that_is_shown_parses(page: Path) -> None:
    for line in commands_in(page):
        words = shlex.split(line)[1:]
        context = click.Context(main, info_name="ssis")
        command = main.get_command(context, words[0])
        assert command is not None, line
        while isinstance(command, click.Group):
            words = words[1:]
            command = command.get_command(context, words[0])
            assert command is not None, line
        command.make_context(words[0], words[1:], parent=context, resilient_parsing=False)


def test_the_changelog_knows_this_version_or_an_unreleased_one() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text or f"## [{ssis_dispatcher.__version__}]" in text


def test_every_decision_is_numbered_once_and_titled() -> None:
    decisions = sorted((ROOT / "docs/decisions").glob("*.md"))
    for number, path in enumerate(decisions, start=1):
        assert path.name.startswith(f"{number:04d}-")
        assert path.read_text().startswith(f"# {number}. ")
