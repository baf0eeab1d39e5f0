"""TGI's wire format below a model's own path."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from ssis_dispatcher.engines import llamacpp, sglang, vllm
from ssis_dispatcher.engines import tgi as engine_tgi
from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.errors import InvalidRequest, NotFound, Unprocessable
from ssis_dispatcher.gateway.dialects.base import InferenceRequest, Wish
from ssis_dispatcher.gateway.dialects.tgi import KNOWN, TGI, info, split, wants_info

Read = Callable[..., InferenceRequest]
DIALECT = TGI()


@pytest.mark.parametrize(
    ("path", "model", "route"),
    [
        ("/models/demo/generate", "demo", "/generate"),
        ("/models/org/name/generate", "org/name", "/generate"),
        ("/models/org/name:Q4_K_M/generate_stream", "org/name:Q4_K_M", "/generate_stream"),
        ("/models/org/name/info", "org/name", "/info"),
        ("/models/demo", "demo", "/"),
        ("/models/demo/", "demo", "/"),
        ("/models/org/name", "org/name", "/"),
        ("/models/demo/v1/chat/completions", "demo", "/v1/chat/completions"),
        ("/models/demo/v1/completions", "demo", "/v1/completions"),
        ("/models/demo/v1/audio/speech", "demo", "/v1/audio/speech"),
        ("/models/org/name/v1/completions", "org/name", "/v1/completions"),
        ("/models/org/name/v1/audio/speech", "org/name", "/v1/audio/speech"),
        ("/models/org/v1/generate", "org/v1", "/generate"),
        ("/models/acme/generate/generate", "acme/generate", "/generate"),
        ("/models/demo/chat/completions", "demo", "/chat/completions"),
        ("/models/org/name/some/other/route", "org/name", "/some/other/route"),
    ],
)
def test_a_path_is_a_model_and_a_route(path: str, model: str, route: str) -> None:
    assert split(path) == (model, route)


def test_every_route_of_an_engine_tells_a_bare_name_from_an_organisation() -> None:
    for module in (llamacpp, engine_tgi, vllm, sglang):
        for path in module.ROUTES.get | module.ROUTES.post:
            route = path.removeprefix("/")
            assert route in KNOWN or route.startswith("v1/"), path


@pytest.mark.parametrize("path", ["/models/", "/models//generate", "/models/-x/generate", "/models/a b/generate"])
def test_a_path_without_a_models_name_is_refused(read: Read, path: str) -> None:
    with pytest.raises(InvalidRequest):
        read(DIALECT, path, {"inputs": "x"})


def test_tgi_gets_its_own_words_byte_for_byte(read: Read) -> None:
    body = b'{ "inputs":"x", "parameters":{"max_new_tokens":5,"typical_p":0.5} }'
    request = read(DIALECT, "/models/org/name/generate", body)
    upstream = DIALECT.adapt(request, ENGINES["tgi"], "org/name")
    assert (upstream.path, upstream.reply) == ("/generate", None)
    assert upstream.body is body
    assert request.wish == Wish("org/name")


@pytest.mark.parametrize(
    ("route", "body", "stream", "full", "greedy"),
    [
        ("generate", {"inputs": "x"}, False, False, False),
        ("generate", {"inputs": "x", "parameters": None}, False, False, False),
        ("generate", {"inputs": "x", "parameters": {}}, False, False, True),
        ("generate", {"inputs": "x", "parameters": {}, "stream": True}, False, False, True),
        ("generate_stream", {"inputs": "x", "parameters": {}}, True, False, True),
        ("generate", {"inputs": "x", "parameters": {"return_full_text": True}}, False, True, True),
        ("", {"inputs": "x", "parameters": {}}, False, True, True),
        ("", {"inputs": "x", "parameters": {}, "stream": True}, True, True, True),
        ("", {"inputs": "x", "parameters": {"return_full_text": False}}, False, False, True),
    ],
)
def test_defaults_are_tgis(read: Read, route: str, body: object, stream: bool, full: bool, greedy: bool) -> None:
    """Without ``parameters`` TGI samples; with them it is greedy until told otherwise."""
    request = read(DIALECT, f"/models/demo/{route}", body)
    assert request.generation is not None
    assert (request.stream, request.generation.stream) == (stream, stream)
    assert request.generation.parameters["return_full_text"] is full
    assert request.generation.greedy is greedy


def test_a_sampled_request_is_sampled_on_every_engine(read: Read) -> None:
    request = read(DIALECT, "/models/demo/generate", {"inputs": "x"})
    body = msgspec.json.decode(DIALECT.adapt(request, ENGINES["llamacpp"], "demo").body)
    assert body["temperature"] == 1.0


def test_what_an_engine_cannot_do_is_refused_by_name(read: Read) -> None:
    request = read(DIALECT, "/models/demo/generate", {"inputs": "x", "parameters": {"decoder_input_details": True}})
    with pytest.raises(Unprocessable) as caught:
        DIALECT.adapt(request, ENGINES["llamacpp"], "demo")
    assert caught.value.problem.param == "parameters.decoder_input_details"


@pytest.mark.parametrize("engine", ["llamacpp", "vllm", "sglang"])
def test_other_routes_of_the_engine_are_passed_through(read: Read, engine: str) -> None:
    body = b'{"content":"x", "stream":true}'
    request = read(DIALECT, "/models/org/name/tokenize", body)
    assert request.stream
    upstream = DIALECT.adapt(request, ENGINES[engine], "org/name")
    assert (upstream.method, upstream.path, upstream.body) == ("POST", "/tokenize", body)


def test_a_get_keeps_its_method_and_query(read: Read) -> None:
    request = DIALECT.read("GET", "/models/demo/metrics", b"name[]=a", [], b"")
    upstream = DIALECT.adapt(request, ENGINES["llamacpp"], "demo")
    assert (upstream.method, upstream.path, upstream.body) == ("GET", "/metrics?name[]=a", b"")


@pytest.mark.parametrize(
    ("method", "route", "engine"),
    [
        ("POST", "sleep", "vllm"),
        ("GET", "server_info", "sglang"),
        ("POST", "lora-adapters", "llamacpp"),
        ("DELETE", "metrics", "llamacpp"),
        ("GET", "slots", "llamacpp"),
        ("POST", "completion", "vllm"),
        ("POST", "v1/embeddings", "tgi"),
        ("POST", "../../secrets", "llamacpp"),
    ],
)
def test_a_route_that_the_engine_has_not_for_callers_is_not_found(
    read: Read, method: str, route: str, engine: str
) -> None:
    request = DIALECT.read(method, f"/models/org/name/{route}", b"", [], b"{}")
    with pytest.raises(NotFound):
        DIALECT.adapt(request, ENGINES[engine], "org/name")


def test_generate_takes_post_only() -> None:
    with pytest.raises(NotFound, match="POST"):
        DIALECT.read("GET", "/models/demo/generate", b"", [], b"")


def test_an_empty_prompt_is_refused_as_by_tgi(read: Read) -> None:
    with pytest.raises(InvalidRequest, match="inputs"):
        read(DIALECT, "/models/demo/generate", {"inputs": ""})


def test_the_token_header_is_the_callers_hub_token(read: Read) -> None:
    headers = [(b"x-ssis-hf-token", b"hf_x")]
    assert read(DIALECT, "/models/demo/generate", {"inputs": "x"}, headers).wish == Wish("demo", token="hf_x")


@pytest.mark.parametrize(("engine", "ours"), [("tgi", False), ("llamacpp", True), ("vllm", True), ("sglang", True)])
def test_info_is_ours_to_tell_where_the_engine_has_none(engine: str, ours: bool) -> None:
    request = DIALECT.read("GET", "/models/demo/info", b"", [], b"")
    assert wants_info(request, ENGINES[engine]) is ours


def test_info_tells_what_is_known() -> None:
    told = msgspec.json.decode(info("demo", "", 1024, 4, "0.1"))
    assert told["model_id"] == "demo"
    assert (told["max_input_tokens"], told["max_total_tokens"], told["max_concurrent_requests"]) == (1023, 1024, 4)
    assert (told["model_sha"], told["version"]) == (None, "0.1")
    assert msgspec.json.decode(info("demo", "v1", None, None, ""))["max_input_tokens"] is None
