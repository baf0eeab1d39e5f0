"""A request that has ended, as the gateway tells of it."""

from __future__ import annotations

from typing import Any

import msgspec

from ssis_dispatcher.telemetry.finished import Finished

_ONE = Finished(
    time="",
    id="r-1",
    caller="alice",
    method="POST",
    route="/v1/chat/completions",
    dialect="openai",
    model="demo",
    status=200,
    sent=1234,
    duration=0.0123,
    held=0.0,
    ttfb=0.0042,
    server="demo1",
    outcome="ok",
)


def finished(**fields: Any) -> Finished:
    """One that went well, but for ``fields``."""
    return msgspec.structs.replace(_ONE, **fields)
