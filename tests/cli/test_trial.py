"""`ssis serve --try`: one request through the front door, and what is told of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ssis_dispatcher.cli.trial import BODY, Trial, in_words


def token(text: str, whole: str | None = None, special: bool = False) -> str:
    """One event of an answer."""
    return f"data: {json.dumps({'token': {'text': text, 'special': special}, 'generated_text': whole})}\n\n"


class Front:
    """A dispatcher's front door, as far as a try sees it. ``answer`` are the events, ``status`` not 200 is a refusal."""

    def __init__(self) -> None:
        self.status = 200
        self.answer = [token("Deep "), token("Learning."), token("</s>", "Deep Learning.", special=True)]
        self.asked: list[object] = []
        self.answered = threading.Event()
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    front: Front

    def do_GET(self) -> None:
        if self.path == "/api/servers":
            self._json(200, {"servers": [{"seats": 4, "context": 128, "slice": "cpu-1gib", "node": "here"}]})
            return
        self._head("text/event-stream")
        ready = {"event": {"address": "127.0.0.1:4"}}
        self.wfile.write(f"event: ServerReady\ndata: {json.dumps(ready)}\n\n".encode())
        self.wfile.flush()
        self.front.answered.wait(10)

    def do_POST(self) -> None:
        self.front.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if self.front.status != 200:
            self._json(self.front.status, {"detail": "All slices are busy.", "code": "no_capacity"})
            return
        self._head("text/event-stream")
        self.wfile.write((": waiting\n\n" + "".join(self.front.answer)).encode())

    def _head(self, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.end_headers()

    def _json(self, status: int, body: object) -> None:
        self._head("application/json", status)
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def front() -> Iterator[Front]:
    front = Front()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"front": front})) as server:
        front.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield front
        front.answered.set()
        server.shutdown()
        thread.join()


def tried(front: Front) -> Trial:
    """A try that has ended."""
    over = threading.Event()

    def ended() -> None:
        front.answered.set()
        over.set()

    trial = Trial(front.url, ended)
    trial.start()
    assert over.wait(10)
    trial.wait(10)
    return trial


def test_the_answer_goes_to_stdout_and_what_happens_to_stderr(front: Front, capsys: pytest.CaptureFixture[str]) -> None:
    assert tried(front).code == 0
    said = capsys.readouterr()
    assert said.out == "Deep Learning.\n"
    assert "asking `demo`" in said.err
    assert "it runs on the slice cpu-1gib of here, with 4 seats of 128 tokens" in said.err
    assert said.err.rstrip().endswith("answered")
    assert front.asked == [{**BODY, "stream": True}]


def test_an_answer_that_breaks_off_is_no_answer(front: Front, capsys: pytest.CaptureFixture[str]) -> None:
    front.answer = front.answer[:2]
    assert tried(front).code == 1
    assert "there was no answer: the answer broke off before its end" in capsys.readouterr().err


def test_a_refusal_is_told_in_its_own_words(front: Front, capsys: pytest.CaptureFixture[str]) -> None:
    front.status = 503
    assert tried(front).code == 1
    said = capsys.readouterr()
    assert "there was no answer: All slices are busy" in said.err
    assert said.out == ""


def test_an_error_within_the_stream_is_told(front: Front, capsys: pytest.CaptureFixture[str]) -> None:
    front.answer = [token("Deep "), 'event: error\ndata: {"error": "The server died.", "error_type": "x"}\n\n']
    assert tried(front).code == 1
    assert "The server died." in capsys.readouterr().err


def test_what_a_model_says_cannot_steer_the_terminal(front: Front, capsys: pytest.CaptureFixture[str]) -> None:
    front.answer = [token("\x1b[2J"), token("x", "x")]
    assert tried(front).code == 0
    assert "\x1b" not in capsys.readouterr().out


def test_its_end_is_told_even_when_nobody_listens(unused: int, capsys: pytest.CaptureFixture[str]) -> None:
    front = Front()
    front.url = f"http://127.0.0.1:{unused}"
    assert tried(front).code == 1
    assert "no dispatcher answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "event", "words"),
    [
        ("ModelDescribed", {"profile": {"facts": {"weight_bytes": 3 * 2**20}}}, "known: 3 MiB of weights"),
        ("ModelDescribed", {"profile": {"facts": {"weight_bytes": None}}}, "known: not how large it is"),
        ("ServerProgressed", {"phase": "loading", "detail": ""}, "its server: loading"),
        ("ServerProgressed", {"phase": "downloading", "detail": "3 MiB"}, "its server: downloading 3 MiB"),
        ("ServerReady", {"address": "127.0.0.1:4"}, "ready at 127.0.0.1:4"),
        ("ServerFailed", {"failure": {"message": "no such file"}}, "failed: no such file"),
        ("TimePassed", {}, ""),
    ],
)
def test_events_are_told_in_words(name: str, event: dict[str, object], words: str) -> None:
    assert in_words(name, {"event": event}) == words
