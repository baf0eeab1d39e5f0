"""The patches the API understands: RFC 7386 merge patches and RFC 6902 JSON patches."""

from __future__ import annotations

from typing import Any

from tests.kube.status import Refusal


def merged(target: Any, patch: Any) -> Any:
    """``target`` with a merge patch applied; neither is changed."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def _rejected() -> Refusal:
    return Refusal(422, "Invalid", "the server rejected our request due to an error in our request", {})


def patched(target: Any, operations: list[dict[str, Any]]) -> Any:
    """``target``, changed in place by a JSON patch. Raises `Refusal` as the API does, which says nothing about why."""
    document = {"": target}
    for operation in operations:
        try:
            _operate(document, operation)
        except (KeyError, IndexError, TypeError, ValueError):
            raise _rejected() from None
    return document[""]


def _operate(document: dict[str, Any], operation: dict[str, Any]) -> None:
    match operation["op"]:
        case "add":
            _add(document, operation["path"], operation["value"])
        case "remove":
            _remove(document, operation["path"])
        case "replace":
            _remove(document, operation["path"])
            _add(document, operation["path"], operation["value"])
        case "test":
            if _get(document, operation["path"]) != operation["value"]:
                raise ValueError(operation["path"])
        case "move":
            _add(document, operation["path"], _remove(document, operation["from"]))
        case "copy":
            _add(document, operation["path"], _get(document, operation["from"]))
        case unknown:
            raise ValueError(unknown)


def _steps(path: str) -> tuple[list[str], str]:
    """The way to the parent, and the last step."""
    *way, last = [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")]
    return way, last


def _parent(document: Any, path: str) -> tuple[Any, str]:
    way, last = _steps(path)
    for step in way:
        document = document[int(step)] if isinstance(document, list) else document[step]
    return document, last


def _get(document: Any, path: str) -> Any:
    parent, last = _parent(document, path)
    return parent[int(last)] if isinstance(parent, list) else parent[last]


def _add(document: Any, path: str, value: Any) -> None:
    parent, last = _parent(document, path)
    if isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else int(last), value)
    else:
        parent[last] = value


def _remove(document: Any, path: str) -> Any:
    parent, last = _parent(document, path)
    return parent.pop(int(last)) if isinstance(parent, list) else parent.pop(last)
