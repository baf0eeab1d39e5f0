"""One line for each change of state, event first, without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from ssis_dispatcher.telemetry.logs import DEBUG, WARNING, log, setup

TOKEN = "hf_Canary0123456789abcdef"

Setup = Callable[..., io.StringIO]


@pytest.fixture
def listening() -> Iterator[Setup]:
    """Sets up logging into a text buffer, and puts the process's own handlers back afterwards."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level

    def begin(format: Literal["text", "json"] = "text", level: str = "info") -> io.StringIO:
        stream = io.StringIO()
        setup(format, level, stream)
        return stream

    yield begin
    root.handlers[:] = before
    root.setLevel(level)


def test_a_text_line_has_time_level_event_and_facts(listening: Setup) -> None:
    stream = listening()
    log("server ready", model="org/m", seconds=0.3123456789, pinned=True, node=None, changed=["a", "b"], why="a b")
    time, rest = stream.getvalue().rstrip("\n").split(" ", 1)
    assert time.endswith("Z")
    assert len(time) == len("2026-11-24T03:00:00.123Z")
    assert rest == 'info     server ready  model=org/m seconds=0.312346 pinned=yes node=- changed=a,b why="a b"'


def test_a_json_line_is_one_object_with_the_event_first_after_time_and_level(listening: Setup) -> None:
    stream = listening("json")
    log("server failed", WARNING, server="demo1", seconds=1.5, lines=["a", "b"])
    assert stream.getvalue().count("\n") == 1
    line = json.loads(stream.getvalue())
    assert list(line) == ["time", "level", "event", "server", "seconds", "lines"]
    assert (line["level"], line["event"], line["seconds"]) == ("warning", "server failed", 1.5)
    assert line["lines"] == ["a", "b"]


def test_an_error_is_a_traceback_where_it_is_an_exception_and_else_a_fact(listening: Setup) -> None:
    stream = listening("json")
    log("task failed", error="ValueError('x')")
    log("task failed", error=ValueError("y"))
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["error"], "traceback" in first) == ("ValueError('x')", False)
    assert second["traceback"] == "ValueError: y"


def test_a_field_cannot_pose_as_the_line_itself(listening: Setup) -> None:
    stream = listening("json")
    fields: dict[str, Any] = {"event": "forged", "time": "never"}
    log("real", **fields)
    line = json.loads(stream.getvalue())
    assert line["event"] == "real"
    assert line["event_"] == "forged"


def test_a_newline_in_a_value_cannot_begin_a_line(listening: Setup) -> None:
    stream = listening()
    log("refused", model="x\n2026-01-01T00:00:00.000Z info  forged")
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("format", ["text", "json"])
def test_no_secret_gets_through_by_value_name_message_or_traceback(listening: Setup, format: str) -> None:
    stream = listening(format, "debug")
    try:
        raise ValueError(f"bad token={TOKEN}")
    except ValueError as error:
        log(f"event with {TOKEN}", error=error, hf_token="plain", headers={"Authorization": "Bearer abcd"}, text=TOKEN)
    logging.getLogger("library").warning("GET https://hub/x?token=%s", "plain-secret")
    written = stream.getvalue()
    assert "ValueError" in written
    assert TOKEN not in written
    assert "plain" not in written
    assert "abcd" not in written


def test_below_its_level_nothing_is_written(listening: Setup) -> None:
    stream = listening(level="info")
    log("detail", DEBUG)
    assert stream.getvalue() == ""


def test_libraries_are_heard_from_warnings_on_and_named(listening: Setup) -> None:
    stream = listening("json", "debug")
    logging.getLogger("httpx2").info("HTTP Request: GET …")
    logging.getLogger("httpx2").warning("odd")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["logger"], line["event"]) for line in lines] == [("httpx2", "odd")]
