"""`ssis doctor`."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

Ssis = Callable[..., Any]


def check(name: str, ok: bool, detail: str = "", fix: str = "") -> SimpleNamespace:
    return SimpleNamespace(name=name, ok=ok, detail=detail, fix=fix)


def test_what_is_missing_comes_with_the_command_that_fixes_it(ssis: Ssis, assembly: SimpleNamespace) -> None:
    assembly.diagnose = lambda settings: [
        check("python", True, "3.11"),
        check("libgomp", False, "not found", "apt-get install libgomp1"),
    ]
    result = ssis("doctor")
    assert result.exit_code == 1
    assert result.stdout == (
        "CHECK        DETAIL     TO DO\npython   ok  3.11\nlibgomp  NO  not found  apt-get install libgomp1\n"
    )
    assert json.loads(ssis("doctor", "-o", "json").stdout)[1]["fix"] == "apt-get install libgomp1"


def test_all_well_ends_with_zero_and_the_flags_of_serve_count(ssis: Ssis, assembly: SimpleNamespace) -> None:
    assembly.diagnose = lambda settings: [check("port", settings.port == 99)]
    assert ssis("doctor", "--port", "99").exit_code == 0
    assert ssis("doctor").exit_code == 1
