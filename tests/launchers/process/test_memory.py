"""How much memory there is for servers, on machines that are folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssis_dispatcher.launchers.process import memory

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """8 GiB, 6 of them available, no control groups."""
    write(tmp_path / "proc/meminfo", f"MemTotal: {8 << 20} kB\nMemFree: 1 kB\nMemAvailable: {6 << 20} kB\n")
    write(tmp_path / "proc/self/cgroup", "")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_is_available_but_for_the_reserve(machine: Path) -> None:
    assert memory.usable_mib(1024, machine) == 5 * 1024
    assert memory.total_mib(machine) == 8 * 1024


def test_on_a_small_machine_the_reserve_is_at_most_half(machine: Path) -> None:
    assert memory.usable_mib(5 * 1024, machine) == 3 * 1024


def test_a_containers_limit_counts_where_it_leaves_less(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/\n")
    write(machine / "sys/fs/cgroup/memory.max", f"{4 * GIB}\n")
    write(machine / "sys/fs/cgroup/memory.current", f"{2 * GIB}\n")
    write(machine / "sys/fs/cgroup/memory.stat", f"anon 1\ninactive_file {GIB}\n")
    assert memory.usable_mib(0, machine) == 3 * 1024


def test_the_tightest_group_above_counts(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/outer/inner\n")
    write(machine / "sys/fs/cgroup/outer/memory.max", f"{2 * GIB}")
    write(machine / "sys/fs/cgroup/outer/memory.current", f"{GIB}")
    write(machine / "sys/fs/cgroup/outer/inner/memory.max", "max")
    assert memory.usable_mib(0, machine) == 1024


def test_a_limit_of_control_groups_version_1_counts(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "8:memory:/docker/abc\n0::/docker/abc\n")
    folder = machine / "sys/fs/cgroup/memory"
    write(folder / "memory.limit_in_bytes", f"{2 * GIB}")
    write(folder / "memory.usage_in_bytes", f"{GIB // 2}")
    assert memory.usable_mib(0, machine) == 1536


def test_a_group_of_version_1_without_a_limit_does_not(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "8:cpu,memory:/\n")
    write(machine / "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")
    write(machine / "sys/fs/cgroup/memory/memory.usage_in_bytes", f"{GIB}")
    assert memory.usable_mib(0, machine) == 6 * 1024


def test_a_group_over_its_limit_leaves_nothing(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/\n")
    write(machine / "sys/fs/cgroup/memory.max", "100")
    write(machine / "sys/fs/cgroup/memory.current", "200")
    assert memory.usable_mib(1024, machine) == 0


def test_this_machine_has_memory_and_cores() -> None:
    assert 0 < memory.usable_mib(0) < memory.total_mib()
    assert memory.cores() >= 1
