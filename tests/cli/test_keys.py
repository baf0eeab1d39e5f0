"""`ssis keys`, with the real key file."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ssis_dispatcher.gateway.keys import Keyring

Ssis = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSIS_KEYS_FILE", str(tmp_path / "keys.jsonl"))
    return tmp_path / "keys.jsonl"


def test_the_secret_is_alone_on_standard_output_and_opens_the_door(ssis: Ssis, file: Path) -> None:
    result = ssis("keys", "create", "alice")
    assert result.exit_code == 0
    secret = result.stdout.strip()
    assert Keyring([file]).check(b"Bearer " + secret.encode()).name == "alice"
    assert secret not in file.read_text() + result.stderr
    assert str(file) in result.stderr


def test_limits_are_kept_and_listed_without_hashes(ssis: Ssis, file: Path) -> None:
    ssis("keys", "create", "bob", "--role", "operate", "--model", "org/*", "--model", "demo", "--kind", "mig")
    ssis(
        *("keys", "create", "carol", "--in-flight", "4", "--per-minute", "60", "--slices", "2"),
        *("--launches-per-minute", "3", "--expires", "2020-01-31"),
    )
    bob, carol = json.loads(ssis("keys", "list", "-o", "json").stdout)
    assert bob["models"] == ["org/*", "demo"]
    assert (bob["role"], bob["kinds"]) == ("operate", ["mig"])
    assert (carol["in_flight"], carol["per_minute"], carol["slices"], carol["launches_per_minute"]) == (4, 60, 2, 3)
    assert carol["role"] == "use", "what is usual is said, too"
    assert "hash" not in bob
    table = ssis("keys", "list").stdout
    assert "org/*, demo" in table
    assert "(over)" in table
    assert "sha256" not in table


def test_a_key_may_end_after_a_while(ssis: Ssis, file: Path) -> None:
    ssis("keys", "create", "dave", "--expires", "30d")
    (dave,) = json.loads(ssis("keys", "list", "-o", "json").stdout)
    left = datetime.fromisoformat(dave["expires"]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)


def test_a_revoked_key_is_gone(ssis: Ssis, file: Path) -> None:
    ssis("keys", "create", "eve")
    assert ssis("keys", "revoke", "eve").stderr == "eve is revoked\n"
    assert json.loads(ssis("keys", "list", "-o", "json").stdout) == []
    result = ssis("keys", "revoke", "eve")
    assert result.exit_code == 1
    assert "no key named 'eve'" in result.stderr


@pytest.mark.parametrize("name", ["alice", "a b"])
def test_a_name_that_is_taken_or_none_is_refused(ssis: Ssis, file: Path, name: str) -> None:
    ssis("keys", "create", "alice")
    result = ssis("keys", "create", name)
    assert (result.exit_code, result.stdout) == (1, "")


def test_a_moment_that_is_none_ends_with_two(ssis: Ssis, file: Path) -> None:
    result = ssis("keys", "create", "x", "--expires", "soon")
    assert result.exit_code == 2
    assert "neither a duration" in result.stderr
    assert not file.exists()


def test_a_broken_file_or_a_directory_is_told(ssis: Ssis, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("oops\n")
    result = ssis("keys", "list")
    assert result.exit_code == 1
    assert f"{file}, line 1" in result.stderr
    monkeypatch.setenv("SSIS_KEYS_FILE", str(file.parent))
    assert "is a directory" in ssis("keys", "list").stderr
    monkeypatch.setenv("SSIS_KEYS_FILE", str(file / "below"))
    assert ssis("keys", "create", "x").exit_code == 1
