"""Settings whose every path is the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssis_dispatcher.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Settings]:
    """Makes settings that touch nothing outside the test's folder, and ask no hub."""

    def make(**changes: Any) -> Settings:
        own: dict[str, Any] = {
            "port": 0,
            "cache_dir": tmp_path / "cache",
            "state_dir": tmp_path / "state",
            "keys_file": tmp_path / "keys.jsonl",
            "hub_offline": True,
        }
        return Settings(**(own | changes))

    return make
