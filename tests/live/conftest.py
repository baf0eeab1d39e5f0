"""Dispatchers for the tests against the program as its users meet it: one that most share, and new ones for faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.live.support import Dispatcher, running, write_settings

SHARES: dict[str, Any] = {"cpu_slices": "24x512MiB", "launches_per_minute": 1000}

Start = Callable[..., Dispatcher]


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    """The dispatcher that most tests talk to: nothing that they do to it may matter to another. The packaged model runs
    on it, and `scripted` of the tests' own engine."""
    folder = tmp_path_factory.mktemp("live")
    write_settings(folder, {"scripted": {}}, **SHARES)
    with running(folder) as dispatcher:
        for model in ("demo", "scripted"):
            assert dispatcher.chat(model, max_tokens=1).answer().status == 200
        yield dispatcher


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a dispatcher of one's own, with a catalogue and settings; it ends with the test. Called again, it starts the next
    one in the same folder, as after a restart."""
    with ExitStack() as ends:

        def begin(
            *flags: str,
            models: Mapping[str, Mapping[str, object]] | None = None,
            engines: Mapping[str, list[str]] | None = None,
            env: Mapping[str, str] | None = None,
            **settings: object,
        ) -> Dispatcher:
            write_settings(tmp_path, models or {"scripted": {}}, engines, **{**SHARES, **settings})
            return ends.enter_context(running(tmp_path, *flags, env=env))

        yield begin
