"""TGI's wire format under a model's own path: ``/models/{org}/{name}/generate`` and ``…/generate_stream``, and any other
route of its engine below the same path. Names of the catalogue may be bare: ``/models/demo/generate``.

``/generate``, ``/generate_stream`` and the model's path itself (TGI's ``/``) are understood and work with every engine.
All other routes are passed through untouched where the engine has them; ``/info`` is answered by the gateway
(`info`) where it has not.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from ssis_dispatcher.engines.base import Engine
from ssis_dispatcher.engines.generation import Generation, read
from ssis_dispatcher.engines.registry import PATHS
from ssis_dispatcher.errors import InvalidRequest, NotFound, Problem
from ssis_dispatcher.gateway.dialects import generated
from ssis_dispatcher.gateway.dialects.base import Headers, InferenceRequest, Upstream
from ssis_dispatcher.gateway.dialects.problems import PROBLEM_JSON, problem_json, tgi_error_event
from ssis_dispatcher.gateway.dialects.reading import Once, decoded, hub_token, parameters, plain_wish
from ssis_dispatcher.gateway.dialects.sse import json_closed, stream_ended

KNOWN = frozenset(path.removeprefix("/") for path in PATHS) | {"props", "slots"}
"""Engine routes by which a bare model name is told from ``org/name``."""

GENERATES = frozenset({"/", "/generate", "/generate_stream"})
"""Routes that work with every engine."""


class _Stream(msgspec.Struct):
    stream: bool | None = None


class _Body(msgspec.Struct):
    inputs: str
    parameters: msgspec.Raw = msgspec.Raw(b"null")
    stream: bool | None = None


_body = msgspec.json.Decoder(_Body).decode
_once = Once("inputs", "parameters", "stream")
_stream = msgspec.json.Decoder(_Stream).decode


class TGI:
    """TGI's dialect."""

    name = "tgi"
    routes: tuple[tuple[str, str], ...] = (("*", "/models/*"),)

    def read(self, method: str, path: str, query: bytes, headers: Headers, body: bytes) -> InferenceRequest:
        model, route = split(path)
        wish = plain_wish(model, "path")
        if (secret := hub_token(headers)) is not None:
            wish = msgspec.structs.replace(wish, token=secret)
        request = InferenceRequest("tgi", route, wish, False, body, method, query)
        if route in GENERATES and method == "POST":
            _understand(request)
        elif route in GENERATES and route != "/":
            raise NotFound(f"{route} takes POST only.", code="method_not_allowed")
        elif method == "POST" and body:
            request.stream = decoded(_stream, body).stream is True
        return request

    def adapt(self, request: InferenceRequest, engine: Engine, served_as: str) -> Upstream:
        if "tgi" not in engine.dialects and request.generation is not None:
            form = generated.Form.LIST if request.route == "/" else generated.Form.OBJECT
            return generated.upstream(request, engine, served_as, form)
        if reason := engine.refusal(request.method, request.route):
            raise NotFound(f"{request.route} is not available for {request.wish.id}: {reason}", code="route_not_found")
        path = quote(request.route)
        return Upstream(
            request.method, f"{path}?{request.query.decode('latin-1')}" if request.query else path, request.body
        )

    def error(self, problem: Problem) -> tuple[bytes, bytes]:
        return problem_json(problem), PROBLEM_JSON

    def error_event(self, problem: Problem) -> bytes:
        return tgi_error_event(problem)

    def complete(
        self, tail: bytes, stream: bool, content_type: bytes = b"application/json", whole: bool = True
    ) -> bool:
        return stream_ended(tail) if stream else json_closed(tail, content_type, whole)


def split(path: str) -> tuple[str, str]:
    """Model and engine route of ``/models/…``: ``/models/demo/generate`` → ``demo``, ``/generate``. Where both readings
    of a path make sense, the longer engine route counts. Raises `InvalidRequest`."""
    parts = path.removeprefix("/models/").rstrip("/").split("/")
    if not parts[0]:
        raise InvalidRequest("The path names no model: /models/{org}/{name}/generate.", param="path")
    choices = [(model, "/".join(parts[model:])) for model in (1, 2) if len(parts) >= model]
    for model, route in choices:
        if route in KNOWN:
            return "/".join(parts[:model]), "/" + route
    model = 1 if len(parts) > 1 and parts[1] == "v1" else min(2, len(parts))
    return "/".join(parts[:model]), "/" + "/".join(parts[model:])


def _understand(request: InferenceRequest) -> None:
    """Read a generation. Without ``parameters`` TGI samples; with them, even empty ones, it is greedy unless they say
    otherwise (``default_parameters`` in its router). Only ``/`` gives the prompt back by default, and only there is
    ``stream`` the caller's to choose."""
    fields = decoded(_body, request.body)
    _once.check(request.body)
    if not fields.inputs:
        raise InvalidRequest("`inputs` must not be empty.", param="inputs")
    request.stream = fields.stream is True if request.route == "/" else request.route == "/generate_stream"
    given = parameters(fields.parameters, "parameters")
    checked = read({"do_sample": True} if given is None else given, "parameters")
    checked.setdefault("return_full_text", request.route == "/")
    request.generation = Generation(fields.inputs, checked, request.stream, "parameters")


def wants_info(request: InferenceRequest, engine: Engine) -> bool:
    """Whether the gateway is to answer with `info`, because the engine cannot."""
    return request.route == "/info" and request.method == "GET" and "tgi" not in engine.dialects


class Info(msgspec.Struct):
    """What is known of a model, in the words of TGI's ``/info``."""

    model_id: str
    model_sha: str | None = None
    model_pipeline_tag: str | None = "text-generation"
    max_concurrent_requests: int | None = None
    max_best_of: int = 1
    max_stop_sequences: int | None = None
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    router: str = "ssis-dispatcher"
    version: str = ""


def info(model: str, revision: str, context: int | None, seats: int | None, version: str) -> bytes:
    """``/info`` for a model whose engine has none: ``context`` is tokens per request, ``seats`` requests at once."""
    return msgspec.json.encode(
        Info(
            model,
            revision or None,
            max_concurrent_requests=seats,
            max_input_tokens=context - 1 if context else None,
            max_total_tokens=context,
            version=version,
        )
    )
