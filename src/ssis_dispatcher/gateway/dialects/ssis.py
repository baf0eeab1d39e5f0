"""The seed's wire format: ``POST /`` with ``{"token", "par", "env"}``, and what the original program took besides.

::

    {"token": "What is Deep Learning?",           the prompt
     "par": {"max_new_tokens": "20"},             generation parameters; numeric strings are numbers
     "env": {"MODEL_ID": "org/name",              the model, and settings of its server
             "HF_TOKEN": null},                   null and empty values are dropped
     "stream": false,                             or par.stream: server-sent events in TGI's form
     "label": {"slo": "0.5"},                     kept with the request; nothing is decided by it
     "payload": {…}, "subroute": "/v1/…"}         instead of token and par: sent as it is to that route of the engine

The reply is ``[{"generated_text": …}]``, whichever engine served it.
"""

from __future__ import annotations

import re
from urllib.parse import quote

import msgspec

from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.engines.generation import Generation, read
from ssis_dispatcher.errors import InvalidRequest, NotFound, Problem
from ssis_dispatcher.gateway.dialects import generated
from ssis_dispatcher.gateway.dialects.base import Headers, InferenceRequest, Upstream, Wish
from ssis_dispatcher.gateway.dialects.problems import PROBLEM_JSON, problem_json, tgi_error_event
from ssis_dispatcher.gateway.dialects.reading import (
    Once,
    Scalar,
    decoded,
    environment,
    hub_token,
    parameters,
    part,
)
from ssis_dispatcher.gateway.dialects.sse import json_closed, stream_ended

GENERATES = {"": generated.Form.LIST, "/": generated.Form.LIST, "/generate": generated.Form.OBJECT}
"""Routes that take a prompt and parameters, and the form of their reply; ``/generate_stream`` is the third."""

_SUBROUTE = re.compile(r"(/[A-Za-z0-9_\-][A-Za-z0-9_.\-]*){1,8}")


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    env: dict[str, Scalar] | None = None
    token: str | None = None
    par: msgspec.Raw = msgspec.Raw(b"null")
    stream: bool | str | None = None
    label: dict[str, Scalar] | None = None
    payload: msgspec.Raw = msgspec.Raw(b"null")
    subroute: str | None = None


class _Payload(msgspec.Struct):
    stream: bool | None = None


_body = msgspec.json.Decoder(_Body).decode
_once = Once("token", "par", "env", "payload")
_payload = msgspec.json.Decoder(_Payload).decode


class SSIS:
    """The seed's dialect."""

    name = "ssis"
    routes: tuple[tuple[str, str], ...] = (("POST", "/"),)

    def read(self, method: str, path: str, query: bytes, headers: Headers, body: bytes) -> InferenceRequest:
        fields = decoded(_body, body)
        _once.check(body)
        wish = _wish(fields, headers)
        labels = _labels(fields.label)
        if bytes(fields.payload) != b"null":
            return _verbatim(fields, wish, labels)
        return _generation(fields, wish, labels)

    def adapt(self, request: InferenceRequest, engine: Engine, served_as: str) -> Upstream:
        if request.generation is not None:
            form = GENERATES.get(request.route, generated.Form.OBJECT)
            return generated.upstream(request, engine, served_as, form)
        if reason := engine.refusal("POST", request.route):
            raise NotFound(
                f"`subroute` {request.route} cannot be used: {reason}", code="route_not_found", param="subroute"
            )
        return Upstream("POST", quote(request.route), request.body)

    def error(self, problem: Problem) -> tuple[bytes, bytes]:
        return problem_json(problem), PROBLEM_JSON

    def error_event(self, problem: Problem) -> bytes:
        return tgi_error_event(problem)

    def complete(
        self, tail: bytes, stream: bool, content_type: bytes = b"application/json", whole: bool = True
    ) -> bool:
        return stream_ended(tail) if stream else json_closed(tail, content_type, whole)


def _wish(fields: _Body, headers: Headers) -> Wish:
    wish = environment(fields.env or {}, "env")
    if not wish.id:
        raise InvalidRequest(
            '`env.MODEL_ID` is missing: name the model, as in {"env": {"MODEL_ID": "demo"}}.', param="env.MODEL_ID"
        )
    if wish.token is None and (secret := hub_token(headers)) is not None:
        return msgspec.structs.replace(wish, token=secret)
    return wish


def _generation(fields: _Body, wish: Wish, labels: tuple[tuple[str, str], ...]) -> InferenceRequest:
    if not fields.token:
        raise InvalidRequest("`token` is missing: it is the prompt, a text that is not empty.", param="token")
    route = _subroute(fields.subroute)
    if route not in GENERATES and route != "/generate_stream":
        raise InvalidRequest(f"`subroute` {route} needs a `payload` to send there.", param="payload")
    given = parameters(fields.par, "par") or {}
    streams = [_flag(given.pop("stream", None), "par.stream"), _flag(fields.stream, "stream")]
    stream = any(streams) if route in ("", "/") else route == "/generate_stream"
    checked = read(given, "par")
    # TGI's / gives the prompt back with the answer, unless told otherwise; its /generate does not.
    checked.setdefault("return_full_text", route in ("", "/"))
    generation = Generation(fields.token, checked, stream, "par")
    return InferenceRequest("ssis", route or "/", wish, stream, b"", generation=generation, labels=labels)


def _verbatim(fields: _Body, wish: Wish, labels: tuple[tuple[str, str], ...]) -> InferenceRequest:
    if fields.token or parameters(fields.par, "par"):
        raise InvalidRequest("`payload` is sent as it is: leave out `token` and `par`.", param="payload")
    body = bytes(fields.payload)
    if not body.startswith(b"{"):
        raise InvalidRequest("`payload` must be an object.", param="payload")
    route = _subroute(fields.subroute) or "/"
    stream = route == "/generate_stream" or bool(part(_payload, body, "payload").stream)
    return InferenceRequest("ssis", route, wish, stream, body, labels=labels)


def _subroute(value: str | None) -> str:
    """A plain path and nothing else, so that it can never become part of a host or leave the engine's tree; "" for none."""
    if value in (None, "", "/"):
        return value or ""
    value = "/" + value.lstrip("/") if not value.startswith("//") else value
    if len(value) > 200 or not _SUBROUTE.fullmatch(value) or ".." in value:
        raise InvalidRequest(
            "`subroute` must be a plain path of the engine, like /v1/chat/completions.", param="subroute"
        )
    return value


def _flag(value: object, where: str) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false", ""):
        return value.strip().lower() == "true"
    if value is None or isinstance(value, bool):
        return bool(value)
    raise InvalidRequest(f"`{where}` must be true or false.", param=where)


def _labels(given: dict[str, Scalar] | None) -> tuple[tuple[str, str], ...]:
    labels = tuple((name, str(value)) for name, value in (given or {}).items() if value is not None)
    if len(labels) > 32 or any(len(name) > 128 or len(value) > 256 for name, value in labels):
        raise InvalidRequest("`label` holds too much: at most 32 of 256 characters.", param="label")
    return labels
