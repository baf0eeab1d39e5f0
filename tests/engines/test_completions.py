"""Reading OpenAI's completions, with and without vLLM's additions."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from ssis_dispatcher.engines.completions import CompletionsReader
from ssis_dispatcher.engines.replies import Finish, Piece, Reader, Reason, Token
from ssis_dispatcher.errors import UpstreamError

Played = Callable[[Reader, list[bytes]], tuple[str, Finish | None, list[Piece]]]

WHOLE = (
    b'{"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" there was",'
    b'"logprobs":{"text_offset":[0,6],"token_logprobs":[-0.5,-1.5],"tokens":[" there"," was"],'
    b'"top_logprobs":[{" there":-0.5," time":-9.0},null]},"finish_reason":"stop","stop_reason":"was",'
    b'"token_ids":[369,288],"prompt_logprobs":[null,{"577":{"logprob":-2.0,"rank":1,"decoded_token":"Once"}}],'
    b'"prompt_token_ids":[1,577]}],"usage":{"prompt_tokens":2,"total_tokens":4,"completion_tokens":2}}'
)


def test_a_whole_reply_gives_text_tokens_and_the_reason() -> None:
    piece, finish = CompletionsReader().whole(WHOLE)
    assert piece == Piece(
        " there was",
        (Token(369, " there", -0.5), Token(288, " was", -1.5)),
        ((Token(None, " there", -0.5), Token(None, " time", -9.0)), ()),
    )
    assert finish == Finish(Reason.STOP, 2, 2, (Token(1, ""), Token(577, "Once", -2.0)))


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason", "reason"),
    [
        ("length", None, Reason.LENGTH),
        ("stop", None, Reason.EOS),
        ("stop", 2, Reason.EOS),
        ("stop", "END", Reason.STOP),
    ],
)
def test_every_reason_has_its_word(finish_reason: str, stop_reason: object, reason: Reason) -> None:
    choice = {"text": "a", "finish_reason": finish_reason, "stop_reason": stop_reason}
    _, finish = CompletionsReader().whole(msgspec.json.encode({"choices": [choice]}))
    assert finish == Finish(reason)


def test_a_stream_ends_with_its_usage(played: Played) -> None:
    text, end, pieces = played(
        CompletionsReader(),
        [
            b'{"choices":[{"index":0,"text":" there","logprobs":null,"finish_reason":null,"token_ids":[369]}]}',
            b'{"choices":[{"index":0,"text":"","finish_reason":null}]}',
            b'{"choices":[{"index":0,"text":" was","finish_reason":"length","stop_reason":null,"token_ids":[288]}]}',
            b'{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}',
            b"[DONE]",
        ],
    )
    assert (text, end) == (" there was", Finish(Reason.LENGTH, 2, 4))
    assert [piece.tokens for piece in pieces] == [(Token(369, " there"),), (Token(288, " was"),)]


@pytest.mark.parametrize(
    "events",
    [
        [b'{"choices":[{"text":"a"}]}', b"[DONE]"],
        [b'{"error":{"message":"CUDA out of memory","type":"InternalServerError","code":500}}'],
        [b'{"error":"gone"}'],
        [b'{"choices":[{"text":"a","finish_reason":"abort"}]}'],
        [b"request timeout"],
    ],
)
def test_a_stream_that_did_not_come_to_its_end_is_the_servers_fault(events: list[bytes], played: Played) -> None:
    with pytest.raises(UpstreamError):
        played(CompletionsReader(), events)


@pytest.mark.parametrize("body", [b'{"choices":[]}', b'{"choices":[{"text":"a"}]}', b'{"choices":[{"text":"a","finish'])
def test_a_reply_without_an_end_is_the_servers_fault(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        CompletionsReader().whole(body)
