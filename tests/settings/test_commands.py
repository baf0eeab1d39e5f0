"""Engines that the operator configures."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssis_dispatcher.engines.base import Options
from ssis_dispatcher.settings import EngineCommand, SettingsError, load
from ssis_dispatcher.settings.commands import PLACEHOLDERS


def engines(folder: Path, text: str) -> tuple[EngineCommand, ...]:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return load(environ={}, config=file).settings.engines


def test_an_engine_is_a_table_of_the_file(tmp_path: Path) -> None:
    found = engines(
        tmp_path,
        """
        [engines.transformers]
        command = ["transformers", "serve", "--port", "{port}"]
        env = {A = "{model}"}
        kinds = ["gpu"]

        [engines.vllm]
        env = {A = 1}

        [engines.other]
        like = "tgi"
        command = "other --name '{served_as} x'"
        port = 9000
        health = "/up"
        dialects = ["openai", "tgi"]
        seats = 8
        """,
    )
    assert found == (
        EngineCommand("other", "tgi", ("other", "--name", "{served_as} x"), (), 9000, "/up", ("openai", "tgi"), 8),
        EngineCommand(
            "transformers", "vllm", ("transformers", "serve", "--port", "{port}"), (("A", "{model}"),), kinds=("gpu",)
        ),
        EngineCommand("vllm", "vllm", env=(("A", "1"),)),
    )


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("comand = 'x'", 'unknown key "comand" in [engines.x]; did you mean "command"?'),
        ("quux = 'x'", 'unknown key "quux" in [engines.x]; there are like, command, env, port,'),
        ("port = 1", "[engines.x] has no command"),
        ("like = 'y'", "like of [engines.x]: 'y' is not one of llamacpp, openai, sglang, tgi, vllm"),
        ("command = []", "command of [engines.x]: the command is empty"),
        ("command = 7", "command of [engines.x]: expected a list of texts, or one text"),
        ("command = 'x {modle}'", "{modle} is no placeholder; there are model, served_as"),
        ("command = 'x {'", "a brace stands alone; one that is meant is written twice"),
        ("command = 'x'\nport = 70000", "port of [engines.x]: 70000 is not a whole number from 0 to 65535"),
        ("command = 'x'\nhealth = 'up'", 'health of [engines.x]: "up" is no path; it begins with /'),
        ("command = 'x'\ndialects = ['latin']", "is not some of openai, tgi"),
        ("command = 'x'\nkinds = []", "is not some of cpu, mig, mps, gpu"),
        ("command = 'x'\nenv = {A = ['canary']}", "env of [engines.x]: expected a table of texts"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, table: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        engines(tmp_path, f"[engines.x]\n{table}")
    (problem,) = caught.value.problems
    assert problem.startswith(f"engines in {tmp_path}/config.toml: ")
    assert words in problem
    assert "canary" not in problem


@pytest.mark.parametrize("text", ["engines = 1", "[engines]\nx = 1", "[engines.X]\ncommand = 'x'"])
def test_what_is_no_table_of_engines(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="engines"):
        engines(tmp_path, text)


def test_the_placeholders_are_what_the_launcher_decides() -> None:
    decided = set(Options.__struct_fields__) - {"arguments"}
    assert set(PLACEHOLDERS) == decided
