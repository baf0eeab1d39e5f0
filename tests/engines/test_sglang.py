"""SGLang: its own ``/generate``, whose stream repeats all that came before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ssis_dispatcher.engines.base import Engine, Options
from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.engines.replies import Finish, Piece, Reader, Reason, Token
from ssis_dispatcher.engines.sglang import SGLang, SGLangReader
from ssis_dispatcher.errors import Unprocessable, UpstreamError

ENGINE = SGLang()
Asked = Callable[..., dict[str, Any]]
Played = Callable[[Reader, list[bytes]], tuple[str, Finish | None, list[Piece]]]


def test_without_parameters_it_is_greedy_and_uses_the_rest_of_the_context(asked: Asked) -> None:
    assert asked(ENGINE) == {
        "text": "Hello",
        "sampling_params": {
            "max_new_tokens": None,
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "no_stop_trim": True,
        },
        "stream": False,
    }


@pytest.mark.parametrize(
    ("sent", "put"),
    [
        ({"max_new_tokens": "20", "min_new_tokens": 3}, {"max_new_tokens": 20, "min_new_tokens": 3}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"eos_token_id": [2]}, {"stop_token_ids": [2]}),
        ({"suppress_tokens": [5]}, {"logit_bias": {"5": -100.0}}),
        ({"grammar": {"type": "json", "value": {"type": "object"}}}, {"json_schema": '{"type":"object"}'}),
        ({"grammar": {"type": "regex", "value": "[0-9]"}}, {"regex": "[0-9]"}),
        ({"seed": 7}, {"temperature": 0.0}),
    ],
)
def test_parameters_get_its_names(asked: Asked, sent: dict[str, object], put: dict[str, object]) -> None:
    sampling = asked(ENGINE, **sent)["sampling_params"]
    assert {name: sampling[name] for name in put} == put


def test_probabilities_are_asked_for_only_when_somebody_will_see_them(asked: Asked) -> None:
    assert "return_logprob" not in asked(ENGINE, max_new_tokens=5)
    body = asked(ENGINE, details=True, top_n_tokens=3, decoder_input_details=True)
    assert (body["return_logprob"], body["top_logprobs_num"], body["logprob_start_len"]) == (True, 3, 0)


def test_what_it_cannot_do_is_refused_by_name(refused: Callable[[Engine], set[str]]) -> None:
    assert refused(ENGINE) == {"typical_p", "truncate", "best_of", "watermark", "adapter_id"}


def test_a_seed_means_nothing_where_all_requests_share_one_source() -> None:
    with pytest.raises(Unprocessable, match="seed"):
        ENGINE.ask(Generation("x", {"seed": 7, "do_sample": True}), "demo")


WHOLE = msgspec.json.encode(
    {
        "text": " there was",
        "output_ids": [369, 288],
        "meta_info": {
            "id": "x",
            "finish_reason": {"type": "stop", "matched": "was"},
            "prompt_tokens": 2,
            "completion_tokens": 2,
            "input_token_logprobs": [[None, 1, None], [-2.0, 577, "Once"]],
            "output_token_logprobs": [[-0.5, 369, " there"], [-1.5, 288, " was"]],
            "output_top_logprobs": [[[-0.5, 369, " there"]], None],
        },
    }
)


def test_a_whole_reply_gives_text_tokens_and_the_reason() -> None:
    piece, finish = SGLangReader().whole(WHOLE)
    assert piece == Piece(
        " there was", (Token(369, " there", -0.5), Token(288, " was", -1.5)), ((Token(369, " there", -0.5),), ())
    )
    assert finish == Finish(Reason.STOP, 2, 2, (Token(1, ""), Token(577, "Once", -2.0)))


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ({"type": "length", "length": 5}, Reason.LENGTH),
        ({"type": "stop", "matched": 2}, Reason.EOS),
        ({"type": "stop", "matched": None}, Reason.EOS),
        ({"type": "stop", "matched": "END"}, Reason.STOP),
    ],
)
def test_every_reason_has_its_word(end: dict[str, object], reason: Reason) -> None:
    body = msgspec.json.encode(
        {"text": "a", "output_ids": [1], "meta_info": {"finish_reason": end, "completion_tokens": 1}}
    )
    assert SGLangReader().whole(body)[1].reason is reason


def events(repeating: bool) -> list[bytes]:
    texts, ids = [" there", " was", " a"], [369, 288, 261]
    found = []
    for place in range(3):
        start = 0 if repeating else place
        end = {"type": "length", "length": 3} if place == 2 else None
        meta = {"finish_reason": end, "prompt_tokens": 4, "completion_tokens": place + 1}
        reply = {"text": "".join(texts[start : place + 1]), "output_ids": ids[start : place + 1], "meta_info": meta}
        found.append(msgspec.json.encode(reply))
    return [*found, b"[DONE]"]


@pytest.mark.parametrize("repeating", [True, False])
def test_a_stream_gives_each_piece_once_whether_it_repeats_or_not(repeating: bool, played: Played) -> None:
    text, end, pieces = played(SGLangReader(), events(repeating))
    assert text == " there was a"
    assert [piece.tokens[0].id for piece in pieces] == [369, 288, 261]
    assert end == Finish(Reason.LENGTH, 3, 4)


@pytest.mark.parametrize(
    "data",
    [
        b'{"error":{"message":"The input is too long"}}',
        b'{"error":"gone"}',
        b'{"text":"a","meta_info":{"finish_reason":{"type":"abort","message":"aborted by the scheduler"}}}',
        b"request timeout",
    ],
)
def test_an_error_in_a_stream_is_raised(data: bytes) -> None:
    with pytest.raises(UpstreamError):
        SGLangReader().event(data)


def test_a_reply_without_an_end_is_the_servers_fault() -> None:
    with pytest.raises(UpstreamError, match="without an end"):
        SGLangReader().whole(b'{"text":"a","output_ids":[1],"meta_info":{}}')


def test_the_arguments_start_it(options: Options) -> None:
    command = ENGINE.command(msgspec.structs.replace(options, gpus=4, revision="v1", arguments=(("dtype", "float16"),)))
    assert command.program == ("python3", "-m", "sglang.launch_server")
    assert command.argv == (
        *("--model-path", "org/name", "--served-model-name", "org/name", "--host", "127.0.0.1", "--port", "8001"),
        *("--context-length", "4096", "--max-running-requests", "4", "--enable-metrics"),
        *("--tp-size", "4", "--revision", "v1", "--dtype", "float16"),
    )


def test_on_a_share_of_a_card_it_takes_no_more_than_the_share(options: Options) -> None:
    argv = ENGINE.command(msgspec.structs.replace(options, memory_mib=10240, device_mib=40960)).argv
    assert float(argv[argv.index("--mem-fraction-static") + 1]) * 40960 < 10240
