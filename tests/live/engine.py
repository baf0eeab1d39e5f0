"""An inference server as an operator might configure one: a program of its own, which speaks OpenAI's routes and does what
the tests need servers to do. It is run, never imported.

    engine.py PORT NAME FOLDER [MIB]

It answers its health route well once FOLDER holds no file ``hold-NAME``, and ends before that when FOLDER holds
``fail-NAME``, with that file's text on standard error. With MIB it first takes so much memory. The last
line of the prompt says how it answers: `ANSWERS` lists the words.
What happened is left in FOLDER as files: ``environment-NAME`` (a line of JSON per start), ``asked-NAME`` (one per request)
and ``left-NAME`` (a line per caller that hung up before its answer was whole).
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT, NAME, FOLDER = int(sys.argv[1]), sys.argv[2].replace("/", "_"), Path(sys.argv[3])
MEMORY = b"x" * (int(sys.argv[4]) << 20 if len(sys.argv) > 4 else 0)

FAILURE = FOLDER / f"fail-{NAME}"

PATIENCE = 60.0
"""Seconds after which an answer that waits for something gives up, so that nothing outlives a broken test for long."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        starting = (FOLDER / f"hold-{NAME}").exists()
        if starting and FAILURE.exists():
            print(FAILURE.read_text(), file=sys.stderr, flush=True)
            os._exit(1)
        self.whole({"status": "starting" if starting else "ok"}, 503 if starting else 200)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        note("asked", json.dumps({"path": self.path, "headers": headers, "body": body}))
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        word = prompt.splitlines()[-1]
        self.stream = bool(body.get("stream"))
        self.tools = body.get("tools")
        try:
            ANSWERS.get(word, Handler.answer)(self)
        except OSError:
            note("left", word)
            self.close_connection = True

    # What answers are made of

    def whole(self, reply: object, status: int = 200) -> None:
        data = json.dumps(reply).encode()
        self.head(status, "application/json", len(data))
        self.wfile.write(data)

    def head(self, status: int, content_type: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        if length is None:
            self.send_header("transfer-encoding", "chunked")
        else:
            self.send_header("content-length", str(length))
        self.end_headers()

    def chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def begin(self) -> None:
        self.head(200, "text/event-stream")

    def token(self, text: str) -> None:
        self.chunk(f"data: {json.dumps(reply_of(text, None, 'delta'))}\n\n")

    def gone(self, within: float) -> bool:
        """Whether the caller hangs up within these seconds."""
        ready, _, _ = select.select([self.connection], [], [], within)
        return bool(ready) and not self.connection.recv(1, socket.MSG_PEEK)

    # The answers

    def answer(self) -> None:
        """Three words, and a proper end."""
        if not self.stream:
            self.whole(reply_of("one two three", "stop", "message") | {"usage": usage()})
            return
        self.begin()
        for text in ("one ", "two ", "three"):
            self.token(text)
        self.chunk(f"data: {json.dumps(reply_of('', 'stop', 'delta'))}\n\ndata: [DONE]\n\n")
        self.chunk("")

    def until_told(self) -> None:
        """One word; the rest when FOLDER holds ``go-NAME``, or never when the caller leaves."""
        if self.stream:
            self.begin()
            self.token("one ")
        for _ in range(int(PATIENCE / 0.02)):
            if (FOLDER / f"go-{NAME}").exists():
                break
            if self.gone(0.02):
                raise ConnectionResetError
        if self.stream:
            self.chunk(f"data: {json.dumps(reply_of('two', 'stop', 'delta'))}\n\ndata: [DONE]\n\n")
            self.chunk("")
        else:
            self.whole(reply_of("one two", "stop", "message") | {"usage": usage()})

    def truncate(self) -> None:
        """A clean end as far as HTTP can tell, in the middle of the answer."""
        if self.stream:
            self.begin()
            self.token("one ")
            self.chunk("")
            return
        data = json.dumps(reply_of("one two three", "stop", "message")).encode()[:-20]
        self.head(200, "application/json", len(data))
        self.wfile.write(data)

    def break_off(self) -> None:
        """The connection ends in the middle of the answer."""
        self.begin()
        self.token("one ")
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def garbage(self) -> None:
        """What is no HTTP."""
        self.wfile.write(b"\x00\xff this is no HTTP \r\n\r\n" * 4)
        self.close_connection = True

    def no_json(self) -> None:
        """HTTP, but not what was asked for."""
        data = b"<html>It works!</html>"
        self.head(200, "text/html", len(data))
        self.wfile.write(data)

    def die(self) -> None:
        """The whole server ends, after the first word."""
        if self.stream:
            self.begin()
            self.token("one ")
        print("fatal error: the tensor is a canary-of-the-log", file=sys.stderr, flush=True)
        os._exit(3)

    def call_a_tool(self) -> None:
        """No words, but a call of the first tool that was offered."""
        name = self.tools[0]["function"]["name"]
        call = {"id": "call-1", "type": "function", "function": {"name": name, "arguments": '{"city": "Hsinchu"}'}}
        if not self.stream:
            self.whole(reply_of(None, "tool_calls", "message", tool_calls=[call]) | {"usage": usage()})
            return
        self.begin()
        for event in (
            reply_of(None, None, "delta", tool_calls=[{"index": 0, **call}]),
            reply_of(None, "tool_calls", "delta"),
        ):
            self.chunk(f"data: {json.dumps(event)}\n\n")
        self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def refuse(self) -> None:
        """An error in the engine's own words."""
        self.whole({"error": {"message": "the prompt is too long", "type": "invalid_request_error", "code": 400}}, 400)

    def log_message(self, format: str, *args: object) -> None:
        pass


ANSWERS: dict[str, Callable[[Handler], None]] = {
    "wait": Handler.until_told,
    "truncate": Handler.truncate,
    "break off": Handler.break_off,
    "garbage": Handler.garbage,
    "no json": Handler.no_json,
    "die": Handler.die,
    "refuse": Handler.refuse,
    "call a tool": Handler.call_a_tool,
}


def reply_of(text: str | None, finish: str | None, part: str, **more: object) -> dict[str, Any]:
    """One answer, or one piece of it, that reads as a chat's and as a completion's."""
    choice = {"index": 0, "text": text, part: {"role": "assistant", "content": text, **more}, "finish_reason": finish}
    kind = "chat.completion.chunk" if part == "delta" else "chat.completion"
    return {"id": "x", "object": kind, "created": 1, "model": NAME, "choices": [choice]}


def usage() -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}


def note(what: str, line: str) -> None:
    with (FOLDER / f"{what}-{NAME}").open("a") as file:
        file.write(line + "\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


if FAILURE.exists():
    sys.exit(FAILURE.read_text())
note("environment", json.dumps(dict(os.environ)))
Server(("127.0.0.1", PORT), Handler).serve_forever(poll_interval=0.05)
