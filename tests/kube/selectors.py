"""Label and field selectors, as the API reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.kube.kinds import Kind
from tests.kube.status import bad_request

Json = dict[str, Any]
Match = Callable[[Json], bool]

_REQUIREMENT = re.compile(
    r"""\s*(?:
        (?P<absent>!)\s*(?P<missing>[\w./-]+)
      | (?P<key>[\w./-]+)\s*(?:
            (?P<sign>==|=|!=)\s*(?P<value>[\w.-]*)
          | \s(?P<word>in|notin)\s*\(\s*(?P<values>[\w.,\s-]*)\)
        )?
    )\s*(?:,|$)""",
    re.VERBOSE,
)


def everything(_: Json) -> bool:
    return True


def labels(selector: str) -> Match:
    """``a=b,c!=d,e in (f,g),h,!i``."""
    tests: list[Callable[[Mapping[str, str]], bool]] = []
    at = 0
    while at < len(selector):
        found = _REQUIREMENT.match(selector, at)
        if found is None or found.end() == at:
            raise bad_request(f"found '{selector[at:].split()[-1]}', expected: ',' or 'end of string'")
        tests.append(_label_test(found))
        at = found.end()
    if not tests:
        return everything
    return lambda item: all(test(item["metadata"].get("labels") or {}) for test in tests)


def _label_test(found: re.Match[str]) -> Callable[[Mapping[str, str]], bool]:
    if found["absent"]:
        missing = found["missing"]
        return lambda labels: missing not in labels
    key = found["key"]
    if found["sign"]:
        value, wanted = found["value"], found["sign"] != "!="
        return lambda labels: (labels.get(key) == value) == wanted
    if found["word"]:
        values, inside = {value.strip() for value in found["values"].split(",")}, found["word"] == "in"
        return lambda labels: (labels.get(key) in values) == inside
    return lambda labels: key in labels


def fields(selector: str, kind: Kind) -> Match:
    """``metadata.name=a,status.phase!=Failed``; only the fields that the API offers for this kind."""
    tests: list[tuple[tuple[str, ...], str, bool]] = []
    for term in filter(None, selector.split(",")):
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        if found is None:
            raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
        name, sign, value = found.groups()
        _known(name, kind)
        tests.append((tuple(name.split(".")), value, sign != "!="))
    if not tests:
        return everything
    return lambda item: all((_field(item, path) == value) == wanted for path, value, wanted in tests)


def _known(name: str, kind: Kind) -> None:
    if name == "metadata.name" or (name == "metadata.namespace" and kind.namespaced) or name in kind.fields:
        return
    if kind.fields or kind.custom:
        raise bad_request(f"field label not supported: {name}")
    raise bad_request(f'"{name}" is not a known field selector: only "metadata.name", "metadata.namespace"')


def _field(item: Json, path: tuple[str, ...]) -> str:
    value: Any = item
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "false" if path[-1] in ("unschedulable", "hostNetwork") else ""
    return str(value)


def both(one: Match, other: Match) -> Match:
    if one is everything:
        return other
    if other is everything:
        return one
    return lambda item: one(item) and other(item)
