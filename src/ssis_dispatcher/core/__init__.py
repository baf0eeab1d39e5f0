"""The core decides and never does: no clock, no I/O, no asyncio, no logging."""
