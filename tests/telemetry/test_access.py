"""One JSON line for each request, written in batches."""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from tests.telemetry.rows import finished

from ssis_dispatcher.telemetry.access import BATCH, EVERY, AccessLog


class Desk:
    """What an access log is given: a place to write, a timer, a clock."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.now = 1_764_000_000.25
        self.log = AccessLog(
            self.written.append, lambda after, call: self.timers.append((after, call)), lambda: self.now
        )

    def record(self, **fields: object) -> None:
        self.log.record(finished(**fields), self.now - 1_000_000_000.0)  # the loop has another origin

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in "".join(self.written).split("\n")[:-1]]


def test_a_line_says_who_asked_what_and_how_it_ended() -> None:
    desk = Desk()
    desk.record()
    desk.log.flush()
    assert desk.lines() == [
        {
            "time": "2025-11-24T16:00:00.250Z",
            "id": "r-1",
            "caller": "alice",
            "method": "POST",
            "route": "/v1/chat/completions",
            "dialect": "openai",
            "model": "demo",
            "status": 200,
            "bytes": 1234,
            "duration": 0.0123,
            "held": 0.0,
            "ttfb": 0.0042,
            "server": "demo1",
            "outcome": "ok",
        }
    ]


def test_a_reply_without_a_byte_has_no_time_to_first_byte() -> None:
    desk = Desk()
    desk.record(ttfb=None)
    desk.log.flush()
    assert desk.lines()[0]["ttfb"] is None


def test_a_line_has_the_time_of_day_at_which_the_loop_stood_then() -> None:
    desk = Desk()
    for now in (1_764_000_000.0, 1_764_000_000.5, 1_764_000_000.5, 1_764_000_001.75):
        desk.now = now
        desk.record()
    desk.log.flush()
    assert [str(line["time"])[17:] for line in desk.lines()] == ["00.000Z", "00.500Z", "00.500Z", "01.750Z"]


@given(st.text(max_size=50), st.text(max_size=50), st.text(max_size=50))
def test_whatever_comes_from_outside_stays_one_line_of_json(id: str, model: str, caller: str) -> None:
    desk = Desk()
    desk.record(id=id, model=model, caller=caller)
    desk.log.flush()
    [line] = desk.lines()
    assert (line["id"], line["model"], line["caller"]) == (id, model, caller)


def test_lines_wait_for_the_timer_which_is_armed_once() -> None:
    desk = Desk()
    for _ in range(3):
        desk.record()
    assert desk.written == []
    assert [after for after, _ in desk.timers] == [EVERY]
    desk.timers[0][1]()
    assert len(desk.written) == 1
    assert len(desk.lines()) == 3
    desk.record()
    assert len(desk.timers) == 2


def test_a_full_batch_is_written_at_once() -> None:
    desk = Desk()
    while not desk.written:
        desk.record()
    assert BATCH <= len(desk.written[0]) < BATCH + 10_000  # lines are made a few dozen at a time
    desk.record()
    assert len(desk.timers) == 1
    desk.log.flush()
    desk.written.pop()
    desk.timers[0][1]()  # the timer of a batch that is already out
    assert len(desk.written) == 1


def test_flushing_nothing_writes_nothing() -> None:
    desk = Desk()
    desk.log.flush()
    assert desk.written == []


def test_when_the_file_cannot_be_written_lines_are_counted_and_the_next_ones_tried() -> None:
    desk = Desk()
    full = True
    kept: list[str] = []

    def write(text: str) -> None:
        if full:
            raise OSError(28, "No space left on device")
        kept.append(text)

    desk.log = AccessLog(write, lambda after, call: None)
    for _ in range(40):
        desk.record()
    desk.log.flush()
    assert desk.log.lost == 40
    full = False
    desk.record()
    desk.log.flush()
    assert len(kept) == 1
    assert desk.log.lost == 40
