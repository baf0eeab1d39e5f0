"""What the pages of the documentation list must be what the code has: examples, tables, error codes, routes, metrics."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ssis_dispatcher.core.fleet import Fleet
from ssis_dispatcher.core import views
from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.engines.generation import FORMS, NOWHERE, READ, Generation
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.engines.variables import LAUNCHER
from ssis_dispatcher.errors import Unprocessable
from ssis_dispatcher.gateway.operations import ROUTES
from ssis_dispatcher.models import catalogue
from ssis_dispatcher.settings.sources import load
from ssis_dispatcher.telemetry.exposition import Exposition
from ssis_dispatcher.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
