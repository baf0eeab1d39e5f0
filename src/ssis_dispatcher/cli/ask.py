"""`ssis ask`: one question, its answer as it is written."""

from __future__ import annotations

import json
import secrets
import sys
import time
from typing import TYPE_CHECKING

import click

from ssis_dispatcher.cli.answers import Answer
from ssis_dispatcher.cli.client import Client
from ssis_dispatcher.cli.failures import Failure, Misused
from ssis_dispatcher.cli.options import hub_token_header, hub_token_option, with_client_and_settings
from ssis_dispatcher.cli.output import safe
from ssis_dispatcher.cli.screen import screen
from ssis_dispatcher.cli.sse import EventStream
from ssis_dispatcher.cli.watch import Watch

if TYPE_CHECKING:
    from ssis_dispatcher.settings import Loaded


@click.command()
@click.argument("model")
@click.argument("prompt", nargs=-1)
@click.option("--raw", is_flag=True, help="Continue the prompt as it stands, without a chat template.")
@click.option("--system", metavar="TEXT", help="What the model is told before the prompt.")
@click.option("-n", "--max-tokens", type=click.IntRange(1), metavar="N", help="Most tokens to generate.")
@click.option("-t", "--temperature", type=click.FloatRange(0), metavar="X", help="0 always takes the likeliest token.")
@click.option("--context", type=click.IntRange(1), metavar="N", help="Tokens of context the server must have.")
@click.option("--revision", metavar="REV", help="Revision of the model.")
@click.option("-q", "--quiet", is_flag=True, help="Print the answer and nothing else.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Format.")
@hub_token_option
@with_client_and_settings
def ask(
    client: Client,
    loaded: Loaded,
    model: str,
    prompt: tuple[str, ...],
    raw: bool,
    quiet: bool,
    output: str,
    send_hub_token: bool,
    **wishes: object,
) -> None:
    """Ask a model, and stream its answer.

    PROMPT is read from standard input when it is `-`, or when it is left out of a pipe. While the model starts, its
    phases are shown; Ctrl-C leaves, which stops the generation.
    """
    path, body = request(model, _prompt(prompt), raw=raw, **wishes)
    conversation = Conversation(client, quiet, echo=output == "text")
    conversation.run(path, body, hub_token_header(loaded, send_hub_token))
    if output == "json":
        click.echo(json.dumps(conversation.summary(model), indent=2, ensure_ascii=False))
    elif not quiet:
        click.echo(conversation.remarks(), err=True)


def _prompt(words: tuple[str, ...]) -> str:
    if words and words != ("-",):
        return " ".join(words)
    if not words and sys.stdin.isatty():
        raise Misused("a prompt is missing: `ssis ask MODEL PROMPT`, or `-` to read it from standard input")
    return sys.stdin.read()


def request(
    model: str,
    prompt: str,
    *,
    raw: bool = False,
    system: object = None,
    max_tokens: object = None,
    temperature: object = None,
    context: object = None,
    revision: object = None,
) -> tuple[str, dict[str, object]]:
    """Path and body of the question; what is None is left to the model."""
    body: dict[str, object] = {"model": f"{model}@{revision}" if revision else model}
    if raw:
        if system:
            raise Misused("--system and --raw exclude each other: without a chat template there is nobody to tell")
        body["prompt"] = prompt
    else:
        told = [{"role": "system", "content": system}] if system else []
        body["messages"] = [*told, {"role": "user", "content": prompt}]
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    optional = {"max_tokens": max_tokens, "temperature": temperature, "ssis": {"context": context} if context else None}
    body |= {name: value for name, value in optional.items() if value is not None}
    return "/v1/completions" if raw else "/v1/chat/completions", body


class Conversation:
    """One request and its answer, with the times at which things happened."""

    def __init__(self, client: Client, quiet: bool = False, echo: bool = True) -> None:
        self.client = client
        self.quiet = quiet
        self.echo = echo
        self.answer = Answer()
        self.id = f"cli-{secrets.token_hex(8)}"
        self.started = self.first = self.last = time.monotonic()
        self._thinking = False

    def run(self, path: str, body: dict[str, object], headers: dict[str, str]) -> None:
        """Ask, and print pieces as they come. Raises `Failure` unless the answer came to its proper end."""
        events = EventStream()
        try:
            with (
                Watch(self.client, self.id, screen(self.quiet)) as watch,
                self.client.stream(path, body, headers | {"x-request-id": self.id}) as chunks,
            ):
                for chunk in chunks:
                    for event in events.feed(chunk):
                        if event.comment is not None:
                            watch.hint(safe(event.comment))
                        elif piece := self.answer.take(event):
                            self._piece(watch, piece.text, piece.thought)
        finally:
            if self.echo and self.answer.text:
                click.echo()
        if not self.answer.done:
            raise Failure("the answer broke off before its end; `ssis logs` may say why")

    def _piece(self, watch: Watch, text: str, thought: str) -> None:
        if not text and not thought:
            return
        self.last = time.monotonic()
        if self.answer.pieces == 1:
            self.first = self.last
            watch.end()
        if thought and self.echo and not self.quiet:
            self._thinking = True
            click.echo(safe(thought), nl=False, err=True)
        if text and self.echo:
            if self._thinking:
                click.echo("\n", err=True)
            self._thinking = False
            click.echo(safe(text) if sys.stdout.isatty() else text, nl=False)

    def speed(self) -> float | None:
        """Tokens per second after the first one; None where there was no second."""
        elapsed = self.last - self.first
        return (self.answer.tokens - 1) / elapsed if self.answer.tokens > 1 and elapsed > 0 else None

    def remarks(self) -> str:
        """How it went, in one line."""
        count = self.answer.tokens
        parts = [f"{count} token{'' if count == 1 else 's'}", f"first after {self.first - self.started:.2f} s"]
        if (speed := self.speed()) is not None:
            parts.append(f"{speed:.1f} tokens/s")
        if self.answer.finish_reason == "length":
            parts.append("cut at the token limit (--max-tokens)")
        return ", ".join(parts)

    def summary(self, model: str) -> dict[str, object]:
        """The same for programs."""
        return {
            "model": model,
            "text": self.answer.text,
            "finish_reason": self.answer.finish_reason,
            "usage": self.answer.usage or None,
            "request": self.id,
            "first_token_seconds": round(self.first - self.started, 4),
            "seconds": round(self.last - self.started, 4),
            "tokens_per_second": self.speed(),
        }
