"""`ssis pull`, `cached`, `rm`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssis_dispatcher.errors import ModelNotServable
from ssis_dispatcher.models.sources import CachedModel
from ssis_dispatcher.settings import Settings

Ssis = Callable[..., Any]
GIB = 2**30


def test_a_download_shows_its_progress_and_prints_the_file(ssis: Ssis, assembly: SimpleNamespace) -> None:
    def pull(settings: Settings, model: str, progress: Callable[[int, int | None], None]) -> Path:
        for done in range(0, 4 * GIB + 1, GIB // 64):
            progress(done, 4 * GIB)
        return Path("/cache") / model

    assembly.pull = pull
    result = ssis("pull", "org/big")
    assert result.stdout == "/cache/org/big\n"
    lines = result.stderr.splitlines()
    assert len(lines) == 11
    assert lines[0] == "org/big: 0 MiB of 4.0 GiB"
    assert lines[-1] == "org/big: 4.0 GiB of 4.0 GiB"


def test_a_download_of_unknown_size_shows_what_is_there(ssis: Ssis, assembly: SimpleNamespace) -> None:
    def pull(settings: Settings, model: str, progress: Callable[[int, int | None], None]) -> Path:
        progress(GIB // 2, None)
        progress(GIB, None)
        return Path("/x")

    assembly.pull = pull
    assert ssis("pull", "org/big").stderr == "org/big: 512 MiB\norg/big: 1.0 GiB\n"


@pytest.mark.parametrize(
    "error", [ModelNotServable("There is no such model."), OSError(28, "No space left on device", "/cache")]
)
def test_what_goes_wrong_is_said_in_one_line(ssis: Ssis, assembly: SimpleNamespace, error: Exception) -> None:
    def pull(*_: object) -> Path:
        raise error

    assembly.pull = pull
    result = ssis("pull", "org/big")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr in ("ssis: There is no such model.\n", "ssis: /cache: No space left on device\n")


def test_the_cache_is_listed(ssis: Ssis, assembly: SimpleNamespace) -> None:
    entry = CachedModel("org/big", Path("/cache/big.gguf"), GIB, 1_700_000_000.0, True)
    assembly.cached = lambda settings: [entry]
    assert json.loads(ssis("cached", "-o", "json").stdout) == [
        {"model": "org/big", "path": "/cache/big.gguf", "bytes": GIB, "used": 1_700_000_000.0, "busy": True}
    ]
    heading, row = ssis("cached").stdout.splitlines()
    assert heading.split("  ")[0] == "MODEL"
    assert row.startswith("org/big  1.0 GiB  2023-11-1")
    assert row.endswith("  in use  /cache/big.gguf")


def test_a_model_is_removed_and_one_that_is_not_there_is_an_error(ssis: Ssis, assembly: SimpleNamespace) -> None:
    assembly.remove = lambda settings, model: GIB if model == "org/big" else 0
    assert ssis("rm", "org/big").stderr == "org/big is removed, 1.0 GiB are free again\n"
    result = ssis("rm", "org/big", "nope")
    assert result.exit_code == 1
    assert result.stderr.endswith("ssis: nope is not in the cache; `ssis cached` lists what is\n")
