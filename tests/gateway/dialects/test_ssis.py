"""The seed's wire format: what its callers send keeps working, and what was dangerous in it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.errors import InvalidRequest, NotFound, Unprocessable
from ssis_dispatcher.gateway.dialects.base import InferenceRequest, Wish
from ssis_dispatcher.gateway.dialects.ssis import SSIS

Read = Callable[..., InferenceRequest]
DIALECT = SSIS()
ENV = {"MODEL_ID": "demo"}


def test_the_readmes_body_is_read(read: Read) -> None:
    body = {
        "token": "What is Deep Learning?",
        "par": {"max_new_tokens": "20"},
        "env": {"MODEL_ID": "openai-community/gpt2", "HF_TOKEN": ""},
    }
    request = read(DIALECT, "/", body)
    assert (request.dialect, request.route, request.stream) == ("ssis", "/", False)
    assert request.wish == Wish("openai-community/gpt2")
    assert request.generation is not None
    assert request.generation.prompt == "What is Deep Learning?"
    assert request.generation.parameters == {"max_new_tokens": 20, "return_full_text": True}
    assert request.generation.greedy


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_an_empty_or_null_variable_is_dropped(read: Read, empty: object) -> None:
    """The sample client sends a null HF_TOKEN when it has none; TGI would take an empty one for a token."""
    env = {"MODEL_ID": "demo", "HF_TOKEN": empty, "REVISION": empty, "QUANTIZE": empty, "MAX_TOTAL_TOKENS": empty}
    assert read(DIALECT, "/", {"token": "x", "env": env}).wish == Wish("demo")


def test_what_names_the_model_leaves_env_and_the_rest_stays_for_the_engine(read: Read) -> None:
    """The original program's servers were told apart by name alone: later requests with another revision or quantisation
    were answered by the first one's server."""
    env = {
        "MODEL_ID": "org/name",
        "REVISION": "v1",
        "MAX_TOTAL_TOKENS": 2048,
        "HF_TOKEN": "hf_x",
        "QUANTIZE": "awq",
        "DTYPE": "",
    }
    wish = read(DIALECT, "/", {"token": "x", "env": env}).wish
    assert wish == Wish("org/name", "v1", "", 2048, (("QUANTIZE", "awq"),), "hf_x")


def test_numbers_and_booleans_in_env_are_text(read: Read) -> None:
    env = {"MODEL_ID": "demo", "MAX_BATCH_SIZE": 4, "DISABLE_CUSTOM_KERNELS": True}
    wish = read(DIALECT, "/", {"token": "x", "env": env}).wish
    assert wish.env == (("DISABLE_CUSTOM_KERNELS", "true"), ("MAX_BATCH_SIZE", "4"))


def test_the_token_header_counts_where_env_has_none(read: Read) -> None:
    headers = [(b"x-ssis-hf-token", b"hf_header")]
    assert read(DIALECT, "/", {"token": "x", "env": ENV}, headers).wish.token == "hf_header"
    env = ENV | {"HF_TOKEN": "hf_env"}
    assert read(DIALECT, "/", {"token": "x", "env": env}, headers).wish.token == "hf_env"


def test_two_revisions_in_one_request_are_refused(read: Read) -> None:
    with pytest.raises(InvalidRequest, match="another revision"):
        read(DIALECT, "/", {"token": "x", "env": {"MODEL_ID": "demo@v1", "REVISION": "v2"}})


def test_labels_are_kept_and_decide_nothing(read: Read) -> None:
    """The original program put them on the pod unread, where they could break its selectors."""
    request = read(DIALECT, "/", {"token": "x", "env": ENV, "label": {"slo": 0.5, "app": "other", "none": None}})
    assert request.labels == (("slo", "0.5"), ("app", "other"))
    assert request.wish == Wish("demo")
    with pytest.raises(InvalidRequest, match="label"):
        read(DIALECT, "/", {"token": "x", "env": ENV, "label": {"a": "x" * 1000}})


@pytest.mark.parametrize("stream", ["yes", 1, "1"])
def test_a_stream_that_is_neither_true_nor_false_is_refused(read: Read, stream: object) -> None:
    with pytest.raises(InvalidRequest, match="stream"):
        read(DIALECT, "/", {"token": "x", "env": ENV, "par": {"stream": stream}})


@pytest.mark.parametrize(
    ("engine", "par", "name"),
    [
        ("llamacpp", {"watermark": True}, "par.watermark"),
        ("llamacpp", {"truncate": "5"}, "par.truncate"),
        ("vllm", {"typical_p": 0.5}, "par.typical_p"),
        ("sglang", {"best_of": 2}, "par.best_of"),
        ("tgi", {"min_p": 0.1}, "par.min_p"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_anything_starts(
    read: Read, engine: str, par: object, name: str
) -> None:
    request = read(DIALECT, "/", {"token": "x", "env": ENV, "par": par})
    with pytest.raises(Unprocessable) as caught:
        DIALECT.adapt(request, ENGINES[engine], "demo")
    assert caught.value.problem.param == name


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_payload_goes_to_its_route_byte_for_byte(read: Read, engine: str) -> None:
    payload = b'{"model":"demo",  "messages":[ ], "max_tokens":1e1}'
    body = b'{"env":{"MODEL_ID":"demo"},"subroute":"v1/chat/completions","payload":%b}' % payload
    request = read(DIALECT, "/", body)
    upstream = DIALECT.adapt(request, ENGINES[engine], "demo")
    assert (upstream.method, upstream.path, upstream.body, upstream.reply) == (
        "POST",
        "/v1/chat/completions",
        payload,
        None,
    )


def test_a_payload_says_itself_whether_it_streams(read: Read) -> None:
    body: dict[str, Any] = {"env": ENV, "subroute": "/v1/completions", "payload": {"stream": True}}
    assert read(DIALECT, "/", body).stream
    assert not read(DIALECT, "/", body | {"payload": {}}).stream
    assert read(DIALECT, "/", body | {"payload": {}, "subroute": "/generate_stream"}).stream


@pytest.mark.parametrize(
    "subroute",
    [
        *(
            "@evil.host/x",
            ".evil.host/x",
            "//evil.host/x",
            "http://evil.host/x",
            "/a/../../x",
            "/..",
            "\\\\evil",
            "/a b",
        ),
        *("/x?y=1", "/x#y", "/x%2e%2e/y", "/a//b", "/x\r\nHost: evil", "/" + "a" * 300, "/é", ":80/x", "/a:80@b"),
    ],
)
def test_a_subroute_can_only_be_a_plain_path(read: Read, subroute: str) -> None:
    """The original program glued it to the host: ``@evil.host/…`` sent the prompt to another machine."""
    with pytest.raises(InvalidRequest) as caught:
        read(DIALECT, "/", {"env": ENV, "subroute": subroute, "payload": {"a": 1}})
    assert caught.value.problem.param == "subroute"


@pytest.mark.parametrize("subroute", ["/sleep", "/v1/load_lora_adapter", "/update_weights_from_disk", "/server_info"])
def test_a_subroute_reaches_no_control_of_a_server(read: Read, subroute: str) -> None:
    request = read(DIALECT, "/", {"env": ENV, "subroute": subroute, "payload": {"a": 1}})
    for engine in ("tgi", "vllm", "sglang"):
        with pytest.raises(NotFound, match="subroute"):
            DIALECT.adapt(request, ENGINES[engine], "demo")


def test_a_prompt_can_go_to_generate_too_and_then_gives_no_prompt_back(read: Read) -> None:
    request = read(DIALECT, "/", {"token": "x", "env": ENV, "subroute": "generate"})
    assert request.generation is not None
    assert request.generation.parameters == {"return_full_text": False}
    assert DIALECT.adapt(request, ENGINES["tgi"], "demo").path == "/generate"
    stream = read(DIALECT, "/", {"token": "x", "env": ENV, "subroute": "/generate_stream"})
    assert stream.stream
    assert DIALECT.adapt(stream, ENGINES["tgi"], "demo").path == "/generate_stream"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"env": ENV, "token": ""}, "token"),
        ({"env": ENV, "token": "x", "payload": {"a": 1}}, "payload"),
        ({"env": ENV, "payload": [1]}, "payload"),
        ({"env": ENV, "token": "x", "subroute": "/v1/completions"}, "payload"),
        ({"env": {"HF_TOKEN": "x"}, "token": "x"}, "env.MODEL_ID"),
        ({"env": {"MODEL_ID": "demo", "X": "a\u0007b"}, "token": "x"}, "env.X"),
    ],
)
def test_what_makes_no_sense_together_is_refused(read: Read, body: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(DIALECT, "/", body)
    assert caught.value.problem.param == param
