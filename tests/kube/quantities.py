"""Quantities of resources, and what a pod asks of its node."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from typing import Any

Amounts = dict[str, Fraction]

_SUFFIXES: dict[str, Fraction] = {
    **{
        name: Fraction(10) ** power
        for name, power in {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9}.items()
    },
    **{name: Fraction(10) ** power for name, power in {"T": 12, "P": 15, "E": 18}.items()},
    **{f"{name}i": Fraction(1024) ** (place + 1) for place, name in enumerate("KMGTPE")},
}


@cache
def quantity(text: str | int | float) -> Fraction:
    """``"250m"`` is 1/4, ``"1Gi"`` is 2³⁰. Raises ValueError."""
    found = re.fullmatch(r"([+-]?\d+(?:\.\d*)?)(?:[eE]([+-]?\d+))?([numkMGTPE]?i?)", str(text))
    if found is None or found[3] not in _SUFFIXES:
        raise ValueError(f"quantities must match the regular expression of quantities: {text!r}")
    return Fraction(found[1]) * Fraction(10) ** int(found[2] or 0) * _SUFFIXES[found[3]]


def written(resource: str, amount: Fraction | int) -> str:
    """An amount as messages give it."""
    if resource.endswith("cpu") and Fraction(amount).denominator != 1:
        return f"{int(amount * 1000)}m"
    if resource.endswith("memory"):
        for suffix in ("Ti", "Gi", "Mi", "Ki"):
            if amount and amount % _SUFFIXES[suffix] == 0:
                return f"{int(amount / _SUFFIXES[suffix])}{suffix}"
    return str(int(amount))


def requests(spec: dict[str, Any]) -> Amounts:
    """What a pod with this specification takes of its node, by resource: the sum of its containers and sidecars, or the
    largest init container's need if that is more, and the overhead."""
    running: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers") or ():
        asked = _asked(container)
        if container.get("restartPolicy") == "Always":
            _add(running, asked)
            _raise(peak, running)
        else:
            _raise(peak, {name: amount + running.get(name, 0) for name, amount in asked.items()})
    for container in spec.get("containers") or ():
        _add(running, _asked(container))
    _raise(running, peak)
    _add(running, {name: quantity(amount) for name, amount in (spec.get("overhead") or {}).items()})
    return running


def _asked(container: dict[str, Any]) -> Amounts:
    resources = container.get("resources") or {}
    asked = (resources.get("limits") or {}) | (resources.get("requests") or {})
    return {name: quantity(amount) for name, amount in asked.items()}


def _add(total: Amounts, more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, Fraction(0)) + amount


def _raise(total: Amounts, least: Amounts) -> None:
    for name, amount in least.items():
        total[name] = max(total.get(name, Fraction(0)), amount)
