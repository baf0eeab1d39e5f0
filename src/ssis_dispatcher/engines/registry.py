"""The engines that are built in, by name. For whoever puts the program together; engines do not know each other."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.engines.llamacpp import LlamaCpp
from ssis_dispatcher.engines.plain import Plain
from ssis_dispatcher.engines.sglang import SGLang
from ssis_dispatcher.engines.tgi import TGI
from ssis_dispatcher.engines.vllm import VLLM

_ALL: tuple[Engine, ...] = (LlamaCpp(), TGI(), VLLM(), SGLang(), Plain())

ENGINES: Mapping[str, Engine] = MappingProxyType({engine.name: engine for engine in _ALL})
