"""How the API says no: `Refusal`, and the ``Status`` bodies it becomes.

Wordings were read off a Kubernetes 1.36 API server; ``test_contract.py`` keeps them true.
"""

from __future__ import annotations

from typing import Any

from tests.kube.kinds import Kind

MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


class Refusal(Exception):
    """An answer that is not what was asked for."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details is not None:
            status["details"] = self.details
        return status | {"code": self.code}


def success(kind: Kind, name: str, uid: str) -> dict[str, Any]:
    """What a DELETE is answered with when the object is gone at once."""
    details = _details(kind, name) | {"uid": uid}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def not_found(kind: Kind, name: str) -> Refusal:
    return Refusal(404, "NotFound", f'{kind.qualified} "{name}" not found', _details(kind, name))


def already_exists(kind: Kind, name: str, *, deleting: bool = False) -> Refusal:
    before = "object is being deleted: " if deleting else ""
    return Refusal(409, "AlreadyExists", f'{before}{kind.qualified} "{name}" already exists', _details(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> Refusal:
    message = f'Operation cannot be fulfilled on {kind.qualified} "{name}": {why or MODIFIED}'
    return Refusal(409, "Conflict", message, _details(kind, name))


def unmet(kind: Kind, name: str, what: str, asked: str, found: str, happened: str) -> Refusal:
    """A DELETE whose precondition does not hold. (The API names the kind, not the resource, in this one.)"""
    why = f"the {what} in the precondition ({asked}) does not match the {what} in record ({found}). {happened}"
    qualified = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    details = _details(kind, name) | {"kind": kind.kind}
    return Refusal(409, "Conflict", f'Operation cannot be fulfilled on {qualified} "{name}": {why}', details)


def invalid(kind: Kind, name: str, field: str, message: str, reason: str = "FieldValueInvalid") -> Refusal:
    qualified = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    details: dict[str, Any] = {"name": name} if name else {}
    if kind.group:
        details["group"] = kind.group
    details |= {"kind": kind.kind, "causes": [{"reason": reason, "message": message, "field": field}]}
    return Refusal(422, "Invalid", f'{qualified} "{name}" is invalid: {field}: {message}', details)


def invalid_option(options: str, field: str, message: str, reason: str = "FieldValueForbidden") -> Refusal:
    details = {
        "group": "meta.k8s.io",
        "kind": options,
        "causes": [{"reason": reason, "message": message, "field": field}],
    }
    return Refusal(422, "Invalid", f'{options}.meta.k8s.io "" is invalid: {field}: {message}', details)


def forbidden(kind: Kind, name: str, why: str) -> Refusal:
    return Refusal(403, "Forbidden", f'{kind.qualified} "{name}" is forbidden: {why}', _details(kind, name))


def bad_request(message: str) -> Refusal:
    return Refusal(400, "BadRequest", message)


def expired(message: str) -> Refusal:
    return Refusal(410, "Expired", message)


def unknown_resource() -> Refusal:
    return Refusal(404, "NotFound", "the server could not find the requested resource", {})


def wrong_method() -> Refusal:
    return Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def _details(kind: Kind, name: str) -> dict[str, Any]:
    return {"name": name} | ({"group": kind.group} if kind.group else {}) | {"kind": kind.plural}
