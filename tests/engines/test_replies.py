"""Cutting streams into events, and reading what engines say when something is wrong."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.engines.replies import LARGEST_EVENT, Events, reported, understood
from ssis_dispatcher.errors import UpstreamError

STREAM = (
    b": keep-alive\n\n"
    b'data: {"a":1}\n\n'
    b'event: delta\r\nid: 7\r\ndata:{"b":2}\r\n\r\n'
    b"data: one\ndata: two\n\n"
    b"retry: 10\n\n"
    b'error: {"message":"broken"}\n\n'
    b"data: [DONE]\n\n"
)
EVENTS = [b'{"a":1}', b'{"b":2}', b"one\ntwo", b'{"error":{"message":"broken"}}', b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_come_out_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    events, found, start = Events(), [], 0
    for end in [*sorted(cuts), len(STREAM)]:
        found += events.feed(STREAM[start:end])
        start = end
    assert found + events.end() == EVENTS


def test_an_event_without_its_empty_line_is_given_at_the_end() -> None:
    events = Events()
    assert events.feed(b'data: {"a":1}') == []
    assert events.end() == [b'{"a":1}']
    assert events.end() == []


def test_an_event_without_end_is_the_servers_fault() -> None:
    events = Events()
    for _ in range(LARGEST_EVENT // 100_000):
        assert events.feed(b"x" * 100_000) == []
    with pytest.raises(UpstreamError, match="without end"):
        events.feed(b"x" * 100_000)


@pytest.mark.parametrize("data", [b"", b"<html>", b"{", b'{"a": \xff}', b"[" * 100_000])
def test_what_cannot_be_understood_is_the_servers_fault(data: bytes) -> None:
    with pytest.raises(UpstreamError, match="cannot be understood"):
        understood(msgspec.json.Decoder(dict[str, int]).decode, data)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"error":{"message":"too long","type":"x","param":null,"code":400}}', "too long"),
        (b'{"error":"Model is overloaded","error_type":"overloaded"}', "Model is overloaded"),
        (b'{"object":"error","message":"no such model"}', "no such model"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"detail":[{"loc":["body"],"msg":"missing"}]}', '[{"loc":["body"],"msg":"missing"}]'),
        (b"Failed to deserialize the JSON body", "Failed to deserialize the JSON body"),
        (b"<html><body>502</body></html>", ""),
        (b"", ""),
        (b"{}", ""),
        (b'{"error":{"nested":', ""),
    ],
)
def test_the_sentence_is_found_in_every_engines_errors(body: bytes, sentence: str) -> None:
    assert reported(body) == sentence
