"""Which object is built from which setting."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from ssis_dispatcher.assembly.program import Program, callers, policy, same_fields, upstream_limits
from ssis_dispatcher.core.messages import ModelPinned
from ssis_dispatcher.core.policy import Policy
from ssis_dispatcher.core.slices import Pool, cpu_slice
from ssis_dispatcher.errors import DispatchError
from ssis_dispatcher.gateway.dialects.base import Wish
from ssis_dispatcher.gateway.keys import KeyFile, Keyless, Keyring
from ssis_dispatcher.http.limits import Limits, UpstreamLimits
from ssis_dispatcher.launchers.fake import FakeLauncher
from ssis_dispatcher.models.catalogue import demo_path
from ssis_dispatcher.settings import Settings

RENAMED = {"pause_first": "retry_pause", "pause_most": "retry_pause_limit"}
"""Fields of the policy whose setting has another name."""

FIXED = {"settled_after"}
"""Fields of the policy that nobody needs to set."""


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Program]:
    """One whose catalogue can be edited, with room for one server."""
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(f"models:\n  mine: {{path: {demo_path()}}}\n")
    settings = Settings(
        catalogue=catalogue, state_dir=tmp_path, cache_dir=tmp_path / "cache", hub_offline=True, access_log=False
    )
    program = Program(settings, FakeLauncher([Pool("here", cpu_slice(4096), 1)]))
    yield program
    await program.close()


def _with_keys(tmp_path: Path, host: str, **given: bool) -> Settings:
    return Settings(host=host, keys_file=tmp_path / "keys.jsonl", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_loopback_no_keys_are_needed(tmp_path: Path, host: str) -> None:
    assert isinstance(callers(_with_keys(tmp_path, host)), Keyless)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gpu.example.org", ""])
def test_beyond_loopback_keys_are_needed_and_the_message_says_what_to_do(tmp_path: Path, host: str) -> None:
    with pytest.raises(DispatchError, match=r"keys\.jsonl.*ssis keys create.*127\.0\.0\.1.*--insecure"):
        callers(_with_keys(tmp_path, host))


def test_beyond_loopback_the_keys_of_the_file_are_used(tmp_path: Path) -> None:
    KeyFile(tmp_path / "keys.jsonl").create("ana")
    assert isinstance(callers(_with_keys(tmp_path, "0.0.0.0")), Keyring)


def test_insecure_needs_no_keys_anywhere(tmp_path: Path) -> None:
    assert isinstance(callers(_with_keys(tmp_path, "0.0.0.0", insecure=True)), Keyless)


def test_every_number_of_the_policy_has_a_setting_or_is_fixed_on_purpose() -> None:
    names = set(Policy.__struct_fields__)
    assert names - set(Settings.__struct_fields__) == set(RENAMED) | FIXED


def test_the_policy_is_what_the_settings_say() -> None:
    changed = {name: 7 for name in Policy.__struct_fields__ if name in Settings.__struct_fields__}
    made = policy(Settings(**changed, **dict.fromkeys(RENAMED.values(), 9)))  # type: ignore[arg-type]
    assert {name: getattr(made, name) for name in changed} == changed
    assert {getattr(made, name) for name in RENAMED} == {9}


def test_the_defaults_of_policy_and_limits_are_those_of_the_settings() -> None:
    assert policy(Settings()) == Policy()
    assert same_fields(Settings(), Limits) == Limits()
    assert upstream_limits(Settings()) == UpstreamLimits()


def test_the_listeners_idle_timeout_and_the_upstreams_are_two_settings() -> None:
    settings = Settings(idle_timeout=11.0, upstream_idle_timeout=22.0, upstream_connect_timeout=3.0, retry_budget=0.5)
    assert same_fields(settings, Limits).idle_timeout == 11.0
    upstream = upstream_limits(settings)
    assert (upstream.idle_timeout, upstream.connect_timeout, upstream.retry_budget) == (22.0, 3.0, 0.5)


def test_every_setting_of_the_listeners_limits_reaches_it() -> None:
    names = {field.name for field in dataclasses.fields(Limits)} & set(Settings.__struct_fields__)
    assert len(names) >= 10
    given = Settings(**dict.fromkeys(names, 77))  # type: ignore[arg-type]
    assert {getattr(same_fields(given, Limits), name) for name in names} == {77}


async def test_a_wish_without_a_token_is_known_at_once(program: Program) -> None:
    assert program.knows(Wish("org/model"))
    assert program.knows(Wish("mine", token="hf_x"))  # a file: the hub has no say
    assert not program.knows(Wish("org/model", token="hf_x"))


async def test_acquainting_offline_ends_and_leaves_the_caller_in_a_scope_of_its_own(program: Program) -> None:
    wish = Wish("org/model-1B", engine="llamacpp", token="hf_x")
    await program.acquaint(wish)
    assert program.identify(wish).scope.startswith("token:")


async def test_a_plan_says_where_a_model_would_run(program: Program) -> None:
    program.dispatcher.start()
    plan = await program.plan(Wish("mine"), None)
    assert plan.model.id == "mine"
    assert (plan.decision, plan.slice) == ("launch", "cpu-4gib")


async def test_an_edit_of_the_catalogue_lets_the_model_be_described_anew(program: Program) -> None:
    program.start()
    async with program.dispatcher.seat(program.identify(Wish("mine")), "ana", "r-1"):
        pass
    events: list[str] = []
    post = program.dispatcher.post

    def noting(event: object) -> None:
        events.append(type(event).__name__)
        post(event)  # type: ignore[arg-type]

    program.dispatcher.post = noting  # type: ignore[method-assign]
    assert program.settings.catalogue is not None
    program.settings.catalogue.write_text(f"models:\n  mine: {{path: {demo_path()}, context: 64}}\n")
    assert program._looker is not None
    program._looker.cancel()
    program._look()
    assert events == ["ModelForgotten"]


async def test_a_pin_of_the_catalogue_comes_and_goes_with_its_line(program: Program) -> None:
    program.start()
    async with program.dispatcher.seat(program.identify(Wish("mine")), "ana", "r-1"):
        pass
    (state,) = program.dispatcher.fleet.book.models.values()
    assert program.settings.catalogue is not None
    assert program._looker is not None
    program._looker.cancel()
    for number, pinned in enumerate((True, False)):
        line = f"models:\n  mine: {{path: {demo_path()}, context: {64 + number}, pinned: {str(pinned).lower()}}}\n"
        program.settings.catalogue.unlink()
        program.settings.catalogue.write_text(line)
        program._look()
        program._looker.cancel()
        assert state.pinned is pinned
    program.dispatcher.post(ModelPinned("operator", state.model, True))
    program.settings.catalogue.unlink()
    program.settings.catalogue.write_text(f"models:\n  mine: {{path: {demo_path()}, context: 70}}\n")
    program._look()
    assert state.pinned, "an edit that says nothing of it leaves what the operator has pinned"


async def test_while_it_leaves_it_is_not_ready_but_alive(program: Program) -> None:
    port = await program.server.listen("127.0.0.1", 0)
    program.start()
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert (await client.get("/readyz")).status_code == 200
        program.leaving = True
        refused = await client.get("/readyz")
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert "retry-after" in refused.headers
        assert (await client.get("/healthz")).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert "ssis_connections 1" in metrics
