"""How a server is kept to its share of memory. Control groups are folders here, which take the same writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssis_dispatcher.launchers.process.bounds import Bounder, Bounds, detect, kernel_kills

MIB = 1 << 20


@pytest.fixture
def delegated(tmp_path: Path) -> Path:
    """The root of a machine (a container) whose own top group is ours to divide."""
    for name, text in (
        ("proc/self/cgroup", "0::/\n"),
        ("sys/fs/cgroup/cgroup.controllers", "cpu memory pids\n"),
        ("sys/fs/cgroup/cgroup.subtree_control", ""),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_where_groups_are_delegated_each_server_gets_one(delegated: Path) -> None:
    bounder = detect(delegated)
    own = delegated / "sys/fs/cgroup"
    assert (own / "dispatcher/cgroup.procs").read_text() == str(os.getpid())
    assert (own / "cgroup.subtree_control").read_text() == "+memory"
    bounds = bounder.make("a", share_mib=512, threads=4, embedded=True)
    assert (bounds.memory, bounds.data) == (0, 0)
    assert bounds.cgroup is not None
    assert bounds.cgroup.parent == own
    assert (bounds.cgroup / "memory.max").read_text() == str(512 * MIB)
    assert (bounds.cgroup / "memory.swap.max").read_text() == "0"
    assert (bounds.cgroup / "memory.oom.group").read_text() == "1"
    assert "control group" in bounder.describe()


def test_it_is_the_kernel_that_says_that_a_group_ran_out_of_memory(delegated: Path) -> None:
    bounder = detect(delegated)
    bounds = bounder.make("a", share_mib=512, threads=4, embedded=True)
    assert bounds.cgroup is not None
    assert not bounder.exceeded(bounds)
    (bounds.cgroup / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 0\n")
    assert not bounder.exceeded(bounds)
    (bounds.cgroup / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n")
    assert bounder.exceeded(bounds)


def test_an_empty_group_is_removed(tmp_path: Path) -> None:
    group = tmp_path / "server-1"
    group.mkdir()
    Bounder(tmp_path).remove(Bounds(cgroup=group))
    assert not group.exists()


def test_closing_leaves_the_group_undivided(delegated: Path) -> None:
    detect(delegated).close()
    own = delegated / "sys/fs/cgroup"
    assert (own / "cgroup.subtree_control").read_text() == "-memory"
    assert (own / "cgroup.procs").read_text() == str(os.getpid())


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("proc/self/cgroup", "8:memory:/\n"),
        ("proc/self/cgroup", "0::/user.slice\n"),
        ("sys/fs/cgroup/cgroup.controllers", "cpu pids\n"),
    ],
    ids=["only version 1", "a group that is not there", "no memory controller"],
)
def test_elsewhere_the_supervisor_watches(delegated: Path, file: str, text: str) -> None:
    (delegated / file).write_text(text)
    bounder = detect(delegated)
    assert not (delegated / "sys/fs/cgroup/dispatcher").exists()
    assert bounder.make("a", 512, 4, embedded=False) == Bounds(memory=512 * MIB)
    assert "RLIMIT_DATA" in bounder.describe()


def test_a_group_that_was_not_given_to_us_is_left_alone_even_by_root(delegated: Path) -> None:
    (delegated / "proc/self/cgroup").write_text("0::/system.slice/ssh.service\n")
    strange = delegated / "sys/fs/cgroup/system.slice/ssh.service"
    strange.mkdir(parents=True)
    (strange / "cgroup.controllers").write_text("memory\n")
    (strange / "cgroup.subtree_control").write_text("")
    (strange / "cgroup.subtree_control").chmod(0o444)
    detect(delegated)
    assert not (strange / "dispatcher").exists()


def test_a_group_that_cannot_be_divided_is_left_as_it_was(delegated: Path) -> None:
    (delegated / "sys/fs/cgroup/dispatcher").write_text("somebody put a file here")
    assert "RLIMIT_DATA" in detect(delegated).describe()


def test_where_no_group_can_be_made_the_supervisor_watches(delegated: Path) -> None:
    bounder = detect(delegated)
    (delegated / f"sys/fs/cgroup/server-{os.getpid()}-a").write_text("in the way")
    assert bounder.make("a", 512, 4, embedded=False) == Bounds(memory=512 * MIB)


def test_our_own_runtime_also_has_a_limit_in_each_process() -> None:
    """Its threads' stacks are address space, not memory: they come on top."""
    few = Bounder(None).make("a", 512, threads=4, embedded=True)
    many = Bounder(None).make("a", 512, threads=40, embedded=True)
    assert 512 * MIB < few.data < many.data
    assert few.memory == many.memory == 512 * MIB


def test_the_kernels_own_count_of_kills(tmp_path: Path) -> None:
    assert kernel_kills(tmp_path) == 0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 1\noom_kill 3\n")
    assert kernel_kills(tmp_path) == 3
