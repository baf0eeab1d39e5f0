"""What the API server says when it does not do what it was asked to. Used by `api`."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

MESSAGE = 1000
"""Characters of a message that are kept."""


class ApiError(Exception):
    """The API server refused, failed, or could not be asked.

    ``status`` is that of HTTP, 0 where no answer came; ``reason`` the API's own word for it, such as ``AlreadyExists``;
    ``retry_after`` in seconds, None where the server named none.
    """

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{reason or status}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @property
    def missing(self) -> bool:
        return self.status == 404

    @property
    def exists(self) -> bool:
        """The name is taken."""
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def conflict(self) -> bool:
        """The object is no longer what the write was based on."""
        return self.status == 409 and self.reason != "AlreadyExists"

    @property
    def gone(self) -> bool:
        """The version is too old to go on from."""
        return self.status == 410 or self.reason in ("Expired", "Gone")

    @property
    def limited(self) -> bool:
        return self.status == 429

    @property
    def forbidden(self) -> bool:
        return self.status == 403

    @property
    def invalid(self) -> bool:
        return self.status in (400, 422)

    @property
    def fenced(self) -> bool:
        """We did not send it, since we may no longer write (`Kube.fence`)."""
        return self.reason == "Fenced"

    @property
    def transient(self) -> bool:
        """May pass by itself. For a write without an answer (0, 5xx) it is open whether it happened."""
        return self.limited or self.status >= 500 or (self.status == 0 and not self.fenced)


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: float | None = None


class _Status(msgspec.Struct):
    """The API's body of a refusal, as far as it is used."""

    message: str | None = None
    reason: str | None = None
    code: int = 0
    details: _Details | None = None


def told_to_wait(error: ApiError) -> bool:
    """Whether the server sent the call away as it came."""
    return error.limited or (error.status == 503 and error.retry_after is not None)


def failure(status: int, headers: Mapping[str, str], content: bytes) -> ApiError:
    """What an answer that is no success says: a Status of the API, or whatever a proxy between us and it wrote."""
    try:
        said = msgspec.json.decode(content, type=_Status)
    except msgspec.MsgspecError:
        said = _Status(message=content[:200].decode(errors="replace").strip())
    phrase = _phrase(status)
    reason = said.reason or phrase.replace(" ", "")
    return ApiError(status, reason, (said.message or phrase)[:MESSAGE], _retry_after(headers, said.details))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"Status {status}"


def _retry_after(headers: Mapping[str, str], details: _Details | None) -> float | None:
    """Seconds. The API server never sends the header's other form, a date."""
    header = headers.get("retry-after", "").strip()
    if header.isascii() and header.isdecimal():
        return float(header)
    return details.retry_after_seconds if details else None
