"""What the command line does without a running dispatcher."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssis_dispatcher.assembly.offline import cached, plan_offline, pull, remove, served_elsewhere
from ssis_dispatcher.errors import DispatchError
from ssis_dispatcher.files import BadFile
from ssis_dispatcher.settings import Settings
from ssis_dispatcher.settings.commands import EngineCommand


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Those of somebody with an empty cache, and no hub."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return Settings(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache", hub_offline=True)


@pytest.mark.parametrize(
    ("model", "inventory", "slice"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "a100-40", "nvidia.com/mig-3g.20gb"),
        ("meta-llama/Llama-3.1-8B-Instruct", "nebuly-mps", "nvidia.com/gpu-32gb"),
        ("meta-llama/Llama-3.1-8B-Instruct", "mixed-fleet", "nvidia.com/mig-2g.20gb"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "a100-40", "nvidia.com/mig-1g.5gb"),
    ],
)
def test_a_plan_by_a_models_name_chooses_the_smallest_slice_that_fits(
    settings: Settings, model: str, inventory: str, slice: str
) -> None:
    plan = plan_offline(settings, model, inventory, None, None)
    assert (plan.decision, plan.slice) == ("launch", slice), plan.why


def test_a_plan_for_this_machine_finds_room_for_the_packaged_model(settings: Settings) -> None:
    plan = plan_offline(settings, "demo", None, 128, None)
    assert plan.model.engine == "llamacpp"
    assert plan.candidates


def test_a_plan_leaves_nothing_behind(settings: Settings) -> None:
    plan_offline(settings, "org/some-7B", "a100-40", None, None)
    assert not settings.state_dir.exists()
    assert not os.path.exists(settings.cache_dir / "models")


def test_a_plan_for_a_model_that_nobody_knows_says_so(settings: Settings) -> None:
    with pytest.raises(DispatchError, match=r"There is no model 'dmo' here\. Did you mean 'demo'"):
        plan_offline(settings, "dmo", "a100-40", None, None)


def test_a_plan_on_an_inventory_that_is_not_there_says_so(settings: Settings) -> None:
    with pytest.raises((BadFile, DispatchError), match="nowhere"):
        plan_offline(settings, "demo", "nowhere", None, None)


def test_an_empty_cache_holds_no_models(settings: Settings) -> None:
    assert cached(settings) == []


def test_pulling_offline_says_that_the_hub_must_not_be_asked(settings: Settings) -> None:
    with pytest.raises(DispatchError, match="offline"):
        pull(settings, "org/model", lambda done, total: None)


def test_pulling_the_packaged_model_finds_it_where_it_is(settings: Settings) -> None:
    assert pull(settings, "demo", lambda done, total: None).name == "demo.gguf"


def test_removing_what_is_not_in_the_cache_says_so(settings: Settings) -> None:
    with pytest.raises(DispatchError, match="org/model"):
        remove(settings, "org/model")


def test_the_operators_own_engines_take_part_in_plans_besides_the_built_in_ones() -> None:
    settings = Settings(engines=(EngineCommand("mine", "vllm"), EngineCommand("vllm", "vllm", kinds=("cpu",))))
    assert list(served_elsewhere(settings)) == ["mine"]
