"""Helpers for the tests of the engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ssis_dispatcher.engines.base import Engine, Options
from ssis_dispatcher.engines.generation import READ, Generation, read
from ssis_dispatcher.engines.replies import Finish, Piece, Reader
from ssis_dispatcher.errors import Problem, Unprocessable

SAMPLES: dict[str, object] = {
    "max_new_tokens": 20,
    "min_new_tokens": 2,
    "do_sample": True,
    "temperature": 0.5,
    "top_k": 10,
    "top_p": 0.9,
    "typical_p": 0.8,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.2,
    "presence_penalty": 0.3,
    "seed": 7,
    "stop": ["END"],
    "stop_token_ids": [2],
    "suppress_tokens": [5],
    "truncate": 100,
    "best_of": 2,
    "watermark": True,
    "details": True,
    "decoder_input_details": True,
    "top_n_tokens": 3,
    "grammar": {"type": "json", "value": {"type": "object"}},
    "adapter_id": "org/adapter",
    "return_full_text": True,
}
"""A value that changes something, for every parameter that any engine can do."""

assert SAMPLES.keys() == READ.keys()

Asked = Callable[..., dict[str, Any]]


@pytest.fixture
def samples() -> dict[str, object]:
    """A value that changes something, for every parameter that any engine can do."""
    return SAMPLES


@pytest.fixture
def asked() -> Asked:
    """The body of an engine's request for a generation with these parameters."""

    def ask(engine: Engine, stream: bool = False, **parameters: object) -> dict[str, Any]:
        generation = Generation("Hello", read(parameters, "par"), stream, "par")
        body = msgspec.json.decode(engine.ask(generation, "demo").body)
        assert isinstance(body, dict)
        return body

    return ask


@pytest.fixture
def refused() -> Callable[[Engine], set[str]]:
    """The parameters that an engine refuses, each by its name."""

    def names(engine: Engine) -> set[str]:
        found = set()
        for name, value in SAMPLES.items():
            problem = _problem(engine, name, value)
            if problem is not None:
                assert problem.param == f"par.{name}"
                assert problem.message.startswith(f"`par.{name}` cannot be used here: ")
                found.add(name)
        return found

    return names


def _problem(engine: Engine, name: str, value: object) -> Problem | None:
    try:
        engine.ask(Generation("Hello", read({name: value}, "par"), False, "par"), "demo")
    except Unprocessable as error:
        return error.problem
    return None


@pytest.fixture
def played() -> Callable[[Reader, list[bytes]], tuple[str, Finish | None, list[Piece]]]:
    """A stream read event by event: the text, the end, and the pieces."""

    def play(reader: Reader, events: list[bytes]) -> tuple[str, Finish | None, list[Piece]]:
        pieces, end = [], None
        for data in events:
            piece, finish = reader.event(data)
            if piece is not None:
                pieces.append(piece)
            end = finish or end
        return "".join(piece.text for piece in pieces), end, pieces

    return play


@pytest.fixture
def options() -> Options:
    return Options("org/name", "org/name", "127.0.0.1", 8001, context=4096, seats=4, memory_mib=10240)
