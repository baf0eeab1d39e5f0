"""An engine as the operator starts it."""

from __future__ import annotations

import pytest

from ssis_dispatcher.engines.base import Command, Engine, Options
from ssis_dispatcher.engines.command import PLACEHOLDERS, CommandEngine
from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.engines.llamacpp import LlamaCpp
from ssis_dispatcher.engines.vllm import VLLM
from ssis_dispatcher.errors import Unprocessable

OPTIONS = Options("/models/a.gguf", "org/a", "127.0.0.1", 8123, 4096, 4, 2048, gpus=2, threads=3, revision="main")


def engine_of(engine: Engine) -> Engine:
    """For the type checker."""
    return engine


def test_its_command_is_filled_in_word_by_word() -> None:
    engine = CommandEngine("own", VLLM(), command=("run", "--model={model}", "{port}", "a b {context}", "{{not}}"))
    command = engine.command(OPTIONS)
    assert command.program == ("run", "--model=/models/a.gguf", "8123", "a b 4096", "{not}")
    assert command.argv == ()


def test_what_a_caller_chose_is_one_word_whatever_is_in_it() -> None:
    engine = CommandEngine("own", VLLM(), command=("run", "{served_as}", "{port}"))
    hostile = Options("m", "a; rm -rf {port} $(x)", "127.0.0.1", 1, 1, 1, 1)
    assert engine.command(hostile).program == ("run", "a; rm -rf {port} $(x)", "1")


def test_its_variables_come_beside_the_engines_own_and_win() -> None:
    like = LlamaCpp()
    engine = CommandEngine(
        "own", like, command=("run",), env=(("LLAMA_ARG_THREADS", "9"), ("SEATS", "{seats}")), port=80
    )
    env = dict(engine.command(OPTIONS).env)
    assert env == dict(like.command(OPTIONS).env) | {"LLAMA_ARG_THREADS": "9", "SEATS": "4"}


def test_without_a_command_it_is_started_as_the_engine_that_it_is_like() -> None:
    engine = CommandEngine("vllm", VLLM(), env=(("VLLM_LOGGING_LEVEL", "WARNING"),))
    like = VLLM().command(OPTIONS)
    assert engine.command(OPTIONS) == Command(like.argv, (*like.env, ("VLLM_LOGGING_LEVEL", "WARNING")), like.program)
    assert not engine.has_command


def test_what_is_left_empty_is_as_there() -> None:
    engine = engine_of(CommandEngine("own", VLLM(), command=("run", "{port}")))
    like = VLLM()
    assert (engine.health, engine.seats, engine.dialects) == (like.health, like.seats, like.dialects)


def test_what_is_said_counts() -> None:
    engine = CommandEngine(
        "own", VLLM(), command=("run",), port=9000, health="/up", dialects=("openai", "tgi"), seats=3
    )
    assert (engine.name, engine.port, engine.health, engine.seats) == ("own", 9000, "/up", 3)
    assert engine.dialects == {"openai", "tgi"}


def test_it_is_talked_to_like_the_engine_that_it_is_like() -> None:
    engine, like = CommandEngine("own", LlamaCpp(), command=("run", "{port}")), LlamaCpp()
    assert engine.environment({"ROPE_FACTOR": "2"}) == like.environment({"ROPE_FACTOR": "2"})
    with pytest.raises(Unprocessable, match="QUANTIZE"):
        engine.environment({"QUANTIZE": "awq"})
    assert engine.refusal("POST", "/v1/moderations") == like.refusal("POST", "/v1/moderations") != ""
    asked = Generation("Once", {"max_new_tokens": 5})
    assert engine.ask(asked, "a").body == like.ask(asked, "a").body


@pytest.mark.parametrize("text", ["{no_such_thing}", "{arguments}", "{}", "{0}", "{model.upper}", "{model[0]}"])
def test_a_placeholder_that_there_is_not_is_refused_when_it_is_made(text: str) -> None:
    with pytest.raises(ValueError, match="is no placeholder"):
        CommandEngine("own", VLLM(), command=("run", text), port=1)
    with pytest.raises(ValueError, match="is no placeholder"):
        CommandEngine("own", VLLM(), env=(("X", text),))


def test_a_command_that_nobody_tells_its_port_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\{port\}"):
        CommandEngine("own", VLLM(), command=("run",))
    CommandEngine("own", VLLM(), command=("run",), env=(("PORT", "{port}"),))


def test_every_placeholder_can_be_used() -> None:
    command = tuple(f"{{{name}}}" for name in PLACEHOLDERS)
    values = CommandEngine("own", VLLM(), command=command).command(OPTIONS).program
    assert values == tuple(str(getattr(OPTIONS, name)) for name in PLACEHOLDERS)
