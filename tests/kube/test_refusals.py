"""What refusals say, the API's and those of whatever stands before it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.kube.refusals import MESSAGE, ApiError, failure, told_to_wait


def status(**parts: object) -> bytes:
    return msgspec.json.encode({"kind": "Status", "apiVersion": "v1", "status": "Failure", **parts})


def test_a_status_is_read() -> None:
    error = failure(409, {}, status(reason="AlreadyExists", message='services "a" already exists', code=409))
    assert (error.status, error.reason, error.message) == (409, "AlreadyExists", 'services "a" already exists')
    assert str(error) == 'AlreadyExists: services "a" already exists'


@pytest.mark.parametrize(
    ("headers", "details", "seconds"),
    [
        ({"retry-after": "3"}, None, 3.0),
        ({"retry-after": "3"}, {"retryAfterSeconds": 9}, 3.0),
        ({}, {"retryAfterSeconds": 9}, 9.0),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, None, None),
        ({"retry-after": "-3"}, {"name": "a"}, None),
        ({}, None, None),
    ],
)
def test_the_time_to_come_again_is_in_the_head_or_in_the_details(
    headers: dict[str, str], details: object, seconds: float | None
) -> None:
    assert failure(429, headers, status(details=details)).retry_after == seconds


@pytest.mark.parametrize(
    ("body", "message"), [(b"<html>Bad gateway</html>", "<html>Bad gateway</html>"), (b"", "Bad Gateway"), (b"3", "3")]
)
def test_what_is_no_status_is_quoted(body: bytes, message: str) -> None:
    error = failure(502, {}, body)
    assert (error.reason, error.message, error.transient) == ("BadGateway", message, True)


def test_a_status_code_that_nobody_knows_is_one_still() -> None:
    assert failure(599, {}, b"").message == "Status 599"


def test_a_message_is_not_kept_whole_however_long() -> None:
    assert len(failure(422, {}, status(message="x" * 10_000)).message) == MESSAGE


@given(st.integers(100, 999), st.binary())
def test_anything_can_be_read(code: int, body: bytes) -> None:
    assert failure(code, {}, body).status == code


@pytest.mark.parametrize(
    ("error", "is_"),
    [
        (ApiError(404, "NotFound", ""), "missing"),
        (ApiError(409, "AlreadyExists", ""), "exists"),
        (ApiError(409, "Conflict", ""), "conflict"),
        (ApiError(410, "Expired", ""), "gone"),
        (ApiError(429, "TooManyRequests", ""), "limited transient"),
        (ApiError(403, "Forbidden", ""), "forbidden"),
        (ApiError(400, "BadRequest", ""), "invalid"),
        (ApiError(422, "Invalid", ""), "invalid"),
        (ApiError(500, "InternalError", ""), "transient"),
        (ApiError(0, "Timeout", ""), "transient"),
        (ApiError(0, "Fenced", ""), "fenced"),
    ],
)
def test_each_refusal_is_of_its_kind_only(error: ApiError, is_: str) -> None:
    names = ("missing", "exists", "conflict", "gone", "limited", "forbidden", "invalid", "fenced", "transient")
    assert {name for name in names if getattr(error, name)} == set(is_.split())


def test_who_is_told_to_wait() -> None:
    assert told_to_wait(ApiError(429, "TooManyRequests", ""))
    assert told_to_wait(ApiError(503, "ServiceUnavailable", "", 1.0))
    assert not told_to_wait(ApiError(503, "ServiceUnavailable", ""))
    assert not told_to_wait(ApiError(504, "Timeout", "", 1.0))
