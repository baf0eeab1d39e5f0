"""Every dialect against a real llama.cpp server with the demonstration model."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import as_file, files
from typing import Any

import msgspec
import pytest

from ssis_dispatcher.engines.llamacpp import LlamaCpp
from ssis_dispatcher.gateway.dialects.base import Dialect
from ssis_dispatcher.gateway.dialects.openai import OpenAI
from ssis_dispatcher.gateway.dialects.ssis import SSIS
from ssis_dispatcher.gateway.dialects.tgi import TGI

SERVE = """
import os, sys
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.hostnames = ["127.0.0.1"]
params.port = 0
params.n_parallel = 2
params.n_ctx = 1024
params.ui = False
params.verbosity = 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


ENV = {"MODEL_ID": "demo"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """``host:port`` of the server, which ends with its standard input."""
    with (
        as_file(files("ssis_dispatcher") / "data" / "demo.gguf") as model,
        subprocess.Popen(
            [sys.executable, "-c", SERVE, str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        yield child.stdout.readline().strip().removeprefix("http://")
        child.terminate()


class Answer(msgspec.Struct):
    status: int
    content_type: bytes
    body: bytes
    chunks: int
    complete: bool

    def events(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(block[5:]) for block in self.body.split(b"\n\n") if block.startswith(b"data:{")]


def answer(address: str, dialect: Dialect, path: str, body: object, method: str = "POST") -> Answer:
    """One request, through the dialect to the server and back, as the gateway does it."""
    request = dialect.read(method, path, b"", [], msgspec.json.encode(body))
    upstream = dialect.adapt(request, LlamaCpp(), "demo")
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request(upstream.method, upstream.path, upstream.body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    status, content_type = reply.status, reply.headers["Content-Type"].encode()
    if upstream.reply is not None:
        status, content_type = upstream.reply.head(status, content_type)
    out, chunks = b"", 0
    while data := reply.read1(65536):
        chunks += 1
        out += upstream.reply.feed(data) if upstream.reply is not None else data
    if upstream.reply is not None:
        out += upstream.reply.end()
    connection.close()
    return Answer(status, content_type, out, chunks, dialect.complete(out[-4096:], request.stream, content_type))


def seed(**more: object) -> dict[str, object]:
    return {
        "token": "Once upon a time",
        "par": {"max_new_tokens": "12"},
        "env": {"MODEL_ID": "demo", "HF_TOKEN": None},
    } | more


def test_the_readmes_request_gets_a_real_answer(address: str) -> None:
    """The body of the original program's README: it got 202 and some words, and never the answer."""
    found = answer(address, SSIS(), "/", seed())
    assert (found.status, found.content_type, found.complete) == (200, b"application/json", True)
    (reply,) = msgspec.json.decode(found.body)
    assert reply["generated_text"].startswith("Once upon a time")
    assert len(reply["generated_text"].split()) > 8


def test_without_do_sample_the_same_question_gets_the_same_answer(address: str) -> None:
    assert len({answer(address, SSIS(), "/", seed()).body for _ in range(3)}) == 1


def test_a_seed_repeats_a_sampled_answer(address: str) -> None:
    sampled = [
        answer(
            address, SSIS(), "/", seed(par={"max_new_tokens": 12, "do_sample": True, "temperature": 1.5, "seed": s})
        ).body
        for s in (1, 1, 2, 3, 4)
    ]
    assert sampled[0] == sampled[1]
    assert len(set(sampled)) > 1


def test_the_stream_says_what_the_whole_reply_says(address: str) -> None:
    found = answer(address, SSIS(), "/", seed(stream=True))
    assert (found.status, found.content_type, found.complete) == (200, b"text/event-stream", True)
    *tokens, last = found.events()
    (whole,) = msgspec.json.decode(answer(address, SSIS(), "/", seed()).body)
    assert last["generated_text"] == whole["generated_text"]
    text = "".join(event["token"]["text"] for event in tokens)
    assert "Once upon a time" + text == whole["generated_text"]
    assert [event["index"] for event in tokens] == list(range(1, 13))


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"max_new_tokens": 5}, "length"),
        ({"stop": [" the"], "max_new_tokens": 300}, "stop_sequence"),
        ({}, "eos_token"),
    ],
)
@pytest.mark.parametrize("route", ["generate", "generate_stream"])
def test_every_end_is_told(address: str, route: str, parameters: dict[str, object], reason: str) -> None:
    body = {"inputs": "What is a GPU slice?", "parameters": {"details": True, **parameters}}
    found = answer(address, TGI(), f"/models/demo/{route}", body)
    reply = msgspec.json.decode(found.body) if route == "generate" else found.events()[-1]
    assert reply["details"]["finish_reason"] == reason
    assert reply["details"]["generated_tokens"] > 0
    if reason == "stop_sequence":
        assert reply["generated_text"].endswith(" the")
    if reason == "length":
        assert reply["details"]["generated_tokens"] == 5


def test_details_give_each_tokens_id_and_probability(address: str) -> None:
    body = {"inputs": "Once upon", "parameters": {"max_new_tokens": 4, "details": True, "top_n_tokens": 2}}
    reply = msgspec.json.decode(answer(address, TGI(), "/models/demo/generate", body).body)
    tokens = reply["details"]["tokens"]
    assert "".join(token["text"] for token in tokens) == reply["generated_text"]
    assert all(token["id"] >= 0 and token["logprob"] <= 0 for token in tokens)
    assert [len(top) for top in reply["details"]["top_tokens"]] == [2, 2, 2, 2]


def test_a_schema_holds(address: str) -> None:
    body = {
        "inputs": "x",
        "parameters": {"max_new_tokens": 9, "grammar": {"type": "json", "value": {"enum": ["yes", "no"]}}},
    }
    reply = msgspec.json.decode(answer(address, TGI(), "/models/demo/generate", body).body)
    assert msgspec.json.decode(reply["generated_text"]) in ("yes", "no")


def test_a_prompt_that_does_not_fit_is_the_callers_fault_in_words(address: str) -> None:
    for stream in (False, True):
        found = answer(address, SSIS(), "/", seed(token="word " * 2000, stream=stream))
        assert (found.status, found.content_type) == (400, b"application/problem+json")
        assert "context size" in msgspec.json.decode(found.body)["detail"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "question"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}),
        ("/v1/completions", {"prompt": "Once upon", "max_tokens": 5}),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 5}),
    ],
)
def test_openais_routes_pass_and_are_known_to_be_whole(
    address: str, path: str, question: dict[str, object], stream: bool
) -> None:
    found = answer(address, OpenAI(), path, {"model": "demo@main", "stream": stream, **question, "ssis": {}})
    assert (found.status, found.complete) == (200, True)
    assert found.chunks >= 1
    body = found.body.rstrip(b"\n")
    for cut in range(1, 400, 23):
        assert not OpenAI().complete(body[:-cut][-4096:], stream, found.content_type)


def test_other_routes_pass_below_the_models_path(address: str) -> None:
    found = answer(address, TGI(), "/models/demo/tokenize", {"content": "Once upon"})
    assert len(msgspec.json.decode(found.body)["tokens"]) == 2
    found = answer(address, SSIS(), "/", {"env": ENV, "subroute": "/tokenize", "payload": {"content": "Once"}})
    assert len(msgspec.json.decode(found.body)["tokens"]) == 1


def test_llama_cpps_own_stream_is_known_to_be_whole(address: str) -> None:
    body = {
        "env": {"MODEL_ID": "demo"},
        "subroute": "/completion",
        "payload": {"prompt": "Once", "n_predict": 3, "stream": True},
    }
    found = answer(address, SSIS(), "/", body)
    assert found.complete
    assert not SSIS().complete(found.body[: found.body.rindex(b"data:")][-4096:], True)
