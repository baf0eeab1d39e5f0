"""Kubernetes quantities, and what a pod asks of its node. Pure. Called by `capacity` and `pods`.

Sums are kept in whole numbers: CPU in thousandths of a core, memory in bytes, everything else by count; what a pod asks
is rounded up and what a node has is rounded down, as the scheduler does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

MIB = 1 << 20

Amounts = dict[str, int]
"""Resource → how much of it: ``cpu`` in thousandths of a core, ``memory`` in bytes."""

_QUANTITY = re.compile(r"([+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30}))(?:[eE]([+-]?\d{1,2})|([numkMGTPE]|[KMGTPE]i)?)")
_SUFFIXES: Mapping[str, Fraction] = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    **{suffix: Fraction(10 ** (3 * power)) for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Fraction(1 << (10 * power)) for power, suffix in enumerate("KMGTPE", 1)},
}


@lru_cache(maxsize=4096)
def quantity(text: str | int | float) -> Fraction:
    """``text`` as a number: ``500m``, ``1.5``, ``64Gi``, ``7k``, ``1e3``. Raises `ValueError`."""
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"{text!r} is no quantity")
    scale = Fraction(10) ** int(match[2]) if match[2] else _SUFFIXES[match[3] or ""]
    return Fraction(match[1]) * scale


def requests(pod: Mapping[str, Any]) -> Amounts:
    """What a pod asks of its node, by the scheduler's rule: its containers and those init containers that stay (sidecars)
    together, or what the neediest of the other init containers asks while it runs, with the sidecars before it; and the
    overhead of its runtime. What the pod as a whole says of CPU and memory comes before what its containers say."""
    known: Amounts | None = pod.get("asks")
    if known is not None:
        return known
    spec = pod.get("spec") or {}
    asked: Amounts = {}
    for container in spec.get("containers") or ():
        _add(asked, _own(container))
    sidecars: Amounts = {}
    needed: Amounts = {}
    for container in spec.get("initContainers") or ():
        own = _own(container)
        if container.get("restartPolicy") == "Always":
            _add(asked, own)
            _add(sidecars, own)
            _most(needed, sidecars)
        else:
            _most(needed, _sum((own, sidecars)))
    _most(asked, needed)
    asked |= amounts((spec.get("resources") or {}).get("requests") or {})
    _add(asked, amounts(spec.get("overhead") or {}))
    return asked


def amounts(written: Mapping[str, Any], *, down: bool = False) -> Amounts:
    """Quantities as whole numbers, rounded up, or ``down``. What is no quantity counts as nothing."""
    found: Amounts = {}
    for name, text in written.items():
        try:
            value = quantity(text)
        except ValueError:
            continue
        if name == "cpu":
            value *= 1000
        found[name] = value.numerator // value.denominator if down else -(-value.numerator // value.denominator)
    return found


def _own(container: Mapping[str, Any]) -> Amounts:
    """What one container asks: where it only says a limit, the API server takes that for its request."""
    resources = container.get("resources") or {}
    return amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _add(total: Amounts, more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _most(total: Amounts, other: Mapping[str, int]) -> None:
    for name, amount in other.items():
        total[name] = max(total.get(name, 0), amount)


def _sum(parts: Iterable[Mapping[str, int]]) -> Amounts:
    total: Amounts = {}
    for part in parts:
        _add(total, part)
    return total
