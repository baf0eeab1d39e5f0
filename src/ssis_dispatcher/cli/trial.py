"""`ssis serve --try`: one request through the front door as soon as it is open, and what becomes of it.

Runs in a thread beside the dispatcher and talks to it as any caller would.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import httpx2

from ssis_dispatcher.cli.client import Client
from ssis_dispatcher.cli.failures import Failure
from ssis_dispatcher.cli.output import mib, safe
from ssis_dispatcher.cli.sse import EventStream
from ssis_dispatcher.cli.ways import straight

BODY: dict[str, Any] = {
    "token": "What is Deep Learning?",
    "par": {"max_new_tokens": "20"},
    "env": {"MODEL_ID": "demo", "HF_TOKEN": ""},
}
"""The request of the README, for the packaged model."""

_WATCHED = "/api/events?only=ModelDescribed,ServerProgressed,ServerReady,ServerFailed"


class Trial:
    """One try against the dispatcher at ``url``. ``over`` is called from its thread when it has ended; ``code`` is then the
    exit code."""

    def __init__(self, url: str, over: Callable[[], None]) -> None:
        self.code = 1
        self._client = Client(straight(url))
        self._over = over
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="trial", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self, within: float) -> None:
        """Wait for the end, so that its last words are not cut off."""
        self._thread.join(within)

    def _run(self) -> None:
        try:
            self._note(f"asking `demo`, the model that comes with this program: POST / {json.dumps(BODY)}")
            with self._client.stream(_WATCHED) as events:
                watcher = threading.Thread(target=self._watch, args=(events,), name="trial-watch", daemon=True)
                self._began = time.monotonic()
                watcher.start()
                self._ask()
            self.code = 0
        except Failure as error:
            click.echo(f"ssis: there was no answer: {error}", err=True)
        finally:
            self._over()

    def _watch(self, events: Iterator[bytes]) -> None:
        """Tell the phases as the dispatcher itself reports them."""
        stream = EventStream()
        with contextlib.suppress(Failure, httpx2.HTTPError):
            for chunk in events:
                for event in stream.feed(chunk):
                    if event.comment is None and (words := in_words(event.name, json.loads(event.data))):
                        self._note(words)

    def _ask(self) -> None:
        """Send the request and print the answer as it comes. Raises `Failure` unless it came to its proper end."""
        answer, stream = "", EventStream()
        with self._client.stream("/", {**BODY, "stream": True}) as chunks:
            for chunk in chunks:
                for event in stream.feed(chunk):
                    if event.comment is None:
                        said = json.loads(event.data)
                        answer = self._say(said, answer)
        click.echo()
        if not answer:
            raise Failure("the answer broke off before its end")
        self._placed()
        self._note("answered")

    def _say(self, said: dict[str, Any], answer: str) -> str:
        """Print one event of the answer; the whole text once it is complete."""
        if "error" in said:
            raise Failure(str(said["error"]))
        token = said.get("token") or {}
        if not token.get("special"):
            click.echo(safe(str(token.get("text", ""))), nl=False)
        return str(said.get("generated_text") or answer)

    def _placed(self) -> None:
        for server in self._client.get("/api/servers")["servers"]:
            seats = f"{server['seats']} seats of {server['context']} tokens"
            self._note(f"it runs on the slice {server['slice']} of {server['node']}, with {seats}: ssis ps")

    def _note(self, words: str) -> None:
        click.echo(f"{time.monotonic() - self._began:7.3f} s  {safe(words)}", err=True)


def in_words(name: str, recorded: dict[str, Any]) -> str:
    """One event of the fleet for people; "" for what is not worth a line."""
    event = recorded.get("event", {})
    if name == "ModelDescribed":
        bytes_ = event["profile"]["facts"].get("weight_bytes")
        return f"known: {mib(bytes_ / 2**20)} of weights" if bytes_ else "known: not how large it is"
    if name == "ServerProgressed":
        return f"its server: {event['phase']} {event['detail']}".rstrip()
    if name == "ServerReady":
        return f"ready at {event['address']}"
    return f"failed: {event['failure']['message']}" if name == "ServerFailed" else ""
