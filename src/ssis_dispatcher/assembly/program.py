"""Which object is built from which setting, and who is handed whom."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
import time
from dataclasses import dataclass

import msgspec

from ssis_dispatcher.assembly.knowledge import Knowledge, knowledge
from ssis_dispatcher.assembly.platforms import launcher
from ssis_dispatcher.core import views
from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core.messages import Model, Remember
from ssis_dispatcher.core.placement import Plan
from ssis_dispatcher.core.policy import Policy
from ssis_dispatcher.dispatcher import Dispatcher
from ssis_dispatcher.errors import DispatchError, Problem
from ssis_dispatcher.gateway.api import Gateway, Parts
from ssis_dispatcher.gateway.broadcast import Broadcast
from ssis_dispatcher.gateway.dialects.base import Wish
from ssis_dispatcher.gateway.dialects.openai import OpenAI
from ssis_dispatcher.gateway.dialects.ssis import SSIS
from ssis_dispatcher.gateway.dialects.tgi import TGI
from ssis_dispatcher.gateway.door import Door
from ssis_dispatcher.gateway.keys import Callers, Keyless, Keyring
from ssis_dispatcher.gateway.operations import KEY, Operations, need_of, operations
from ssis_dispatcher.http.asgi import AsgiBridge
from ssis_dispatcher.http.client import Pool
from ssis_dispatcher.http.server import Server
from ssis_dispatcher.settings import Settings
from ssis_dispatcher.telemetry.access import AccessLog
from ssis_dispatcher.telemetry.exposition import Exposition
from ssis_dispatcher.telemetry.lag import LoopLag
from ssis_dispatcher.telemetry.logs import log
from ssis_dispatcher.telemetry.metrics import Metrics


def policy(settings: Settings) -> Policy:
    """The fleet's numbers. They have the same names in `Settings`, but for the two pauses."""
    same = {name: getattr(settings, name) for name in Policy.__struct_fields__ if hasattr(settings, name)}
    return Policy(**same, pause_first=settings.retry_pause, pause_most=settings.retry_pause_limit)
