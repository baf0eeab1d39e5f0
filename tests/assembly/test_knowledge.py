"""What is known of models: which engines run here, and the catalogue as it is edited."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ssis_dispatcher.assembly.knowledge import EMBEDDED, Knowledge, served, shared_cache
from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.errors import DispatchError
from ssis_dispatcher.files import BadFile
from ssis_dispatcher.models.catalogue import demo_path
from ssis_dispatcher.models.profiles import GPU_KINDS
from ssis_dispatcher.settings import Settings
from ssis_dispatcher.settings.commands import EngineCommand


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    path = tmp_path / "catalogue.yaml"
    path.write_text(f"models:\n  mine: {{path: {demo_path()}}}\n")
    return path


@pytest.fixture
async def knowledge(tmp_path: Path, catalogue: Path) -> AsyncIterator[Knowledge]:
    knowledge = Knowledge(_settings(tmp_path, catalogue), lasting=False)
    yield knowledge
    knowledge.close()


def _settings(tmp_path: Path, catalogue: Path | None = None) -> Settings:
    return Settings(catalogue=catalogue, state_dir=tmp_path, cache_dir=tmp_path / "cache", hub_offline=True)


def test_the_embedded_engine_runs_on_the_machines_own_cores_only() -> None:
    (engine,) = served(Settings()).values()
    assert engine.kinds == (SliceKind.CPU,)
    assert engine.files
    assert engine.parallel == ()


def test_configured_engines_run_on_gpus_unless_they_say_otherwise() -> None:
    engines = served(
        Settings(engines=(EngineCommand("fast", "vllm", seats=7), EngineCommand("slow", "vllm", kinds=("cpu", "mps"))))
    )
    assert list(engines) == [EMBEDDED, "fast", "slow"]
    assert engines["fast"].kinds == GPU_KINDS
    assert engines["slow"].kinds == (SliceKind.CPU, SliceKind.MPS)
    assert not engines["fast"].files
    assert engines["fast"].engine.seats == 7


def test_an_engine_that_is_like_the_embedded_one_is_given_files() -> None:
    assert served(Settings(engines=(EngineCommand("cuda", "llamacpp"),)))["cuda"].files


def test_a_table_of_the_embedded_engines_name_takes_its_place() -> None:
    (engine,) = served(Settings(engines=(EngineCommand(EMBEDDED, EMBEDDED, command=("server", "{port}")),))).values()
    assert engine.kinds == GPU_KINDS


def edit(catalogue: Path, text: str | None) -> None:
    """Write the file anew; None takes it away."""
    catalogue.unlink()
    if text is not None:
        catalogue.write_text(text)


async def test_the_catalogue_is_read_again_when_it_is_edited(knowledge: Knowledge, catalogue: Path) -> None:
    assert knowledge.catalogue_changes() == {}
    assert knowledge.directory.identify("mine").id == "mine"
    with pytest.raises(DispatchError):
        knowledge.directory.identify("yours")
    edit(catalogue, f"models:\n  yours: {{path: {demo_path()}, context: 128}}\n")
    assert sorted(knowledge.catalogue_changes()) == ["mine", "yours"]
    assert knowledge.directory.identify("yours").id == "yours"
    with pytest.raises(DispatchError):
        knowledge.directory.identify("mine")
    assert knowledge.catalogue_changes() == {}


async def test_a_bad_edit_of_the_catalogue_is_logged_once_and_changes_nothing(
    knowledge: Knowledge, catalogue: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit(catalogue, "models:\n  mine: {contxt: 4}\n")
    assert knowledge.catalogue_changes() == {}
    assert knowledge.catalogue_changes() == {}
    assert knowledge.directory.identify("mine").id == "mine"
    assert [record.message for record in caplog.records] == ["catalogue refused: the one from before stays in force"]
    edit(catalogue, f"models:\n  mine: {{path: {demo_path()}, context: 64}}\n")
    assert knowledge.catalogue_changes() == {"mine": None}


async def test_a_catalogue_that_goes_away_changes_nothing(knowledge: Knowledge, catalogue: Path) -> None:
    edit(catalogue, None)
    assert knowledge.catalogue_changes() == {}
    assert knowledge.directory.identify("mine").id == "mine"


def test_a_bad_catalogue_at_the_start_is_an_error(tmp_path: Path, catalogue: Path) -> None:
    catalogue.write_text("models: [")
    with pytest.raises(BadFile, match=r"catalogue\.yaml"):
        Knowledge(_settings(tmp_path, catalogue), lasting=False)


async def test_what_is_not_to_last_leaves_no_file(tmp_path: Path) -> None:
    Knowledge(_settings(tmp_path), lasting=False).close()
    assert not (tmp_path / "learned.sqlite").exists()
    Knowledge(_settings(tmp_path)).close()
    assert (tmp_path / "learned.sqlite").exists()


def test_the_shared_cache_is_where_the_hubs_own_tools_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert shared_cache() == Path.home() / ".cache/huggingface/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert shared_cache() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/h")
    assert shared_cache() == Path("/h/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/c")
    assert shared_cache() == Path("/c")
