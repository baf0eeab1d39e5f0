"""OpenAI's wire format: looked at once, and passed on."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.errors import InvalidRequest, NotFound
from ssis_dispatcher.gateway.dialects.base import InferenceRequest, Wish
from ssis_dispatcher.gateway.dialects.openai import OpenAI

Read = Callable[..., InferenceRequest]
DIALECT = OpenAI()
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_the_same_bytes_go_to_every_engine(read: Read, engine: str, path: str) -> None:
    body = b'{ "model":"demo", "messages": [{"role":"user","content":"h\xc3\xa9"}], "x": 1.50, "max_tokens":"20" }'
    request = read(DIALECT, path, body)
    upstream = DIALECT.adapt(request, ENGINES[engine], "demo")
    assert upstream.body is body
    assert (upstream.method, upstream.path, upstream.reply) == ("POST", path, None)
    assert request.generation is None


@pytest.mark.parametrize(("sent", "stream"), [("true", True), ("false", False), ("null", False)])
def test_stream_is_read(read: Read, sent: str, stream: bool) -> None:
    assert read(DIALECT, CHAT, b'{"model":"demo","stream":%b}' % sent.encode()).stream is stream


def test_a_revision_behind_the_model_is_taken_out_of_its_name(read: Read) -> None:
    request = read(DIALECT, CHAT, b'{"model":"org/name@refs/pr/1","x":1.50}')
    assert request.wish == Wish("org/name", "refs/pr/1")
    assert DIALECT.adapt(request, ENGINES["vllm"], "org/name").body == b'{"model":"org/name","x":1.50}'


def test_another_served_name_is_put_into_the_body(read: Read) -> None:
    request = read(DIALECT, CHAT, b'{"n":[ 1 ],"model":"demo"}')
    assert DIALECT.adapt(request, ENGINES["vllm"], "other").body == b'{"n":[ 1 ],"model":"other"}'


def test_the_ssis_object_is_honoured_and_taken_out(read: Read) -> None:
    extra = {"revision": "v1", "engine": "vllm", "context": "2048", "env": {"QUANTIZE": "awq"}, "token": "hf_x"}
    request = read(DIALECT, CHAT, {"model": "org/name", "ssis": extra, "temperature": 0.5})
    assert request.wish == Wish("org/name", "v1", "vllm", 2048, (("QUANTIZE", "awq"),), "hf_x")
    assert msgspec.json.decode(request.body) == {"model": "org/name", "temperature": 0.5}


@pytest.mark.parametrize("nothing", [b"null", b"{}"])
def test_an_empty_ssis_object_is_taken_out_too(read: Read, nothing: bytes) -> None:
    request = read(DIALECT, CHAT, b'{"model":"demo","ssis":%b}' % nothing)
    assert (request.wish, request.body) == (Wish("demo"), b'{"model":"demo"}')


def test_the_token_header_is_the_callers_hub_token(read: Read) -> None:
    body = b'{"model":"demo"}'
    request = read(DIALECT, CHAT, body, [(b"host", b"x"), (b"x-ssis-hf-token", b"hf_x")])
    assert request.wish == Wish("demo", token="hf_x")
    assert request.body is body
    assert read(DIALECT, CHAT, body, [(b"x-ssis-hf-token", b" ")]).wish == Wish("demo")


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"revision": "v2"}, "ssis.revision"),
        ({"revision": "../x"}, "ssis.revision"),
        ({"engine": "a b"}, "ssis.engine"),
        ({"context": 0}, "ssis.context"),
        ({"env": {"MODEL_ID": "other"}}, "ssis.env.MODEL_ID"),
        ({"env": {"REVISION": "v2"}}, "ssis.revision"),
        ({"token": "a b"}, "ssis.token"),
        ({"colour": "red"}, "ssis.colour"),
        ("x", "ssis"),
    ],
)
def test_a_wrong_ssis_object_is_refused_by_its_field(read: Read, extra: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(DIALECT, CHAT, {"model": "demo@v1", "ssis": extra})
    assert caught.value.problem.param == param


def test_a_revision_said_twice_alike_is_no_contradiction(read: Read) -> None:
    body = {"model": "demo@v1", "ssis": {"revision": "v1", "env": {"REVISION": "v1"}}}
    assert read(DIALECT, CHAT, body).wish == Wish("demo", "v1")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/rerank", "/v1/inventions"])
def test_what_tgi_has_not_is_refused_before_anything_starts(read: Read, path: str) -> None:
    request = read(DIALECT, path, b'{"model":"demo"}')
    with pytest.raises(NotFound, match=path):
        DIALECT.adapt(request, ENGINES["tgi"], "demo")
    for engine in ("llamacpp", "vllm", "sglang"):
        assert DIALECT.adapt(request, ENGINES[engine], "demo").path == path


def test_a_query_is_kept(read: Read) -> None:
    request = DIALECT.read("POST", CHAT, b"api-version=1", [], b'{"model":"demo"}')
    assert DIALECT.adapt(request, ENGINES["vllm"], "demo").path == f"{CHAT}?api-version=1"


def test_it_serves_everything_below_v1() -> None:
    assert DIALECT.routes == (("POST", "/v1/*"),)
