"""What is known of models: engines, catalogue, hub, cache and learned facts, put together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ssis_dispatcher.core.slices import SliceKind
from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.engines.command import CommandEngine
from ssis_dispatcher.engines.llamacpp import LlamaCpp
from ssis_dispatcher.engines.sglang import SGLang
from ssis_dispatcher.engines.tgi import TGI
from ssis_dispatcher.engines.vllm import VLLM
from ssis_dispatcher.models import catalogue, hubcache
from ssis_dispatcher.models.access import Access
from ssis_dispatcher.models.cache import ModelCache
from ssis_dispatcher.models.directory import Directory, Lessons, Served
from ssis_dispatcher.models.download import Fetcher
from ssis_dispatcher.models.hub import Hub
from ssis_dispatcher.models.profiles import Defaults
from ssis_dispatcher.models.sources import Sources
from ssis_dispatcher.settings import Settings
