"""The engines together: nothing that a caller says is lost on the way to any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.engines.generation import FORMS
from ssis_dispatcher.engines.registry import ENGINES

Asked = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_every_parameter_changes_the_request_or_is_refused(
    engine: str, asked: Asked, refused: Callable[[Engine], set[str]], samples: dict[str, object]
) -> None:
    """A parameter that is dropped in silence is an answer to another question than the caller's."""
    # SGLang takes a seed where it changes nothing, and refuses it otherwise.
    idle = {"seed"} if engine == "sglang" else set[str]()
    plain, sampled = asked(ENGINES[engine]), asked(ENGINES[engine], do_sample=True)
    for name in samples.keys() - refused(ENGINES[engine]) - set(FORMS) - idle:
        value = samples[name]
        changed = asked(ENGINES[engine], **{name: value}) != plain
        assert changed or asked(ENGINES[engine], **{"do_sample": True, name: value}) != sampled, name


def test_engines_are_known_by_their_own_names() -> None:
    assert {name: engine.name for name, engine in ENGINES.items()} == {name: name for name in ENGINES}
    assert ENGINES.keys() == {"llamacpp", "tgi", "vllm", "sglang", "openai"}


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_every_engine_says_how_it_is_asked_for_its_health_and_how_much_it_does_at_once(engine: str) -> None:
    assert ENGINES[engine].health.startswith("/")
    assert ENGINES[engine].seats > 0
    assert ENGINES[engine].dialects <= {"openai", "tgi"}
