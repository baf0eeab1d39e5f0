"""The engines that are built in, by name. For whoever puts the program together; engines do not know each other."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ssis_dispatcher.engines import llamacpp, plain, sglang, tgi, vllm
from ssis_dispatcher.engines.base import Engine

_ALL: tuple[Engine, ...] = (llamacpp.LlamaCpp(), tgi.TGI(), vllm.VLLM(), sglang.SGLang(), plain.Plain())

ENGINES: Mapping[str, Engine] = MappingProxyType({engine.name: engine for engine in _ALL})

PATHS = frozenset(
    path for engine in (llamacpp, tgi, vllm, sglang, plain) for path in engine.ROUTES.get | engine.ROUTES.post
)
"""Of all their routes that callers may use."""
