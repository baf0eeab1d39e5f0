"""`ssis ask` against a dispatcher on a real socket."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

Ssis = Callable[..., Any]
Write = Callable[[str], None]


def answering(say: SimpleNamespace, *pieces: str) -> Callable[[Write], None]:
    def stream(write: Write) -> None:
        for piece in pieces:
            write(say.delta(piece))
        write(say.delta("", finish_reason="stop"))
        write(say.event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 7}))
        write(say.done)

    return stream


def test_the_answer_goes_to_standard_output_and_the_rest_to_standard_error(
    ssis: Ssis, dispatcher: Any, say: SimpleNamespace
) -> None:
    dispatcher.stream = answering(say, "Once ", "upon a time.")
    result = ssis("ask", "demo", "Tell", "me")
    assert result.exit_code == 0
    assert result.stdout == "Once upon a time.\n"
    assert result.stderr.startswith("7 tokens, first after 0.")
    assert "\x1b" not in result.stdout + result.stderr


def test_the_question_carries_what_was_asked_for(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    dispatcher.stream = answering(say, "x")
    ssis(
        *("ask", "org/demo", "Hello", "--system", "Be brief.", "-n", "9", "-t", "0"),
        *("--context", "512", "--revision", "v2", "--api-key", "ssis-secret"),
    )
    (_, path, headers, body), *_ = dispatcher.asked
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer ssis-secret"
    assert headers["x-request-id"].startswith("cli-")
    assert body == {
        "model": "org/demo@v2",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0,
        "ssis": {"context": 512},
    }


def test_raw_continues_the_prompt(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    def stream(write: Write) -> None:
        write(say.event(choices=[{"text": " upon"}]) + say.done)

    dispatcher.stream = stream
    assert ssis("ask", "--raw", "demo", "Once").stdout == " upon\n"
    assert dispatcher.bodies("/v1/completions")[0]["prompt"] == "Once"


def test_the_prompt_comes_from_standard_input_when_it_is_a_dash_or_missing(
    ssis: Ssis, dispatcher: Any, say: SimpleNamespace
) -> None:
    dispatcher.stream = answering(say, "x")
    ssis("ask", "demo", "-", input="from a pipe\n")
    ssis("ask", "demo", input="again")
    contents = [body["messages"][0]["content"] for body in dispatcher.bodies("/v1/chat/completions")]
    assert contents == ["from a pipe\n", "again"]


def test_quiet_prints_the_answer_alone(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    dispatcher.stream = answering(say, "Yes.")
    result = ssis("ask", "-q", "demo", "Well?")
    assert (result.stdout, result.stderr) == ("Yes.\n", "")


def test_json_has_the_whole_answer_and_its_figures(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    dispatcher.stream = answering(say, "Yes", ".")
    found = json.loads(ssis("ask", "-o", "json", "demo", "Well?").stdout)
    assert found["text"] == "Yes."
    assert found["finish_reason"] == "stop"
    assert found["usage"]["completion_tokens"] == 7
    assert found["request"].startswith("cli-")


def test_thoughts_are_shown_beside_the_answer(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    def stream(write: Write) -> None:
        write(say.event(choices=[{"delta": {"reasoning_content": "Hmm."}}]) + say.delta("Yes.") + say.done)

    dispatcher.stream = stream
    result = ssis("ask", "demo", "Well?")
    assert result.stdout == "Yes.\n"
    assert result.stderr.startswith("Hmm.\n")


def test_an_answer_that_was_cut_says_so(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    dispatcher.stream = lambda write: write(say.delta("Yes", finish_reason="length") + say.done)
    assert "cut at the token limit" in ssis("ask", "demo", "Well?").stderr


def test_phases_are_lines_where_there_is_no_terminal(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    starting = {"model": "demo", "phase": "starting", "detail": "loading"}
    dispatcher.requests = [say.waiting, say.waiting | {"position": 2}, starting, starting]

    def stream(write: Write) -> None:
        write(": queued\n\n")
        assert dispatcher.looked.wait(30)  # for the last time, so that what was seen before is shown
        answering(say, "Yes.")(write)

    dispatcher.stream = stream
    first, second, last = ssis("ask", "demo", "Well?").stderr.splitlines()
    assert first == "demo: waiting for a slice, all slices are busy, position 3, about 12 s"
    assert second == "demo: starting, loading"
    assert last.startswith("7 tokens")


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ("", "the answer broke off before its end"),
        ('data: {"error": {"message": "The model ran out of memory."}}\n\n', "ssis: The model ran out of memory.\n"),
        ('event: error\ndata: {"detail": "It stopped."}\n\n', "ssis: It stopped.\n"),
        ("data: oops\n\n", "not JSON"),
    ],
)
def test_an_answer_without_its_proper_end_is_a_failure(
    ssis: Ssis, dispatcher: Any, say: SimpleNamespace, pieces: str, words: str
) -> None:
    dispatcher.stream = lambda write: write(say.delta("Half an") + pieces)
    result = ssis("ask", "demo", "Well?")
    assert result.exit_code == 1
    assert result.stdout == "Half an\n"
    assert words in result.stderr


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            404,
            {"error": {"message": "There is no model nope.", "code": "model_not_found"}},
            "ssis: There is no model nope\n",
        ),
        (503, {"error": {"message": "All is full."}}, "ssis: All is full; try again in 7 s\n"),
        (401, {"error": {"message": "A key is needed."}}, "--api-key or SSIS_API_KEY"),
        (500, {"unexpected": 1}, "answered 500"),
        (200, {"choices": []}, "without a stream"),
    ],
)
def test_a_refusal_is_told_in_its_own_words(ssis: Ssis, dispatcher: Any, status: int, body: object, words: str) -> None:
    dispatcher.replies["POST", "/v1/chat/completions"] = status, body
    result = ssis("ask", "nope", "Well?")
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stdout == ""


def test_raw_and_system_exclude_each_other(ssis: Ssis) -> None:
    result = ssis("ask", "--raw", "--system", "x", "demo", "y")
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


def command(dispatcher: Any, **streams: Any) -> subprocess.Popen[bytes]:
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "SSIS_URL": dispatcher.url, "TERM": "xterm"}
    words = [sys.executable, "-m", "ssis_dispatcher.cli", "ask", "demo", "Well?"]
    return subprocess.Popen(words, env=environ, stdin=subprocess.DEVNULL, **streams)


def test_ctrl_c_leaves_the_stream_and_the_dispatcher_notices(dispatcher: Any, say: SimpleNamespace) -> None:
    def stream(write: Write) -> None:
        while True:
            write(say.delta("on and on "))

    dispatcher.stream = stream
    with command(dispatcher, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(9) == b"on and on"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert dispatcher.left.wait(30)


def test_on_a_terminal_the_phase_turns_in_place_and_never_reaches_standard_output(
    dispatcher: Any, say: SimpleNamespace
) -> None:
    shown = threading.Event()
    dispatcher.requests = [say.waiting | {"model": "demo"} for _ in range(1000)]

    def stream(write: Write) -> None:
        assert shown.wait(30)
        answering(say, "Yes.")(write)

    dispatcher.stream = stream
    ours, theirs = pty.openpty()
    try:
        with command(dispatcher, stdout=subprocess.PIPE, stderr=theirs) as process:
            assert process.stdout is not None
            terminal = b""
            while b"waiting for a slice" not in terminal:
                assert select.select([ours], [], [], 30)[0]
                terminal += os.read(ours, 4096)
            shown.set()
            assert process.stdout.read() == b"Yes.\n"
        assert process.wait(30) == 0
        assert b"\x1b[" in terminal
    finally:
        os.close(ours)
        os.close(theirs)
