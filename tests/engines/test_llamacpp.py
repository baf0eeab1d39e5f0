"""llama.cpp: what it is asked, and what it says. The replies were recorded from a running server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ssis_dispatcher.engines.base import Engine, Options
from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.engines.llamacpp import LlamaCpp, LlamaCppReader
from ssis_dispatcher.engines.replies import Finish, Piece, Reader, Reason, Token
from ssis_dispatcher.errors import Unprocessable, UpstreamError

ENGINE = LlamaCpp()
Asked = Callable[..., dict[str, Any]]
Played = Callable[[Reader, list[bytes]], tuple[str, Finish | None, list[Piece]]]

WHOLE = (
    b'{"index":0,"content":" there was","tokens":[],"id_slot":1,"stop":true,"model":"demo","tokens_predicted":2,'
    b'"tokens_evaluated":4,"generation_settings":{"seed":4294967295,"lora":[]},"prompt":"Once","stop_type":"limit",'
    b'"stopping_word":"","completion_probabilities":[{"id":369,"token":" there","bytes":[32],"logprob":-0.5,'
    b'"top_logprobs":[{"id":369,"token":" there","bytes":[32],"logprob":-0.5},{"id":383,"token":" time","bytes":[32],'
    b'"logprob":-10.4}]},{"id":288,"token":" was","bytes":[32],"logprob":null,"top_logprobs":[]}]}'
)


def test_without_parameters_it_is_greedy_until_the_context_is_full(asked: Asked) -> None:
    assert asked(ENGINE) == {
        "prompt": "Hello",
        "stream": False,
        "n_predict": -1,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
    }


def test_its_own_defaults_of_sampling_never_show(asked: Asked) -> None:
    sampled = asked(ENGINE, do_sample=True)
    assert (sampled["temperature"], sampled["top_k"], sampled["top_p"], sampled["min_p"]) == (1.0, 0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("sent", "put"),
    [
        ({"max_new_tokens": "20"}, {"n_predict": 20}),
        ({"temperature": 0.7, "typical_p": 0.8}, {"temperature": 0.7, "typical_p": 0.8}),
        ({"repetition_penalty": 1.2}, {"repeat_penalty": 1.2, "repeat_last_n": -1}),
        ({"seed": 7, "do_sample": True}, {"seed": 7}),
        ({"seed": 2**64 - 1}, {"seed": (2**64 - 1) % 0xFFFFFFFF}),
        ({"suppress_tokens": [5, 6]}, {"logit_bias": [[5, False], [6, False]]}),
        ({"details": True}, {"n_probs": 1}),
        ({"top_n_tokens": 3}, {"n_probs": 3}),
        ({"grammar": {"type": "json", "value": {"type": "object"}}}, {"json_schema": {"type": "object"}}),
    ],
)
def test_parameters_get_its_names(asked: Asked, sent: dict[str, object], put: dict[str, object]) -> None:
    body = asked(ENGINE, **sent)
    assert {name: body[name] for name in put} == put


def test_what_it_cannot_do_is_refused_by_name(refused: Callable[[Engine], set[str]]) -> None:
    assert refused(ENGINE) == {
        *("min_new_tokens", "stop_token_ids", "truncate", "best_of", "watermark", "decoder_input_details"),
        "adapter_id",
    }


def test_regular_expressions_are_refused_by_name() -> None:
    with pytest.raises(Unprocessable, match=r"`par\.grammar`.*regular expressions"):
        ENGINE.ask(Generation("x", {"grammar": {"regex": "[0-9]"}}, field="par"), "demo")


def test_a_whole_reply_gives_text_tokens_and_the_reason() -> None:
    piece, finish = LlamaCppReader().whole(WHOLE)
    assert piece == Piece(
        " there was",
        (Token(369, " there", -0.5), Token(288, " was", None)),
        ((Token(369, " there", -0.5), Token(383, " time", -10.4)), ()),
    )
    assert finish == Finish(Reason.LENGTH, 2, 4)


@pytest.mark.parametrize(
    ("stop_type", "reason"), [("eos", Reason.EOS), ("word", Reason.STOP), ("limit", Reason.LENGTH)]
)
def test_every_reason_has_its_word(stop_type: str, reason: Reason) -> None:
    body = msgspec.json.encode({"content": "a ", "stop": True, "stop_type": stop_type, "stopping_word": "END"})
    piece, finish = LlamaCppReader().whole(body)
    assert finish.reason is reason
    assert piece.text == "a END"


def test_a_stream_gives_a_piece_per_token_and_the_stop_string_last(played: Played) -> None:
    events = [
        b'{"index":0,"content":" happy","tokens":[1122],"stop":false,"tokens_predicted":6,"tokens_evaluated":2}',
        b'{"index":0,"content":" ","tokens":[451],"stop":false,"tokens_predicted":7,"timings":{"cache_n":1}}',
        b'{"index":0,"content":"","tokens":[],"stop":true,"tokens_predicted":7,"tokens_evaluated":2,'
        b'"stop_type":"word","stopping_word":"girl"}',
    ]
    text, end, pieces = played(LlamaCppReader(), events)
    assert text == " happy girl"
    assert end == Finish(Reason.STOP, 7, 2)
    assert pieces[0].tokens == (Token(1122, " happy"),)


@pytest.mark.parametrize(
    "data",
    [
        b'{"error":{"code":500,"message":"out of memory","type":"server_error"}}',
        b'{"content":"","stop":true,"stop_type":"none"}',
        b"request timeout",
        b'{"content":',
    ],
)
def test_an_error_in_a_stream_is_raised(data: bytes) -> None:
    with pytest.raises(UpstreamError):
        LlamaCppReader().event(data)


def test_the_environment_starts_it(options: Options) -> None:
    command = ENGINE.command(options)
    env = dict(command.env)
    assert command.argv == ()
    assert command.program == ("llama-server",)
    assert env["LLAMA_ARG_HF_REPO"] == env["LLAMA_ARG_ALIAS"] == "org/name"
    assert env["LLAMA_ARG_CTX_SIZE"] == str(4 * 4096)
    assert env["LLAMA_ARG_N_PARALLEL"] == "4"
    assert (env["LLAMA_ARG_HOST"], env["LLAMA_ARG_PORT"]) == ("127.0.0.1", "8001")
    assert env["LLAMA_ARG_N_GPU_LAYERS"] == "99"


def test_a_file_is_loaded_as_a_file_and_without_a_gpu_no_layer_is_offloaded(options: Options) -> None:
    env = dict(
        ENGINE.command(
            msgspec.structs.replace(options, model="/models/demo.gguf", gpus=0, arguments=(("LLAMA_ARG_BATCH", "64"),))
        ).env
    )
    assert env["LLAMA_ARG_MODEL"] == "/models/demo.gguf"
    assert "LLAMA_ARG_HF_REPO" not in env
    assert env["LLAMA_ARG_N_GPU_LAYERS"] == "0"
    assert env["LLAMA_ARG_BATCH"] == "64"
