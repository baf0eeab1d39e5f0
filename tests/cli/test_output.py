"""Tables and units."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.cli import output


def test_numbers_stand_to_the_right_and_nothing_is_a_dash() -> None:
    assert (
        output.table(["NAME", "N"], [("a", 1), ("bb", 100), ("c", None)])
        == "NAME    N\na       1\nbb    100\nc       -"
    )


@given(st.text())
def test_safe_text_has_no_control_characters_but_line_ends_and_tabs(text: str) -> None:
    shown = output.safe(text)
    assert len(shown) == len(text)
    assert not any((ord(one) < 32 and one not in "\n\t") or 127 <= ord(one) < 160 for one in shown)


def test_seconds_for_people() -> None:
    values = (None, 0.04, 9.96, 75, 119.6, 150, 7199, 9000)
    assert [output.seconds(value) for value in values] == [
        "-",
        "0.0 s",
        "10.0 s",
        "75 s",
        "120 s",
        "2 min",
        "120 min",
        "2.5 h",
    ]


def test_mebibytes_for_people() -> None:
    assert [output.mib(value) for value in (None, 0, 512, 1024, 81559)] == [
        "-",
        "0 MiB",
        "512 MiB",
        "1.0 GiB",
        "79.6 GiB",
    ]
