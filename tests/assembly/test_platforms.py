"""Which launcher runs the servers, and what slices there are without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ssis_dispatcher.assembly.knowledge import Knowledge
from ssis_dispatcher.assembly.platforms import Resolver, local_pools, options, platform, pools
from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.files import BadFile
from ssis_dispatcher.launchers.fake import FakeLauncher
from ssis_dispatcher.launchers.process import ProcessLauncher, memory
from ssis_dispatcher.models.catalogue import demo_path
from ssis_dispatcher.settings import CpuShare, Settings
from ssis_dispatcher.settings.commands import EngineCommand

GIB = 2**30


def _settings(tmp_path: Path, **given: object) -> Settings:
    return Settings(state_dir=tmp_path, cache_dir=tmp_path / "cache", hub_offline=True, **given)  # type: ignore[arg-type]


@pytest.fixture
async def knowledge(tmp_path: Path) -> AsyncIterator[Knowledge]:
    engines = (EngineCommand("mine", "vllm", kinds=("cpu",)),)
    knowledge = Knowledge(_settings(tmp_path, engines=engines, hub_token="hf_ours"), lasting=False)
    yield knowledge
    knowledge.close()


def unheard(name: str, detail: str) -> None:
    """For phases that nobody asks about."""


@pytest.mark.parametrize("name", ["auto", "process"])
async def test_servers_are_processes_of_this_machine_unless_said_otherwise(
    tmp_path: Path, knowledge: Knowledge, name: str
) -> None:
    launcher = platform(_settings(tmp_path, platform=name), knowledge)
    assert isinstance(launcher, ProcessLauncher)
    await launcher.close()


async def test_the_fake_platform_has_the_slices_of_the_inventory(tmp_path: Path, knowledge: Knowledge) -> None:
    settings = _settings(tmp_path, platform="fake", inventory="a100-40")
    launcher = platform(settings, knowledge)
    assert isinstance(launcher, FakeLauncher)
    assert launcher._pools == pools(settings)


async def test_the_fake_platform_without_an_inventory_has_the_slices_of_this_machine(
    tmp_path: Path, knowledge: Knowledge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "usable_mib", lambda reserve: 4096)  # else what is free changes between two looks
    settings = _settings(tmp_path, platform="fake")
    launcher = platform(settings, knowledge)
    assert isinstance(launcher, FakeLauncher)
    assert list(launcher._pools) == list(local_pools(settings))


def test_an_inventory_that_is_given_takes_the_place_of_this_machines_slices(tmp_path: Path) -> None:
    assert pools(_settings(tmp_path)) is None
    given = tuple(local_pools(_settings(tmp_path, inventory="nebuly-mps")))
    assert {pool.slice.kind for pool in given} == {SliceKind.MPS}


def test_an_inventory_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="nowhere"):
        pools(_settings(tmp_path, inventory="nowhere"))


def test_shares_of_memory_are_offered_as_they_are_set(tmp_path: Path) -> None:
    settings = _settings(tmp_path, cpu_slices=(CpuShare(2, 1 * GIB, 1.0),), reserve_memory=0, server_threads=3)
    made = options(settings)
    assert [(share.count, share.memory_mib) for share in made.shares] == [(2, 1024)]
    assert (made.reserve_mib, made.threads) == (0, 3)
    assert made.node
    assert "." not in made.node
    offered = [pool for pool in local_pools(settings) if pool.slice.kind is SliceKind.CPU]
    assert all(pool.slice.memory_mib == 1024 for pool in offered)


async def test_an_engine_that_loads_files_is_told_the_path_and_no_token(knowledge: Knowledge) -> None:
    source = await Resolver(knowledge)(knowledge.directory.identify("demo"), unheard)
    assert Path(source.load) == demo_path()
    assert source.env == ()


async def test_an_engine_that_fetches_by_itself_is_told_the_name_and_the_token(knowledge: Knowledge) -> None:
    resolve = Resolver(knowledge)
    identify = knowledge.directory.identify
    ours = await resolve(identify("org/model", engine="mine"), unheard)
    assert (ours.load, ours.env) == ("org/model", (("HF_TOKEN", "hf_ours"),))
    theirs = await resolve(identify("org/model", engine="mine", token="hf_theirs"), unheard)
    assert theirs.env == (("HF_TOKEN", "hf_theirs"),)
