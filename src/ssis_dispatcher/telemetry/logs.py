"""Structured logs: what happened first, then the facts; one line for each change of state; no secrets.

`setup` is called once, by whoever owns the process. Everybody else calls `log`. Requests are not logged here but in
`ssis_dispatcher.telemetry.access`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import IO, Literal

import msgspec

from ssis_dispatcher.telemetry.redact import HIDDEN, is_secret_name, redact

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

_logger = logging.getLogger("ssis")

# Libraries that log every request they make, addresses and all.
_CHATTY = ("httpx2", "httpcore2", "huggingface_hub", "asyncio", "urllib3", "filelock")


def log(event: str, /, level: int = INFO, error: object = None, **fields: object) -> None:
    """Write one line: ``event`` in plain words, always the same for the same thing, and the facts as ``fields``.

    An exception as ``error`` adds its traceback. Values are redacted; those of fields named like secrets are left out.
    """
    if not _logger.isEnabledFor(level):
        return
    traceback = error if isinstance(error, BaseException) else None
    if error is not None and traceback is None:
        fields["error"] = error
    _logger.log(level, "%s", event, exc_info=traceback, extra={"fields": fields})


def setup(format: Literal["text", "json"] = "text", level: str = "info", stream: IO[str] | None = None) -> None:
    """Send the logs of this process, libraries included, to ``stream`` (default: standard error).

    ``level`` is ``debug``, ``info``, ``warning`` or ``error``. Replaces handlers that were there before.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(WARNING, logging.getLogger().level))


class TextLines(logging.Formatter):
    """``2026-11-24T03:00:00.123Z info     server ready  model=demo seconds=0.31``"""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _parts(record)
        traceback = fields.pop("traceback", None)
        facts = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        line = f"{_stamp(record.created)} {record.levelname.lower():<8} {event}" + (f"  {facts}" if facts else "")
        return f"{line}\n{traceback}" if traceback else line


class JsonLines(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``event``, ``logger`` (of a library), then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _parts(record)
        line = {"time": _stamp(record.created), "level": record.levelname.lower(), "event": event, **fields}
        return msgspec.json.encode(line).decode()


def _parts(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """The event and the fields of ``record``, redacted; a field never takes the name of the line's own."""
    fields: dict[str, object] = {}
    if record.name != _logger.name:
        fields["logger"] = record.name
    given = getattr(record, "fields", None)
    if isinstance(given, Mapping):
        for name, value in given.items():
            fields[f"{name}_" if name in _OWN else name] = HIDDEN if is_secret_name(name) else _plain(value)
    if record.exc_info and record.exc_info[1] is not None:
        fields["traceback"] = redact(logging.Formatter().formatException(record.exc_info))
    return redact(record.getMessage()), fields


_OWN = frozenset({"time", "level", "event", "logger", "traceback"})


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return redact(str(value))


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return (
        text if text and text.isprintable() and not set(text) & {" ", '"', "="} else msgspec.json.encode(text).decode()
    )


def _stamp(when: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(when))}.{int(when % 1 * 1000):03d}Z"
