"""Event streams, however they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.cli.sse import Event, EventStream

STREAM = (
    ': keep-alive\r\n\r\ndata: {"a":\ndata: 1}\n\nevent: error\ndata:x\n\n'
    "id: 7\nretry: 5\ndata: \u2028\x85 ü\n\ndata: lost"
)
EVENTS = [Event(comment="keep-alive"), Event('{"a":\n1}'), Event("x", "error"), Event("\u2028\x85 ü")]


def read(*pieces: bytes) -> list[Event]:
    stream = EventStream()
    return [event for piece in pieces for event in stream.feed(piece)]


@given(st.lists(st.integers(0, len(STREAM.encode()))))
def test_the_events_are_the_same_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    whole = STREAM.encode()
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(edges)]
    assert read(*pieces) == EVENTS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_three_line_ends_count(end: str) -> None:
    assert read(f"data: 1{end}{end}data: 2{end}{end}:{end}".encode())[:2] == [Event("1"), Event("2")]


def test_an_event_without_data_is_none() -> None:
    assert read(b"event: ping\n\n\n\ndata: x\n\n") == [Event("x")]


def test_bytes_that_are_not_utf8_do_not_stop_the_stream() -> None:
    assert read(b"data: \xff\n\n") == [Event("�")]
