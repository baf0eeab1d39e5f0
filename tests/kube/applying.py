"""Server-side apply, as far as it is used here: maps are merged, lists replaced whole, and who applied a field owns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.kube.status import Refusal
from tests.kube.store import Json

Path = tuple[str, ...]
_NAMES = (("metadata", "name"), ("metadata", "namespace"))


def leaves(item: Any, way: Path = ()) -> set[Path]:
    """The ways to everything in ``item`` that is no map."""
    if not isinstance(item, dict):
        return {way}
    found = {path for key, value in item.items() for path in leaves(value, (*way, key))}
    return {path for path in found if path not in _NAMES}


def conflicts(item: Json, given: Json, mine: set[Path], others: Mapping[str, set[Path]]) -> dict[str, list[Path]]:
    """By manager: the fields it owns that would change."""
    found: dict[str, list[Path]] = {}
    for manager, paths in others.items():
        clash = sorted(path for path in paths & mine if _at(item, path) != _at(given, path))
        if clash:
            found[manager] = clash
    return found


def kept(managers: Mapping[str, set[Path]], manager: str) -> set[Path]:
    """What others applied as well."""
    return {path for other, paths in managers.items() if other != manager for path in paths}


def applied(item: Json, given: Json, dropped: set[Path]) -> Json:
    """``item``, changed: with what is given, without what its manager no longer gives."""
    for path in dropped:
        parent = _at(item, path[:-1])
        if isinstance(parent, dict):
            parent.pop(path[-1], None)
    merged: Json = _merge(item, given)
    return merged


def refusal(others: Mapping[str, list[Path]]) -> Refusal:
    told = [f'conflict with "{manager}": {_dotted(path)}' for manager, paths in others.items() for path in paths]
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{manager}"', "field": _dotted(path)}
        for manager, paths in others.items()
        for path in paths
    ]
    count = f"Apply failed with {len(told)} conflict{'s' if len(told) > 1 else ''}"
    return Refusal(409, "Conflict", f"{count}: {'; '.join(told)}", {"causes": causes})


def _dotted(path: Path) -> str:
    return "." + ".".join(path)


def _at(item: Any, path: Path) -> Any:
    for step in path:
        item = item.get(step) if isinstance(item, dict) else None
    return item


def _merge(item: Any, given: Any) -> Any:
    if not isinstance(given, dict) or not isinstance(item, dict):
        return given
    for key, value in given.items():
        item[key] = _merge(item.get(key), value)
    return item
