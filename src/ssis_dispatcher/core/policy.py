"""The numbers the fleet decides by. Times in seconds, sizes in bytes."""

from __future__ import annotations

import msgspec


class Policy(msgspec.Struct, frozen=True):
    """How long, how many, how much.

    ``waiting_*`` bound the lines (per model and in all, by count and by bytes). ``slice_wait`` is the budget for waiting
    for a slice or a seat, ``start_wait`` the least and ``start_factor`` × the predicted start the usual budget of a
    starting server. ``dwell`` is how long a server stays after becoming ready before it may be evicted, ``keep_alive``
    how long it stays idle. A victim's value is its idle time against ``reload_weight`` × its start time.
    ``overtakes`` is how often a launch that waits may be passed by later ones on slices that it could use.
    """

    waiting_per_model: int = 1_000
    waiting_total: int = 10_000
    waiting_bytes: int = 256 * 2**20
    waiting_bytes_per_model: int = 128 * 2**20
    slice_wait: float = 120.0
    start_wait: float = 120.0
    start_factor: float = 2.0
    keep_alive: float = 600.0
    dwell: float = 30.0
    reload_weight: float = 1.0
    scale_out_after: float = 10.0
    servers_per_model: int = 4
    overtakes: int = 8
    slices_per_caller: int = 64
    launches_per_minute: int = 60
    pause_first: float = 1.0
    pause_most: float = 300.0
    settled_after: float = 60.0
