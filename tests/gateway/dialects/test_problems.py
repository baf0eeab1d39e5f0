"""Errors as bytes, and engines' errors as ours."""

from __future__ import annotations

import msgspec
import pytest

from ssis_dispatcher.errors import Problem
from ssis_dispatcher.gateway.dialects.base import Dialect
from ssis_dispatcher.gateway.dialects.openai import OpenAI
from ssis_dispatcher.gateway.dialects.problems import engine_problem
from ssis_dispatcher.gateway.dialects.ssis import SSIS
from ssis_dispatcher.gateway.dialects.tgi import TGI

PROBLEM = Problem(503, "no_capacity", 'All slices are "taken".', 7.0, None)


@pytest.mark.parametrize("dialect", [SSIS(), TGI()])
def test_outside_openais_routes_an_error_is_a_problem_document(dialect: Dialect) -> None:
    body, content_type = dialect.error(PROBLEM)
    assert content_type == b"application/problem+json"
    assert msgspec.json.decode(body) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": 'All slices are "taken".',
        "code": "no_capacity",
        "retry_after": 7.0,
    }
    assert dialect.error_event(PROBLEM) == (
        b'data:{"error":"All slices are \\"taken\\".","error_type":"no_capacity"}\n\n'
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (429, "rate_limit_error"),
        (502, "server_error"),
        (503, "server_error"),
    ],
)
def test_on_openais_routes_an_error_has_openais_shape(status: int, kind: str) -> None:
    problem = Problem(status, "some_code", "Words.", param="model")
    error = {"error": {"message": "Words.", "type": kind, "param": "model", "code": "some_code"}}
    body, content_type = OpenAI().error(problem)
    assert (msgspec.json.decode(body), content_type) == (error, b"application/json")
    event = OpenAI().error_event(problem)
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert msgspec.json.decode(event[6:]) == error


@pytest.mark.parametrize(
    ("status", "body", "ours", "says"),
    [
        (400, b'{"error":{"message":"prompt too long"}}', 400, "prompt too long"),
        (422, b"Failed to deserialize", 422, "Failed to deserialize"),
        (413, b"", 413, "refused the request"),
        (429, b'{"error":"Model is overloaded","error_type":"overloaded"}', 503, "busy. Model is overloaded"),
        (503, b'{"error":{"code":503,"message":"Loading model"}}', 503, "Loading model"),
        (401, b"", 502, "status 401"),
        (404, b'{"detail":"Not Found"}', 502, "status 404: Not Found"),
        (500, b"<html>secret stack</html>", 502, "status 500."),
        (
            424,
            b'{"error":"Request failed during generation","error_type":"generation"}',
            502,
            "failed during generation",
        ),
    ],
)
def test_an_engines_error_says_whose_turn_it_is(status: int, body: bytes, ours: int, says: str) -> None:
    problem = engine_problem(status, body)
    assert problem.status == ours
    assert says in problem.message
    assert (problem.retry_after is not None) == (ours == 503)
