"""One request in the seed's words, put to every engine and written back: the bytes both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.errors import UpstreamError
from ssis_dispatcher.gateway.dialects.base import Dialect, InferenceRequest
from ssis_dispatcher.gateway.dialects.ssis import SSIS
from ssis_dispatcher.gateway.dialects.tgi import TGI

Read = Callable[..., InferenceRequest]
Played = Callable[..., tuple[int, bytes, bytes]]

ENV = {"MODEL_ID": "demo", "HF_TOKEN": ""}
README = {"token": "Once upon", "par": {"max_new_tokens": "20"}, "env": ENV}
"""The body of the original program's README, with another prompt."""

ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "llamacpp": (
        "/completion",
        {
            "prompt": "Once upon",
            "stream": False,
            "n_predict": 20,
            "temperature": 0.0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
        },
    ),
    "tgi": (
        "/",
        {"inputs": "Once upon", "parameters": {"max_new_tokens": 20, "return_full_text": True}, "stream": False},
    ),
    "vllm": (
        "/v1/completions",
        {
            "model": "served",
            "prompt": "Once upon",
            "stream": False,
            "max_tokens": 20,
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "include_stop_str_in_output": True,
            "return_token_ids": True,
        },
    ),
    "sglang": (
        "/generate",
        {
            "text": "Once upon",
            "sampling_params": {
                "max_new_tokens": 20,
                "temperature": 0.0,
                "top_p": 1.0,
                "top_k": -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "no_stop_trim": True,
            },
            "stream": False,
        },
    ),
    "openai": (
        "/v1/completions",
        {"model": "served", "prompt": "Once upon", "stream": False, "temperature": 0.0, "max_tokens": 20},
    ),
}

WHOLE = {
    "llamacpp": b'{"content":" a time","stop":true,"stop_type":"eos","tokens_predicted":2,"tokens_evaluated":2,'
    b'"completion_probabilities":[{"id":261,"token":" a","logprob":-0.5},{"id":383,"token":" time","logprob":-1.5}]}',
    "vllm": b'{"choices":[{"text":" a time","finish_reason":"stop","stop_reason":null,"token_ids":[261,383],"logprobs":'
    b'{"tokens":[" a"," time"],"token_logprobs":[-0.5,-1.5]}}],"usage":{"prompt_tokens":2,"completion_tokens":2}}',
    "sglang": b'{"text":" a time","output_ids":[261,383],"meta_info":{"finish_reason":{"type":"stop","matched":2},'
    b'"prompt_tokens":2,"completion_tokens":2,"output_token_logprobs":[[-0.5,261," a"],[-1.5,383," time"]]}}',
    "openai": b'{"choices":[{"text":" a time","finish_reason":"stop","logprobs":{"tokens":[" a"," time"],'
    b'"token_logprobs":[-0.5,-1.5]}}],"usage":{"prompt_tokens":2,"completion_tokens":2}}',
}

STREAMED = {
    "llamacpp": b'data: {"content":" a","tokens":[261],"stop":false}\n\n'
    b'data: {"content":" time","tokens":[383],"stop":false}\n\n'
    b'data: {"content":"","stop":true,"stop_type":"eos","tokens_predicted":2,"tokens_evaluated":2}\n\n',
    "vllm": b'data: {"choices":[{"text":" a","token_ids":[261]}]}\n\n'
    b'data: {"choices":[{"text":" time","token_ids":[383],"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":2}}\n\ndata: [DONE]\n\n',
    "sglang": b'data: {"text":" a","output_ids":[261],"meta_info":{"prompt_tokens":2,"completion_tokens":1}}\n\n'
    b'data: {"text":" a time","output_ids":[261,383],"meta_info":{"prompt_tokens":2,"completion_tokens":2,'
    b'"finish_reason":{"type":"stop","matched":2}}}\n\ndata: [DONE]\n\n',
}

TRANSLATED = sorted(STREAMED)

TOKEN = (
    b'data:{"index":%d,"token":{"id":%d,"text":"%b","logprob":null,"special":%b},"generated_text":%b,"details":%b}\n\n'
)


def shown(text: bytes, details: bytes) -> bytes:
    """The two tokens of `STREAMED`, and the end."""
    first = TOKEN % (1, 261, b" a", b"false", b"null", b"null")
    second = TOKEN % (2, 383, b" time", b"false", b"null", b"null")
    return first + second + TOKEN % (3, 383, b"", b"true", b'"%b"' % text, details)


DETAILS = b'{"finish_reason":"eos_token","generated_tokens":2,"seed":null,"input_length":2}'


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_the_readmes_request_goes_to_every_engine_in_its_own_words(engine: str, read: Read) -> None:
    upstream = SSIS().adapt(read(SSIS(), "/", README), ENGINES[engine], "served")
    assert (upstream.method, upstream.path, msgspec.json.decode(upstream.body)) == ("POST", *ASKED[engine])
    assert (upstream.reply is None) == (engine == "tgi")


@pytest.mark.parametrize("engine", sorted(WHOLE))
@pytest.mark.parametrize("size", [1, 1000])
def test_the_reply_is_a_list_with_prompt_and_text_whichever_engine_served_it(
    engine: str, size: int, read: Read, played: Played
) -> None:
    """TGI's ``/`` answers with an array that holds the prompt too; the original program logged it and threw it away."""
    upstream = SSIS().adapt(read(SSIS(), "/", README), ENGINES[engine], "served")
    status, content_type, body = played(upstream.reply, WHOLE[engine], size=size)
    assert (status, content_type) == (200, b"application/json")
    assert body == b'[{"generated_text":"Once upon a time"}]'
    assert SSIS().complete(body, False, content_type)


@pytest.mark.parametrize("engine", sorted(WHOLE))
def test_details_are_told_where_the_engine_gives_probabilities(engine: str, read: Read, played: Played) -> None:
    body = {"inputs": "Once upon", "parameters": {"max_new_tokens": 20, "details": True}}
    upstream = TGI().adapt(read(TGI(), "/models/demo/generate", body), ENGINES[engine], "served")
    reply = msgspec.json.decode(played(upstream.reply, WHOLE[engine])[2])
    ids = [None, None] if engine == "openai" else [261, 383]
    assert reply == {
        "generated_text": " a time",
        "details": {
            "finish_reason": "eos_token",
            "generated_tokens": 2,
            "seed": None,
            "prefill": [],
            "tokens": [
                {"id": ids[0], "text": " a", "logprob": -0.5, "special": False},
                {"id": ids[1], "text": " time", "logprob": -1.5, "special": False},
            ],
        },
    }


@pytest.mark.parametrize("engine", TRANSLATED)
@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("where", ["par", "top"])
def test_a_stream_comes_in_tgis_events_whichever_engine_served_it(
    engine: str, size: int, where: str, read: Read, played: Played
) -> None:
    body = {
        "token": "Once upon",
        "par": {"stream": "true"} if where == "par" else {},
        "stream": where == "top",
        "env": ENV,
    }
    request = read(SSIS(), "/", body)
    assert request.stream
    upstream = SSIS().adapt(request, ENGINES[engine], "served")
    assert msgspec.json.decode(upstream.body)["stream"] is True
    status, content_type, out = played(upstream.reply, STREAMED[engine], content_type=b"text/event-stream", size=size)
    assert (status, content_type) == (200, b"text/event-stream")
    assert out == shown(b"Once upon a time", b"null")
    assert SSIS().complete(out[-4096:], True, content_type)


@pytest.mark.parametrize("engine", TRANSLATED)
def test_generate_stream_gives_no_prompt_back_and_details_when_asked(engine: str, read: Read, played: Played) -> None:
    request = read(TGI(), "/models/demo/generate_stream", {"inputs": "Once upon", "parameters": {"details": True}})
    out = played(TGI().adapt(request, ENGINES[engine], "served").reply, STREAMED[engine])[2]
    assert out == shown(b" a time", DETAILS)


@pytest.mark.parametrize("engine", TRANSLATED)
def test_no_event_is_held_back_until_the_next_one_comes(engine: str, read: Read) -> None:
    reply = SSIS().adapt(read(SSIS(), "/", README | {"stream": True}), ENGINES[engine], "served").reply
    assert reply is not None
    first, rest = STREAMED[engine].split(b"\n\n", 1)
    assert b'"text":" a"' in reply.feed(first + b"\n\n")
    assert rest


def test_tokens_that_came_together_are_told_one_by_one(read: Read, played: Played) -> None:
    body = {"inputs": "Once", "parameters": {"details": True, "top_n_tokens": 1}}
    request = read(TGI(), "/models/demo/generate_stream", body)
    together = (
        b'data: {"choices":[{"text":" a time","token_ids":[261,383],"finish_reason":"length","logprobs":{"tokens":'
        b'[" a"," time"],"token_logprobs":[-0.5,-1.5],"top_logprobs":[{" a":-0.5},{" time":-1.5}]}}]}\n\ndata: [DONE]\n\n'
    )
    out = played(TGI().adapt(request, ENGINES["vllm"], "served").reply, together)[2]
    events = [msgspec.json.decode(block[5:]) for block in out.split(b"\n\n")[:-1]]
    assert [(event["index"], event["token"]["text"]) for event in events] == [(1, " a"), (2, " time"), (3, "")]
    assert [event.get("top_tokens", [{}])[0].get("text") for event in events] == [" a", " time", None]


def test_a_piece_whose_tokens_do_not_spell_it_is_one_event(read: Read, played: Played) -> None:
    """Half a character belongs to a token, but not to a text."""
    request = read(TGI(), "/models/demo/generate_stream", {"inputs": "x", "parameters": {"details": True}})
    split = (
        '{"content":"é","completion_probabilities":[{"id":1,"token":"\ufffd"},{"id":2,"token":"\ufffd","logprob":-1}]}',
        '{"content":"","stop":true,"stop_type":"limit","tokens_predicted":2}',
    )
    data = "".join(f"data: {event}\n\n" for event in split).encode()
    out = played(TGI().adapt(request, ENGINES["llamacpp"], "served").reply, data)[2]
    first = msgspec.json.decode(out.split(b"\n\n")[0][5:])
    assert (first["index"], first["token"]) == (2, {"id": 2, "text": "é", "logprob": -1.0, "special": False})


@pytest.mark.parametrize("engine", TRANSLATED)
def test_a_stream_that_ends_early_is_never_taken_for_an_answer(engine: str, read: Read, played: Played) -> None:
    events = STREAMED[engine].split(b"\n\n")
    for kept in range(len(events) - 2):
        reply = SSIS().adapt(read(SSIS(), "/", README | {"stream": True}), ENGINES[engine], "served").reply
        with pytest.raises(UpstreamError):
            played(reply, b"\n\n".join(events[:kept]) + b"\n\n")


@pytest.mark.parametrize("engine", sorted(WHOLE))
def test_a_reply_that_ends_early_is_never_taken_for_an_answer(engine: str, read: Read, played: Played) -> None:
    for cut in range(0, len(WHOLE[engine]), 11):
        reply = SSIS().adapt(read(SSIS(), "/", README), ENGINES[engine], "served").reply
        with pytest.raises(UpstreamError):
            played(reply, WHOLE[engine][:cut])


@pytest.mark.parametrize("engine", TRANSLATED)
def test_an_error_in_the_middle_of_a_stream_is_raised_with_the_engines_words(
    engine: str, read: Read, played: Played
) -> None:
    first = STREAMED[engine].split(b"\n\n")[0]
    reply = SSIS().adapt(read(SSIS(), "/", README | {"stream": True}), ENGINES[engine], "served").reply
    with pytest.raises(UpstreamError, match="CUDA out of memory"):
        played(reply, first + b'\n\ndata: {"error":{"message":"CUDA out of memory"}}\n\n')


@pytest.mark.parametrize("dialect", [SSIS(), TGI()])
@pytest.mark.parametrize("engine", sorted(WHOLE))
@pytest.mark.parametrize("stream", [False, True])
def test_an_engines_refusal_reaches_the_caller_as_a_problem(
    dialect: Dialect, engine: str, stream: bool, read: Read, played: Played
) -> None:
    """The original program never looked at the status: a 422 was logged as a success."""
    path = "/models/demo/generate_stream" if stream else "/models/demo/generate"
    request = (
        read(dialect, "/", README | {"stream": stream})
        if dialect.name == "ssis"
        else read(dialect, path, {"inputs": "x"})
    )
    reply = dialect.adapt(request, ENGINES[engine], "served").reply
    status, content_type, body = played(reply, b'{"error":{"message":"prompt too long"}}', status=400)
    assert (status, content_type) == (400, b"application/problem+json")
    assert msgspec.json.decode(body)["detail"] == "prompt too long"
    reply = dialect.adapt(request, ENGINES[engine], "served").reply
    assert played(reply, b"overloaded", status=429)[0] == 503


def test_the_seed_is_told_when_it_was_used(read: Read, played: Played) -> None:
    body = {"inputs": "x", "parameters": {"details": True, "do_sample": True, "seed": 7}}
    reply = TGI().adapt(read(TGI(), "/models/demo/generate", body), ENGINES["llamacpp"], "served").reply
    assert msgspec.json.decode(played(reply, WHOLE["llamacpp"])[2])["details"]["seed"] == 7


def test_the_prompts_own_tokens_are_told_where_the_engine_knows_them(read: Read, played: Played) -> None:
    body = {"inputs": "x", "parameters": {"details": True, "decoder_input_details": True}}
    reply = TGI().adapt(read(TGI(), "/models/demo/generate", body), ENGINES["sglang"], "served").reply
    meta = b'"meta_info":{"input_token_logprobs":[[null,1,"Once"],[-2.0,2," upon"]],'
    details = msgspec.json.decode(played(reply, WHOLE["sglang"].replace(b'"meta_info":{', meta))[2])["details"]
    assert details["prefill"] == [
        {"id": 1, "text": "Once", "logprob": None},
        {"id": 2, "text": " upon", "logprob": -2.0},
    ]
