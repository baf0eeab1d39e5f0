"""What the kernel and the hardware allow."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from ssis_dispatcher.assembly.doctor import machine
from ssis_dispatcher.launchers.process import bounds
from ssis_dispatcher.launchers.process.bounds import Bounder
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


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The root of a machine that has control groups of version 2, with us in the group `us`."""
    group = tmp_path / "sys/fs/cgroup/us"
    group.mkdir(parents=True)
    (group / "cgroup.controllers").write_text("cpu memory pids\n")
    (group / "cgroup.subtree_control").write_text("\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/us\n")
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    return tmp_path


def test_without_a_group_of_our_own_the_limits_are_those_of_each_process(settings: NewSettings, root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/gone\n")
    (root / "run/systemd/system").mkdir(parents=True)
    check = machine.memory_limits(settings())

    assert check.ok is None
    assert "RLIMIT_DATA" in check.detail
    assert check.fix.startswith("systemd-run")
    assert check.fix.endswith("--scope -p Delegate=yes ssis serve")


def test_where_there_is_no_systemd_no_command_of_it_is_named(settings: NewSettings, root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/gone\n")

    assert machine.memory_limits(settings()).fix == ""


def test_the_group_of_a_dispatcher_that_runs_is_left_alone(settings: NewSettings, root: Path) -> None:
    control = root / "sys/fs/cgroup/us/cgroup.subtree_control"
    control.write_text("memory\n")
    check = machine.memory_limits(settings())

    assert check.ok is None
    assert check.detail.startswith("not tried")
    assert control.read_text() == "memory\n"
    assert not (control.parent / "dispatcher").exists()


def test_a_group_of_our_own_is_enforced_by_the_kernel(
    settings: NewSettings, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Bounder(root / "sys/fs/cgroup/us")
    monkeypatch.setattr(bounds, "detect", lambda root: group)
    check = machine.memory_limits(settings())

    assert check.ok is True
    assert "the kernel enforces" in check.detail
