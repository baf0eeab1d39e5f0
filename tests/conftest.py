"""For all tests."""

from __future__ import annotations

import asyncio
import signal

# looptime asks for "the current loop" around every test, which on Python 3.11–3.13 makes one that nobody closes, as long
# as none was ever set. Saying that there is none makes that question an error, which looptime expects.
asyncio.set_event_loop(None)

# Where the tests run in the background of a shell script, Ctrl-C is ignored, and so it would be by every program that they
# start, and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
