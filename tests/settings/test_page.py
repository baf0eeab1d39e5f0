"""The documentation says what the code does."""

from __future__ import annotations

from pathlib import Path

from ssis_dispatcher.settings.fields import fields
from ssis_dispatcher.settings.page import page

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_in_the_repository_is_the_generated_one() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(), "settings changed: run `ssis config --docs > docs/settings.md`"


def test_every_setting_has_a_row_and_no_path_of_this_machine() -> None:
    for field in fields().values():
        assert page().count(f"| `{field.name}` | {field.kind.name}{field.bounds} |") == 1
    assert str(Path.home()) + "/" not in page()
