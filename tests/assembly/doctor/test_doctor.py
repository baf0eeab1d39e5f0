"""The doctor looks at everything, survives what it finds, and leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ssis_dispatcher.assembly.doctor import Check, doctor
from ssis_dispatcher.settings import Settings

NewSettings = Callable[..., Settings]


def test_this_machine_can_run_the_tests_so_nothing_is_broken(settings: NewSettings) -> None:
    checks = doctor(settings())

    assert [check for check in checks if check.ok is False] == []
    assert [check.name for check in checks] == [
        "python",
        "httptools",
        "uvloop",
        "libgomp",
        "xllamacpp",
        "demo model",
        "port",
        "keys",
        "cache directory",
        "state directory",
        "model hub",
        "open files",
        "memory limits",
        "oom score",
        "gpus",
    ]
    assert all(check.detail for check in checks)


def test_looking_leaves_nothing_behind(settings: NewSettings, tmp_path: Path) -> None:
    doctor(settings())

    assert list(tmp_path.iterdir()) == []


def test_a_look_that_fails_hides_no_other(settings: NewSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(shutil, "disk_usage", broken)
    found = {check.name: check for check in doctor(settings())}

    assert found["cache directory"] == Check(
        "cache directory", None, "could not be looked at: RuntimeError: the disk is on fire"
    )
    assert found["port"].ok
