"""`ssis plan`, asked and made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import yaml

from ssis_dispatcher.core.messages import Model
from ssis_dispatcher.core.placement import Candidate, Plan
from ssis_dispatcher.core.sizing import Fit, ModelFacts, Profile
from ssis_dispatcher.core.slices import Slice, SliceKind
from ssis_dispatcher.errors import ModelNotServable
from ssis_dispatcher.files import BadFile
from ssis_dispatcher.settings import Settings

Ssis = Callable[..., Any]

SMALL = Fit(Slice(1024, 0.25, "cpu-1gib", SliceKind.CPU), 1, 0, 1024, 3000, 512, 12.5, "3512 MiB are needed")
LARGE = Fit(Slice(4096, 1.0, "cpu-4gib", SliceKind.CPU), 1, 4, 4096, 3000, 512, 12.5)
PROFILE = Profile(ModelFacts("gguf", 3000 * 2**20, 12800), 1024)
LAUNCH = Plan(
    Model.of("org/big"),
    PROFILE,
    "launch",
    "",
    slice="cpu-4gib",
    node="here",
    count=1,
    seats=4,
    context=1024,
    expected_seconds=2.5,
    candidates=(Candidate(LARGE, 1, 2), Candidate(SMALL, 4, 4)),
)
REFUSED = Plan(Model.of("org/big"), Profile(ModelFacts(), 1024), "refuse", "No slice is large enough.")


def test_the_running_dispatcher_is_asked(ssis: Ssis, dispatcher: Any) -> None:
    dispatcher.replies["POST", "/api/plan"] = 200, msgspec.to_builtins(LAUNCH)
    result = ssis("plan", "org/big", "--context", "1024", "--concurrency", "2")
    assert result.exit_code == 0
    assert dispatcher.bodies("/api/plan") == [{"model": "org/big", "context": 1024, "concurrency": 2}]
    assert result.stdout == (
        "org/big starts on 1 x cpu-4gib of here, 4 seats of 1024 tokens, in about 2.5 s\n"
        "Known of it: weights 2.9 GiB and 12800 bytes per token of context (source: gguf).\n"
        "\n"
        "SLICE     MEMORY   WEIGHTS  OVERHEAD  PER SEAT  SEATS  FREE  WHY NOT\n"
        "cpu-4gib  4.0 GiB  2.9 GiB  512 MiB   12 MiB        4  1/2\n"
        "cpu-1gib  1.0 GiB  2.9 GiB  512 MiB   12 MiB        0  4/4   3512 MiB are needed\n"
    )


def test_what_a_server_asks_of_its_node_is_told(ssis: Ssis, dispatcher: Any) -> None:
    asks = msgspec.structs.replace(PROFILE, host_cpu_millis=1500, host_mib=8192)
    plan = msgspec.structs.replace(LAUNCH, profile=asks)
    dispatcher.replies["POST", "/api/plan"] = 200, msgspec.to_builtins(plan)
    lines = ssis("plan", "org/big").stdout.splitlines()
    assert lines[2] == "Beside the slice, a server asks 8.0 GiB of memory and 1.5 CPUs of its node."


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_programs_get_the_whole_plan(ssis: Ssis, dispatcher: Any, output: str) -> None:
    dispatcher.replies["POST", "/api/plan"] = 200, msgspec.to_builtins(LAUNCH)
    text = ssis("plan", "org/big", "-o", output).stdout
    found = json.loads(text) if output == "json" else yaml.safe_load(text)
    assert msgspec.convert(found, Plan) == LAUNCH


def test_a_model_that_fits_nowhere_ends_with_one(ssis: Ssis, dispatcher: Any) -> None:
    dispatcher.replies["POST", "/api/plan"] = 200, msgspec.to_builtins(REFUSED)
    result = ssis("plan", "org/big")
    assert result.exit_code == 1
    assert result.stdout == (
        "org/big cannot run here\nNo slice is large enough.\nKnown of it: its size is unknown (source: unknown).\n"
    )


def test_with_an_inventory_no_dispatcher_is_needed(
    ssis: Ssis, assembly: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, unused: int
) -> None:
    asked: list[tuple[object, ...]] = []

    def plan_offline(settings: Settings, *wishes: object) -> Plan:
        asked.append(wishes)
        return LAUNCH

    assembly.plan_offline = plan_offline
    monkeypatch.setenv("SSIS_URL", f"http://127.0.0.1:{unused}")
    result = ssis("plan", "org/big", "--inventory", "a100-40", "--concurrency", "3")
    assert (result.exit_code, result.stderr) == (0, "")
    assert asked == [("org/big", "a100-40", None, 3)]


def test_without_a_dispatcher_this_machine_is_planned_for_unless_one_was_named(
    ssis: Ssis, assembly: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, unused: int
) -> None:
    assembly.plan_offline = lambda settings, *wishes: LAUNCH
    monkeypatch.setenv("SSIS_PORT", str(unused))
    result = ssis("plan", "org/big")
    assert result.exit_code == 0
    assert result.stderr == (
        f"no dispatcher answers at http://127.0.0.1:{unused}: this is a plan for this machine alone\n"
    )
    assert ssis("plan", "org/big", "--url", f"http://127.0.0.1:{unused}").exit_code == 1


@pytest.mark.parametrize("error", [ModelNotServable("There is no such model."), BadFile("x.yaml: no such file")])
def test_what_is_wrong_with_the_question_is_said(ssis: Ssis, assembly: SimpleNamespace, error: Exception) -> None:
    def plan_offline(*wishes: object) -> Plan:
        raise error

    assembly.plan_offline = plan_offline
    result = ssis("plan", "x", "--inventory", "x.yaml")
    assert (result.exit_code, result.stderr) == (1, f"ssis: {error}\n")


def test_evictions_and_joined_gpus_are_told(ssis: Ssis, dispatcher: Any) -> None:
    changed = {"decision": "evict", "evicts": ("olda", "oldb"), "seats": 1, "count": 2, "why": "They are idle."}
    dispatcher.replies["POST", "/api/plan"] = 200, msgspec.to_builtins(msgspec.structs.replace(LAUNCH, **changed))
    first, second, *_ = ssis("plan", "org/big").stdout.splitlines()
    assert first == (
        "org/big starts in the place of another on 2 x cpu-4gib of here, 1 seat of 1024 tokens, "
        "after stopping olda, oldb, in about 2.5 s"
    )
    assert second == "They are idle."
