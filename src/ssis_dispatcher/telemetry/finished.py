"""What is said of an inference request when its reply has ended: the one record that is counted and logged."""

from __future__ import annotations

import msgspec


class Finished(msgspec.Struct, gc=False, rename={"sent": "bytes"}):
    """The fields of a line of the access log, in order.

    ``method``, ``route`` (a template), ``dialect`` and ``outcome`` (``ok``, ``refused``, ``gone`` …) are words of this
    program; the rest may come from outside: ``caller`` is a key's name or an address, ``model`` the id as asked for, ""
    where the request did not come as far as a model. ``sent`` are body bytes.

    Seconds: ``duration`` from the end of its head to the end of the reply; ``held`` until it had a seat (None: never);
    ``ttfb`` until the reply's first byte (None: there was none). ``time`` is when it ended, filled in by the access log.
    """

    time: str
    id: str
    caller: str
    method: str
    route: str
    dialect: str
    model: str
    status: int
    sent: int
    duration: float
    held: float | None
    ttfb: float | None
    server: str
    outcome: str
