"""A waiting request in words."""

from __future__ import annotations

import pytest

from ssis_dispatcher.cli.screen import in_words


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "demo: waiting"),
        ({"phase": "slice", "why": "All slices are taken.", "position": 3}, "All slices are taken, position 3"),
        (
            {"phase": "starting", "detail": "loading", "why": "Server a is starting: loading."},
            "demo: starting, loading",
        ),
        ({"phase": "seat", "expected_seconds": 12.4}, "demo: waiting for a seat, about 12 s"),
        ({"phase": "starting", "detail": "down\x1b[2Jloading"}, "demo: starting, down"),
    ],
)
def test_where_a_request_stands(request_: dict[str, object], words: str) -> None:
    line = in_words({"model": "demo", **request_})
    assert words in line
    assert line.isprintable()
    assert not line.endswith(".")
