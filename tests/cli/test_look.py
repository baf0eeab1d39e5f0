"""`ssis models`, `servers`, `slices`, `queue`, `logs`: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ssis_dispatcher.core.slices import Pool, Slice, SliceKind
from ssis_dispatcher.launchers.inventory import parse_inventory

Ssis = Callable[..., Any]


def test_servers_as_a_table(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    dispatcher.servers = [
        say.server,
        say.server
        | {
            "id": "bigdef",
            "model": "org/big",
            "revision": "v2",
            "pinned": True,
            "state": "starting",
            "phase": "loading",
        }
        | {
            "count": 2,
            "slice": "nvidia.com/gpu",
            "busy": 0,
            "waiting": 12,
            "idle_seconds": 4.25,
            "age_seconds": 9000.0,
        },
    ]
    result = ssis("servers")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout == (
        "SERVER   MODEL                ENGINE    STATE               SLICE               NODE  SEATS  WAITING  IDLE   AGE\n"
        "demoabc  demo                 llamacpp  ready               cpu-1gib            here  2/16         0  -      75 s\n"
        "bigdef   org/big@v2 (pinned)  llamacpp  starting (loading)  2 x nvidia.com/gpu  here  0/16        12  4.2 s  2.5 h\n"
    )
    assert ssis("ps").stdout == result.stdout


def test_nothing_is_a_heading_and_an_empty_list(ssis: Ssis, dispatcher: Any) -> None:
    assert ssis("servers").stdout == "SERVER  MODEL  ENGINE  STATE  SLICE  NODE  SEATS  WAITING  IDLE  AGE\n"
    assert json.loads(ssis("servers", "-o", "json").stdout) == []
    assert yaml.safe_load(ssis("servers", "-o", "yaml").stdout) == []


@pytest.mark.parametrize("output", ["json", "yaml"])
@pytest.mark.parametrize("command", ["models", "servers", "queue", "slices"])
def test_programs_get_what_the_dispatcher_said(
    ssis: Ssis, dispatcher: Any, say: SimpleNamespace, command: str, output: str
) -> None:
    dispatcher.servers, dispatcher.slices = [say.server], [say.slice]
    dispatcher.lines = [LINE]
    result = ssis(command, "-o", output)
    found = json.loads(result.stdout) if output == "json" else yaml.safe_load(result.stdout)
    if (command, output) == ("slices", "yaml"):
        assert list(found) == ["nodes"]
        return
    assert (
        found
        == {
            "models": [{"id": "demo", "object": "model", "owned_by": "ssis"}],
            "servers": [say.server],
            "slices": [say.slice],
            "queue": {"waiting": 1, "bytes": 10, "lines": [LINE]},
        }[command]
    )


LINE = {
    "model": "org/big",
    "key": "org/big#1",
    "phase": "slice",
    "waiting": 2,
    "oldest_seconds": 3.5,
    "why": "no slice is free",
    "expected_seconds": None,
    "requests": [
        {"id": "r-1", "caller": "alice", "position": 1, "waited_seconds": 3.5},
        {"id": "r-2", "caller": "b\x1b[31mob\nby", "position": 2, "waited_seconds": 0.25},
    ],
}


def test_the_queue_as_a_table(ssis: Ssis, dispatcher: Any) -> None:
    dispatcher.lines = [LINE]
    assert ssis("queue").stdout == (
        "MODEL    WAITS FOR  WAITING  OLDEST  EXPECTED  WHY\n"
        "org/big  slice            2  3.5 s   -         no slice is free\n"
    )


def test_what_others_wrote_cannot_steer_the_terminal_or_break_the_table(ssis: Ssis, dispatcher: Any) -> None:
    dispatcher.lines = [LINE]
    assert ssis("queue", "--requests").stdout == (
        "REQUEST  MODEL    CALLER       POSITION  WAITED\n"
        "r-1      org/big  alice               1  3.5 s\n"
        "r-2      org/big  b�[31mob by         2  0.2 s\n"
    )


def test_slices_as_a_table(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    dispatcher.slices = [
        say.slice,
        say.slice | {"name": "nvidia.com/gpu", "kind": "gpu", "memory_mib": 81559, "compute": 1},
    ]
    assert ssis("slices").stdout == (
        "NODE  SLICE           KIND  MEMORY    COMPUTE  TOTAL  OTHERS  OURS  FREE  SIZE FROM\n"
        "here  cpu-1gib        cpu   1024 MiB  25%          4       1     1     2  name\n"
        "here  nvidia.com/gpu  gpu   79.6 GiB  100%         4       1     1     2  name\n"
    ).replace("1024 MiB", "1.0 GiB ")


def test_slices_are_saved_as_an_inventory_in_which_ours_are_taken(
    ssis: Ssis, dispatcher: Any, say: SimpleNamespace
) -> None:
    dispatcher.slices = [say.slice]
    (pool,) = parse_inventory(ssis("slices", "-o", "yaml").stdout)
    assert pool == Pool("here", Slice(1024, 0.25, "cpu-1gib", SliceKind.CPU), 4, 2)


def test_the_slices_of_this_machine_need_no_dispatcher(ssis: Ssis, assembly: SimpleNamespace) -> None:
    assembly.local_pools = lambda settings: (Pool("box", Slice(2048, 0.5, "cpu-2gib", SliceKind.CPU), 2),)
    (found,) = json.loads(ssis("slices", "--local", "-o", "json").stdout)
    assert found == {
        "node": "box",
        "name": "cpu-2gib",
        "kind": "cpu",
        "memory_mib": 2048,
        "compute": 0.5,
        "source": "name",
        "total": 2,
        "taken": 0,
        "ours": 0,
        "free": 2,
    }


def test_logs_of_a_server_or_of_the_model_it_runs(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    dispatcher.servers = [say.server]
    dispatcher.logs["demoabc"] = [["one", "two\x1b[2J"], ["one"]]
    assert ssis("logs", "demoabc").stdout == "one\ntwo�[2J\n"
    assert ssis("logs", "demo").stdout == "one\n"


def test_logs_of_several_servers_must_be_told_apart(ssis: Ssis, dispatcher: Any, say: SimpleNamespace) -> None:
    dispatcher.servers = [say.server, say.server | {"id": "demoxyz"}]
    result = ssis("logs", "demo")
    assert result.exit_code == 1
    assert result.stderr == "ssis: demo has several servers, choose one: demoabc, demoxyz\n"


def test_logs_of_nobody(ssis: Ssis, dispatcher: Any) -> None:
    result = ssis("logs", "nobody")
    assert result.exit_code == 1
    assert result.stdout == ""


def test_following_prints_what_is_new_until_the_server_is_gone(
    ssis: Ssis, dispatcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssis_dispatcher.cli.logs._EVERY", 0.001)
    dispatcher.logs["gone"] = [["a", "b"], ["b", "b", "c"], ["b", "c", "c"]]
    result = ssis("logs", "-f", "gone")
    assert result.exit_code == 0
    assert result.stdout == "a\nb\nb\nc\nc\n"


@pytest.mark.parametrize("command", ["servers", "models", "slices", "queue", "logs x", "stop x", "warm x", "pin x"])
def test_without_a_dispatcher_it_is_said_what_to_do(
    ssis: Ssis, unused: int, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = ssis(*command.split(), "--url", f"http://127.0.0.1:{unused}")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"ssis: no dispatcher answers at http://127.0.0.1:{unused} (Connection refused); "
        "start one with `ssis serve`, or say where it is with --url or --cluster\n"
    )


def test_something_else_that_answers_is_no_dispatcher(ssis: Ssis, dispatcher: Any) -> None:
    dispatcher.replies["GET", "/api/servers"] = 200, b"<html>"
    result = ssis("servers")
    assert result.exit_code == 1
    assert "is no dispatcher" in result.stderr


def test_an_unknown_command_is_told_the_nearest_and_ends_with_two(ssis: Ssis) -> None:
    result = ssis("server")
    assert result.exit_code == 2
    assert "No such command 'server'. Did you mean 'servers'" in result.stderr
