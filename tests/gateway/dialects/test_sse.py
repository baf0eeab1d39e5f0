"""Telling a reply that is whole from one that was cut short but ended cleanly."""

from __future__ import annotations

import msgspec
import pytest

from ssis_dispatcher.gateway.dialects.base import Dialect
from ssis_dispatcher.gateway.dialects.openai import OpenAI
from ssis_dispatcher.gateway.dialects.sse import heartbeat, json_closed, stream_ended
from ssis_dispatcher.gateway.dialects.ssis import SSIS
from ssis_dispatcher.gateway.dialects.tgi import TGI

LONG = "word " * 2000

CHUNK = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
COMPLETED = b"event: response.completed\ndata: " + msgspec.json.encode(
    {
        "type": "response.completed",
        "response": {
            "output": [{"text": LONG}],
            "usage": {"input_tokens": 8, "details": {"cached": 7}},
            "timings": {"n": 1},
        },
    }
)
ITEM_DONE = b"event: response.output_item.done\ndata: " + msgspec.json.encode(
    {"type": "response.output_item.done", "item": {"content": [{"text": LONG}], "role": {"name": "assistant"}}}
)
TGI_TOKEN = b'data:{"index":1,"token":{"id":1,"text":"a","special":false},"generated_text":null,"details":null}\n\n'
TGI_LAST = b'data:{"index":9,"token":{"id":2,"text":"</s>","special":true},"generated_text":"%b","details":%b}\n\n'
TGI_DETAILS = b'{"finish_reason":"eos_token","generated_tokens":9,"seed":null,"input_length":4}'
LLAMACPP = b'data: {"content":"","stop":true,"prompt":"%b","truncated":false,"stop_type":"limit","timings":{"n":1}}\n\n'

WHOLE = {
    "OpenAI's chat": CHUNK + b"data: [DONE]\n\n",
    "with carriage returns": b"data: {}\r\n\r\ndata: [DONE]\r\n\r\n",
    "without the space": CHUNK + b"data:[DONE]\n\n",
    "OpenAI's responses": COMPLETED + b"\n\n",
    "OpenAI's responses, failed": b'event: response.failed\ndata: {"type":"response.failed","response":{}}\n\n',
    "OpenAI's responses, cut by length": b'data: {"type": "response.incomplete", "response": {}}\n\n',
    "Anthropic's messages": b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
    "TGI": TGI_TOKEN + TGI_LAST % (b"a", b"null"),
    "TGI, an empty text": TGI_LAST % (b"", b"null"),
    "TGI, a long text": TGI_TOKEN + TGI_LAST % (LONG.encode(), b"null"),
    "TGI, a long text and details": TGI_LAST % (LONG.encode(), TGI_DETAILS),
    "llama.cpp": LLAMACPP % b"Once",
    "llama.cpp, a long prompt": LLAMACPP % LONG.encode(),
    "an error after the beginning": CHUNK + b'data: {"error":{"message":"gone","code":500}}\n\n',
    "TGI's error": TGI_TOKEN + b'data:{"error":"gone","error_type":"incomplete_generation"}\n\n',
    "llama.cpp's older error": b'error: {"message":"gone"}\n\n',
}

CUT = {
    "nothing": b"",
    "OpenAI's chat without DONE": CHUNK,
    "in the middle of an event": b"data: [DONE]",
    "after the end of an answer, before DONE": b'data: {"choices":[{"finish_reason":"stop"}],"usage":{"total_tokens":3}}\n\n',
    "a text that speaks of DONE": b'data: {"choices":[{"text":"[DONE]"}]}\n\n',
    "a gateway's word in the stream": CHUNK + b"request timeout",
    "a gateway's word, with an empty line": CHUNK + b"activator request timeout\n\n",
    "OpenAI's responses after a long item": ITEM_DONE + b"\n\n",
    "OpenAI's responses in the last event": COMPLETED[:-10],
    "TGI after a token": TGI_TOKEN,
    "TGI in the last event": (TGI_LAST % (LONG.encode(), b"null"))[:-5],
    "TGI before the end of the last event": (TGI_LAST % (b"a", b"null"))[:-1],
    "llama.cpp after a token": b'data: {"index":0,"content":"a","stop":false,"tokens":[1]}\n\n',
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_stream_that_came_to_its_end_is_complete(name: str) -> None:
    assert stream_ended(WHOLE[name][-4096:])


@pytest.mark.parametrize("name", CUT)
def test_a_stream_that_was_cut_is_not(name: str) -> None:
    """The original program took whatever came for the answer, and never looked at its status or its end."""
    assert not stream_ended(CUT[name][-4096:])


@pytest.mark.parametrize("dialect", [OpenAI(), SSIS(), TGI()])
def test_every_dialect_judges_both_kinds_of_reply(dialect: Dialect) -> None:
    assert dialect.complete(CHUNK + b"data: [DONE]\n\n", True, b"text/event-stream")
    assert not dialect.complete(CHUNK, True, b"text/event-stream")
    assert dialect.complete(b'{"a":1}\n', False)
    assert not dialect.complete(b'{"a":', False)


@pytest.mark.parametrize(
    ("tail", "content_type", "closed"),
    [
        (b'{"a":{}}', b"application/json", True),
        (b"[1]\n", b"application/json; charset=utf-8", True),
        (b'[{"generated_text":"half an ans', b"application/json", False),
        (b'{"a":1', b"application/problem+json", False),
        (b"", b"application/json", False),
        (b'{"usage":{"total_tokens":3}', b"application/json", False),
        (b'{"usage":{"logprob":NaN}}', b"application/json", True),
        (b"[" * 2000 + b"]" * 2000, b"application/json", True),
        (b'"}' * 2048, b"application/json", True),
        (b"tgi_queue_size 0", b"text/plain", True),
        (b"", b"", True),
    ],
)
def test_a_reply_is_whole_when_its_json_closes(tail: bytes, content_type: bytes, closed: bool) -> None:
    assert json_closed(tail, content_type, whole=True) is closed


def test_what_is_not_all_of_a_reply_is_judged_by_its_last_byte() -> None:
    assert json_closed(b'{"usage":{"total_tokens":3}', b"application/json", whole=False)
    assert not json_closed(b'{"usage":{"total_tok', b"application/json", whole=False)


def test_a_heartbeat_is_a_comment_with_what_is_known() -> None:
    assert heartbeat("starting", 3, 12.4) == b": waiting phase=starting position=3 expected=12s\n\n"
    assert heartbeat("slice", None, None) == b": waiting phase=slice\n\n"
