"""OpenAI's wire format: any JSON ``POST /v1/…`` that names a ``model``.

The body is looked at once, for the three fields that route it, and the same bytes go on, unless the model's name in it
has to change or an ``ssis`` object has to come out. ``model`` may be ``org/name@revision``; ``ssis`` (the official
client's ``extra_body``) says what OpenAI has no word for: ``revision``, ``engine``, ``context``, ``env``, ``token``.
"""

from __future__ import annotations

import msgspec

from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.errors import InvalidRequest, NotFound, Problem
from ssis_dispatcher.gateway.dialects.base import Headers, InferenceRequest, Upstream, Wish
from ssis_dispatcher.gateway.dialects.reading import (
    Once,
    Scalar,
    context,
    decoded,
    engine_name,
    environment,
    hub_token,
    one_revision,
    plain_wish,
    revision,
    token,
)
from ssis_dispatcher.gateway.dialects.sse import json_closed, stream_ended


class _Extra(msgspec.Struct, forbid_unknown_fields=True):
    """The ``ssis`` object."""

    revision: str | None = None
    engine: str | None = None
    context: int | str | None = None
    env: dict[str, Scalar] | None = None
    token: str | None = None


class _Routing(msgspec.Struct, gc=False):
    """All that is read of a body."""

    model: str
    stream: bool | msgspec.UnsetType | None = msgspec.UNSET
    ssis: _Extra | msgspec.UnsetType | None = msgspec.UNSET


_routing = msgspec.json.Decoder(_Routing).decode
_once = Once("model", "stream")
_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_DONE = b"data: [DONE]\n\n"

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


class OpenAI:
    """OpenAI's dialect."""

    name = "openai"
    routes: tuple[tuple[str, str], ...] = (("POST", "/v1/*"),)

    def read(self, method: str, path: str, query: bytes, headers: Headers, body: bytes) -> InferenceRequest:
        fields = decoded(_routing, body)
        if fields.stream is not msgspec.UNSET or body.count(b'"model"') > 1:  # else each is there once at most
            _once.check(body)
        wish = plain_wish(fields.model, "model")
        extra, secret = fields.ssis, hub_token(headers)
        if extra or secret is not None:
            wish = _extended(wish, extra or _Extra(), secret)
        if path == "/v1/embeddings":
            wish = msgspec.structs.replace(wish, embeds=True)
        if extra is not msgspec.UNSET or wish.id != fields.model:
            body = _rewritten(body, wish.id)
        return InferenceRequest("openai", path, wish, fields.stream is True, body, method, query)

    def adapt(self, request: InferenceRequest, engine: Engine, served_as: str) -> Upstream:
        if reason := engine.refusal(request.method, request.route):
            raise NotFound(f"{request.route} is not available for {request.wish.id}: {reason}", code="route_not_found")
        body = request.body if served_as == request.wish.id else _rewritten(request.body, served_as)
        path = f"{request.route}?{request.query.decode('latin-1')}" if request.query else request.route
        return Upstream(request.method, path, body)

    def error(self, problem: Problem) -> tuple[bytes, bytes]:
        return msgspec.json.encode(_error(problem)), b"application/json"

    def error_event(self, problem: Problem) -> bytes:
        return b"data: " + msgspec.json.encode(_error(problem)) + b"\n\n"

    def complete(
        self, tail: bytes, stream: bool, content_type: bytes = b"application/json", whole: bool = True
    ) -> bool:
        return tail.endswith(_DONE) or stream_ended(tail) if stream else json_closed(tail, content_type, whole)


def _extended(wish: Wish, extra: _Extra, secret: str | None) -> Wish:
    """``wish`` with what the ``ssis`` object and the header add. What is said twice must be the same."""
    named = environment(extra.env or {}, "ssis.env")
    if named.id and named.id != wish.id:
        raise InvalidRequest("`ssis.env.MODEL_ID` is another model than `model`.", param="ssis.env.MODEL_ID")
    said = revision(extra.revision, "ssis.revision") or named.revision
    return Wish(
        wish.id,
        one_revision("ssis.revision", wish.revision, said, named.revision),
        engine_name(extra.engine, "ssis.engine"),
        context(extra.context, "ssis.context") or named.context,
        named.env,
        token(extra.token, "ssis.token") or named.token or secret,
    )


def _rewritten(body: bytes, model: str) -> bytes:
    """``body`` with another ``model`` and without ``ssis``; all other fields keep their very bytes."""
    fields = _raw(body)
    fields.pop("ssis", None)
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def _error(problem: Problem) -> dict[str, object]:
    kind = "server_error" if problem.status >= 500 else _KINDS.get(problem.status, "invalid_request_error")
    return {"error": {"message": problem.message, "type": kind, "param": problem.param, "code": problem.code}}
