"""`ssis config`: values, origins, no secrets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssis_dispatcher.settings.fields import fields
from ssis_dispatcher.settings.page import page

Ssis = Callable[..., Any]
NO_FLAGS = {"hub_token", "api_key", "url", "server_env", "engines"}


def test_every_setting_with_its_value_and_origin(ssis: Ssis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my.toml"
    file.write_text('keep_alive = "20m"\n[engines.x]\ncommand = "x"')
    monkeypatch.setenv("SSIS_DWELL", "1m")
    result = ssis("config", "--config", str(file), "--port", "0", "--no-access-log", "-o", "json")
    found = json.loads(result.stdout)
    assert list(found) == list(fields())
    assert found["port"] == {"value": "0", "source": "flag", "place": "--port"}
    assert found["access_log"] == {"value": "false", "source": "flag", "place": "--access-log"}
    assert found["dwell"] == {"value": "1m", "source": "env", "place": "SSIS_DWELL"}
    assert found["keep_alive"] == {"value": "20m", "source": "file", "place": str(file)}
    assert found["engines"]["value"] == "x"
    assert found["host"] == {"value": "127.0.0.1", "source": "default", "place": ""}
    assert yaml.safe_load(ssis("config", "-o", "yaml").stdout)["host"]["source"] == "default"


def test_the_table_names_the_place(ssis: Ssis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSIS_PORT", "81")
    lines = [line.split() for line in ssis("config").stdout.splitlines()]
    assert lines[0] == ["SETTING", "VALUE", "FROM"]
    assert ["port", "81", "SSIS_PORT"] in lines
    assert ["host", "127.0.0.1", "default"] in lines


def test_secrets_are_masked(ssis: Ssis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setenv("SSIS_API_KEY", "ssis-canary")
    monkeypatch.setenv("SSIS_SERVER_ENV", "SECRET=canary")
    for output in ("table", "json", "yaml"):
        assert "canary" not in ssis("config", "-o", output).stdout
    assert json.loads(ssis("config", "-o", "json").stdout)["hub_token"]["place"] == "HF_TOKEN"


def test_the_documentation_needs_no_valid_settings(ssis: Ssis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSIS_PORT", "high")
    assert ssis("config", "--docs").stdout == page()


def test_the_help_has_every_setting_that_may_be_a_flag_in_its_section(ssis: Ssis) -> None:
    text = ssis("serve", "--help").stdout
    for field in fields().values():
        assert (f"  {field.flag} " in text) == field.is_flag, field.name
    assert {field.name for field in fields().values() if not field.is_flag} == NO_FLAGS
    assert text.index("\nListening:") < text.index("--host") < text.index("\nLimits of the listener:")
