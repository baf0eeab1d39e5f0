"""What the kernel and the hardware allow."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from ssis_dispatcher.assembly.doctor import machine
from ssis_dispatcher.settings import Settings

NewSettings = Callable[..., Settings]


@pytest.mark.parametrize(
    ("hard", "ok"), [(4_096, None), (40_256, True), (1_048_576, True), (resource.RLIM_INFINITY, True)]
)
def test_open_files_must_suffice_for_all_connections_and_their_servers(
    settings: NewSettings, monkeypatch: pytest.MonkeyPatch, hard: int, ok: bool | None
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1_024, hard))
    check = machine.open_files(settings(max_connections=20_000))

    assert check.ok is ok
    assert ("LimitNOFILE=40256" in check.fix) == (ok is None)


def test_the_oom_score_is_left_as_it_is(settings: NewSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    score = tmp_path / "oom_score_adj"
    score.write_text("100\n")
    monkeypatch.setattr(machine, "OOM_SCORE", score)

    assert machine.oom_score(settings()).ok is True
    assert score.read_text() == "100\n"


def test_an_oom_score_that_cannot_be_written_is_worth_a_word(
    settings: NewSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "OOM_SCORE", tmp_path / "none")

    assert machine.oom_score(settings()).ok is None
