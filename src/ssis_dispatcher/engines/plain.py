"""A server that speaks OpenAI's interface and about which nothing more is known (``transformers serve`` and the like).

Only what OpenAI's own completions have is asked of it. It is started by a command that the operator configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from ssis_dispatcher.engines.base import Ask, Command, Options
from ssis_dispatcher.engines.completions import CompletionsReader
from ssis_dispatcher.engines.generation import FORMS, READ, Generation
from ssis_dispatcher.engines.routes import Routes
from ssis_dispatcher.engines.variables import LAUNCHER, translate

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "max_new_tokens": "max_tokens",
        "temperature": "temperature",
        "top_p": "top_p",
        "frequency_penalty": "frequency_penalty",
        "presence_penalty": "presence_penalty",
        "seed": "seed",
        "stop": "stop",
        "top_n_tokens": "logprobs",
    }
)

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        name: "OpenAI's completions have no such parameter, and nothing more is known of this server."
        for name in READ
        if name not in FIELDS and name not in FORMS
    }
)

REFUSED_VARIABLES: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(LAUNCHER, "this server is started by a command of the operator's.")
)

ROUTES = Routes(
    "This server",
    get=frozenset({"/v1/models"}),
    post=frozenset({"/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/embeddings"}),
    absent=MappingProxyType({}),
)


class Plain:
    """A server that speaks OpenAI's interface."""

    name = "openai"
    health = "/v1/models"
    seats = 8
    dialects = frozenset({"openai"})

    def command(self, options: Options) -> Command:
        """Nothing is known of how to start it."""
        return Command(())

    def environment(self, env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return translate(env, "this server", {}, REFUSED_VARIABLES)

    def refusal(self, method: str, path: str) -> str:
        return ROUTES.refusal(method, path)

    def ask(self, generation: Generation, served_as: str) -> Ask:
        """POST /v1/completions. Raises `Unprocessable`."""
        body: dict[str, Any] = {"model": served_as, "prompt": generation.prompt, "stream": generation.stream}
        body["temperature"] = 0.0 if generation.greedy else 1.0
        body.update(generation.mapped(FIELDS, REFUSED))
        if generation.logprobs:
            body.setdefault("logprobs", 1)
        if generation.stream:
            body["stream_options"] = {"include_usage": True}
        return Ask("/v1/completions", msgspec.json.encode(body), CompletionsReader())
