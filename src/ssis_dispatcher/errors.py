"""Every error that a caller can see, split by who must act.

::

    DispatchError
    ├── CallerError                 the caller acts, and repeating the same request cannot help
    │   ├── InvalidRequest          400  cannot be understood; ``param`` names the field
    │   ├── Unauthenticated         401  no key, or one that is not known
    │   ├── Forbidden               403  the key may not do this
    │   ├── NotFound                404  no such route, request or server
    │   ├── ModelNotServable        404  no such model here; says what can be served and what to do
    │   ├── TooLarge                413  over a size limit
    │   ├── Unprocessable           422  understood, but this model, engine or platform cannot do it
    │   └── LimitExceeded           429  the caller's own limit; ``retry_after`` says when
    ├── Unavailable                 503  our turn: no capacity, waiting room full, draining, model failed
    └── UpstreamError               502  the inference server broke its word
        └── UpstreamTimeout         504  … or kept silent for too long
"""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """An error as data: what the core decides and every dialect can write down.

    ``code`` is a stable snake_case word for programs, ``message`` a sentence for people. ``retry_after`` is in
    seconds, and None where repeating cannot help.
    """

    status: int
    code: str
    message: str
    retry_after: float | None = None
    param: str | None = None


class DispatchError(Exception):
    """Something went wrong in the dispatcher."""

    status = 500
    code = "internal_error"

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        retry_after: float | None = None,
        param: str | None = None,
    ) -> None:
        message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        super().__init__(message)
        self.problem = Problem(self.status, code or self.code, message, retry_after, param)

    @staticmethod
    def of(problem: Problem) -> DispatchError:
        """The exception that carries ``problem``; its class follows from the status."""
        kind = _BY_STATUS.get(problem.status, DispatchError)
        error = kind(problem.message)
        error.problem = problem
        return error


class CallerError(DispatchError):
    """The request cannot be served as it is."""

    status = 400


class InvalidRequest(CallerError):
    """The request cannot be understood."""

    status = 400
    code = "invalid_request"


class Unauthenticated(CallerError):
    """A valid API key is needed."""

    status = 401
    code = "invalid_api_key"


class Forbidden(CallerError):
    """This API key may not do that."""

    status = 403
    code = "forbidden"


class NotFound(CallerError):
    """There is nothing here."""

    status = 404
    code = "not_found"


class ModelNotServable(NotFound):
    """This model cannot be served here."""

    code = "model_not_found"


class TooLarge(CallerError):
    """The request is larger than the limit."""

    status = 413
    code = "request_too_large"


class Unprocessable(CallerError):
    """The request is understood, but it cannot be done here."""

    status = 422
    code = "unprocessable"


class LimitExceeded(CallerError):
    """The caller's own limit is reached."""

    status = 429
    code = "rate_limit_exceeded"


class Unavailable(DispatchError):
    """The dispatcher cannot serve this now."""

    status = 503
    code = "unavailable"


class UpstreamError(DispatchError):
    """The inference server failed."""

    status = 502
    code = "upstream_error"


class UpstreamTimeout(UpstreamError):
    """The inference server kept silent for too long."""

    status = 504
    code = "upstream_timeout"


_BY_STATUS: dict[int, type[DispatchError]] = {
    kind.status: kind
    for kind in (
        InvalidRequest,
        Unauthenticated,
        Forbidden,
        NotFound,
        TooLarge,
        Unprocessable,
        LimitExceeded,
        Unavailable,
        UpstreamError,
        UpstreamTimeout,
    )
}
