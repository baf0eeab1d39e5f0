"""For all tests."""

from __future__ import annotations

import asyncio

# looptime asks for "the current loop" around every test, which on Python 3.11–3.13 makes one that nobody closes, as long
# as none was ever set. Saying that there is none makes that question an error, which looptime expects.
asyncio.set_event_loop(None)
