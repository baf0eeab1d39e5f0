"""Event loops for tests."""

from __future__ import annotations

import asyncio
import warnings

import uvloop


class _Loop(uvloop.Loop):
    """uvloop warns of every handle that is still open when the loop is closed, from within libuv. Where warnings are errors,
    that handle then stays open, and `close` waits for it in C for ever, where no signal reaches it. So the warnings are
    kept until the loop is closed, and given then."""

    def close(self) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            super().close()
        for warning in caught:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def new_uvloop() -> asyncio.AbstractEventLoop:
    return _Loop()
