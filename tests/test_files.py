from __future__ import annotations

from pathlib import Path

import pytest

from ssis_dispatcher.files import BadFile, as_table, as_type, load, parse_toml, parse_yaml, suggestion


def test_the_ending_of_its_name_decides_how_a_file_is_read(tmp_path: Path) -> None:
    for name, text in (("a.toml", "x = 1"), ("a.yaml", "x: 1"), ("a.yml", "x: 1"), ("a", "x: 1")):
        (tmp_path / name).write_text(text)
        assert load(tmp_path / name) == {"x": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "f:2: `c` occurs twice"),
        ("a: &x [1]\nb: *x", "f:2: aliases"),
        ("a: [1", "f:1: "),
        ("a: \x00", "f: not readable as YAML"),
        ("!!python/name:os.system", "f:1: could not determine a constructor"),
        ("[" * 100_000, "f"),
    ],
)
def test_yaml_that_is_wrong_or_hostile_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(BadFile) as caught:
        parse_yaml(text, "f")
    assert words in str(caught.value)


def test_toml_that_is_wrong_is_refused_with_its_line() -> None:
    with pytest.raises(BadFile, match=r"f: .*line 2"):
        parse_toml("a = 1\na = 2\n", "f")


def test_an_unknown_key_is_answered_with_the_nearest_or_with_all() -> None:
    with pytest.raises(BadFile, match=r"f: unknown key `contxt`\. Did you mean `context`\?"):
        as_table({"contxt": 1}, "f", ("context", "seats"))
    assert suggestion("xyz", ("context", "seats")) == " Known are: context, seats."
    assert as_table({"anything": 1}, "f") == {"anything": 1}


@pytest.mark.parametrize("value", [None, [], "text", 5])
def test_what_should_be_a_mapping_is_one(value: object) -> None:
    with pytest.raises(BadFile, match="f: expected a mapping"):
        as_table(value, "f")


def test_values_are_not_bent_into_shape() -> None:
    assert as_type(5, int, "f") == 5
    for value in ("5", True, 5.5, None):
        with pytest.raises(BadFile, match="f: expected int, got"):
            as_type(value, int, "f")
