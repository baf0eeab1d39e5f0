"""How one value is read from what a person wrote, and written back as a person would write it.

A kind reads strings (flags, environment) and TOML values alike, and raises `ValueError`, `TypeError` or `OverflowError`
for anything else; what it expected instead is said by ``expects``. ``read(write(value)) == value`` for every value but
variables, of which `write` has only the names: their values may be secrets.
"""

from __future__ import annotations

import ipaddress
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES: dict[str, int] = {"b": 1} | {
    f"{letter}{unit}": base**power
    for power, letter in enumerate("kmgt", 1)
    for unit, base in (("ib", 1024), ("i", 1024), ("b", 1000))
}
_CENTURY = 36_525 * 86_400
_NOTHING = ("none", "off")
_ON = ("true", "yes", "on", "1")
_OFF = ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value: its name in the documentation, what it expects, and both directions."""

    name: str
    expects: str
    read: Callable[[object], object]
    write: Callable[[Any], str] = str


Pairs = tuple[tuple[str, str], ...]


class CpuShare(msgspec.Struct, frozen=True):
    """``count`` equal shares of this machine, for running models on its processors.

    ``memory`` is in bytes, ``cores`` in processor cores (None: as much of the machine's cores as of its memory).
    """

    count: int
    memory: int
    cores: float | None = None


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise TypeError
    if "\0" in raw:
        raise ValueError
    return raw.strip()


def _whole(raw: object) -> int:
    if isinstance(raw, str):
        return int(raw)
    if type(raw) is not int:
        raise TypeError
    return raw


def _number(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise TypeError
    value = float(raw)
    if not math.isfinite(value):
        raise ValueError
    return value


def _write_number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _switch(raw: object) -> bool:
    if isinstance(raw, str):
        word = raw.strip().lower()
        if word not in _ON + _OFF:
            raise ValueError
        return word in _ON
    if not isinstance(raw, bool):
        raise TypeError
    return raw


def _parts(raw: object) -> list[str]:
    """A list, or its elements with commas between them; empty elements do not count."""
    if isinstance(raw, str):
        raw = raw.split(",")
    if not isinstance(raw, list | tuple):
        raise TypeError
    return [part for part in map(_text, raw) if part]


def read_list(raw: object) -> tuple[str, ...]:
    """A list of texts without commas, or texts with commas between. Raises `ValueError`, `TypeError`."""
    parts = _parts(raw)
    if any("," in part for part in parts):
        raise ValueError
    return tuple(parts)


def read_seconds(raw: object) -> float:
    """``90``, ``"1.5s"``, ``"2m30s"``, ``"1h"`` as seconds, from 0 to a hundred years. Raises `ValueError` or
    `TypeError`."""
    text = raw.strip() if isinstance(raw, str) else ""
    if re.fullmatch(r"(?:[0-9.]+\s*(?:ms|[smhd])\s*)+", text):
        raw = sum(float(number) * _TIMES[unit] for number, unit in re.findall(r"([0-9.]+)\s*(ms|[smhd])", text))
    value = _number(raw)
    if not 0 <= value <= _CENTURY:
        raise ValueError
    return value


def write_seconds(value: float) -> str:
    """Seconds as ``2m30s``; what is not a whole number of seconds as ``0.25s``."""
    if value != int(value):
        return str(value) if "e" in str(value) else f"{value}s"
    left, words = int(value), ""
    for unit in ("d", "h", "m"):
        number, left = divmod(left, int(_TIMES[unit]))
        words += f"{number}{unit}" if number else ""
    return words + (f"{left}s" if left or not words else "")


def read_bytes(raw: object) -> int:
    """``4096``, ``"4MiB"``, ``"1.5 GB"``, ``"2Gi"`` as bytes, never negative. Raises `ValueError` or `TypeError`."""
    if not isinstance(raw, str):
        if (size := _whole(raw)) < 0:
            raise ValueError
        return size
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", raw.strip().lower())
    if found is None or (found[2] or "b") not in _SIZES:
        raise ValueError
    scale = _SIZES[found[2] or "b"]
    return int(found[1]) * scale if found[1].isdigit() else round(float(found[1]) * scale)


def write_bytes(value: int) -> str:
    """Bytes in the largest binary unit that divides them."""
    for unit, letter in ((2**40, "T"), (2**30, "G"), (2**20, "M"), (2**10, "K")):
        if value and value % unit == 0:
            return f"{value // unit}{letter}iB"
    return f"{value}B"


def _share(text: str) -> CpuShare:
    found = re.fullmatch(r"(?:([0-9]+)\s*x\s*)?([^:]+?)(?:\s*:\s*([0-9.]+))?", text)
    if found is None:
        raise ValueError
    share = CpuShare(int(found[1] or 1), read_bytes(found[2]), float(found[3]) if found[3] else None)
    if share.count < 1 or share.memory < 1 or share.cores == 0:
        raise ValueError
    return share


def _write_share(share: CpuShare) -> str:
    count = f"{share.count}x" if share.count > 1 else ""
    return count + write_bytes(share.memory) + (f":{share.cores:g}" if share.cores else "")


def _url(raw: object) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", text := _text(raw)):
        raise ValueError
    return text.rstrip("/")


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"[!-+\--<>-~]+")
"""Visible, without comma and equals sign: labels, resources, ``engine/slice``."""


def read_variables(raw: object) -> Pairs:
    """A table, or ``NAME=value`` with commas between, as pairs in the order of their names, which are those of
    environment variables. Raises `ValueError`, `TypeError`."""
    return _pairs(raw, _VARIABLE)


def _read_table(raw: object) -> Pairs:
    pairs = _pairs(raw, _KEY)
    if any("," in value for _, value in pairs):
        raise ValueError
    return pairs


def _pairs(raw: object, names: re.Pattern[str]) -> Pairs:
    if not isinstance(raw, Mapping):
        pairs = [part.partition("=") for part in _parts(raw)]
        if not all(sign for _, sign, _ in pairs):
            raise ValueError
        raw = {name.strip(): value.strip() for name, _, value in pairs}
    if not all(isinstance(name, str) and names.fullmatch(name) for name in raw):
        raise ValueError
    return tuple(sorted((name, str(value) if type(value) is int else _text(value)) for name, value in raw.items()))


def read_words(raw: object) -> tuple[str, ...]:
    """A list, or one string as a shell would split it."""
    return tuple(shlex.split(raw) if isinstance(raw, str) else map(_text, raw if isinstance(raw, list) else [raw]))


TEXT = Kind("text", "text", _text)
WHOLE = Kind("whole number", "a whole number", _whole)
NUMBER = Kind("number", "a number", _number, _write_number)
SWITCH = Kind("switch", "true or false", _switch, lambda value: "true" if value else "false")
PATH = Kind("path", "a path", lambda raw: Path(_text(raw)).expanduser())
URL = Kind("address", "an address such as https://example.org", _url)
SECONDS = Kind("duration", "a duration such as 90, 1.5s, 2m30s or 1h", read_seconds, write_seconds)
BYTES = Kind("size", "a size such as 65536, 512KiB, 4MiB or 1.5GB", read_bytes, write_bytes)
LIST = Kind("list", "a list of texts, or texts with commas between them", read_list, ",".join)
VARIABLES = Kind(
    "variables",
    "a table of texts, or NAME=value with commas between",
    read_variables,
    lambda pairs: ",".join(name for name, _ in pairs),
)
TABLE = Kind(
    "table",
    "a table of texts, or name=value with commas between",
    _read_table,
    lambda pairs: ",".join(f"{name}={value}" for name, value in pairs),
)
NETWORKS = Kind(
    "list of networks",
    "a list of addresses or networks such as 10.0.0.0/8",
    lambda raw: tuple(_network(part) for part in _parts(raw)),
    ",".join,
)
SHARES = Kind(
    "list of shares",
    "a list of shares such as 2GiB, 4x1GiB or 2x4GiB:1.5 (count x memory : cores)",
    lambda raw: tuple(_share(part) for part in _parts(raw)),
    lambda shares: ",".join(map(_write_share, shares)),
)

_PLAIN: dict[object, Kind] = {str: TEXT, int: WHOLE, float: NUMBER, bool: SWITCH, Path: PATH, tuple[str, ...]: LIST}


def _choice(words: tuple[str, ...]) -> Kind:
    def read(raw: object) -> str:
        if (word := _text(raw).lower()) not in words:
            raise ValueError
        return word

    return Kind(" or ".join(words), f"one of {', '.join(words)}", read)


def _optional(kind: Kind) -> Kind:
    """The same, or nothing: ``none``, ``off``."""

    def read(raw: object) -> object:
        return None if isinstance(raw, str) and raw.strip().lower() in _NOTHING else kind.read(raw)

    return Kind(
        kind.name, f"{kind.expects}, or none", read, lambda value: "none" if value is None else kind.write(value)
    )


def of(hint: object) -> Kind:
    """The kind of an annotated type: the one it carries, else the one that its type implies."""
    options = get_args(hint)
    if get_origin(hint) is Annotated:
        return next((extra for extra in options[1:] if isinstance(extra, Kind)), None) or of(options[0])
    if NoneType in options:
        (inner,) = (option for option in options if option is not NoneType)
        return _optional(of(inner))
    return _choice(options) if get_origin(hint) is Literal else _PLAIN[hint]
