"""A server about which nothing more is known than that it speaks OpenAI's interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ssis_dispatcher.engines.base import Engine, Options
from ssis_dispatcher.engines.completions import CompletionsReader
from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.engines.plain import Plain

ENGINE = Plain()
Asked = Callable[..., dict[str, Any]]


def test_only_openais_own_parameters_are_asked_of_it(asked: Asked) -> None:
    body = asked(ENGINE, stream=True, max_new_tokens="20", top_p=0.5, stop="END", details=True)
    assert body == {
        "model": "demo",
        "prompt": "Hello",
        "stream": True,
        "temperature": 1.0,
        "max_tokens": 20,
        "top_p": 0.5,
        "stop": ["END"],
        "logprobs": 1,
        "stream_options": {"include_usage": True},
    }


def test_everything_else_is_refused_by_name(refused: Callable[[Engine], set[str]]) -> None:
    assert refused(ENGINE) == {
        *("min_new_tokens", "top_k", "typical_p", "min_p", "repetition_penalty", "stop_token_ids", "suppress_tokens"),
        *("truncate", "best_of", "watermark", "decoder_input_details", "grammar", "adapter_id"),
    }


def test_its_replies_are_completions_and_its_command_is_the_operators(options: Options) -> None:
    assert isinstance(ENGINE.ask(Generation("x", {}), "demo").reader, CompletionsReader)
    assert ENGINE.command(options).argv == ()
