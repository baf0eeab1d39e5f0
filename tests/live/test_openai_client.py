"""The official `openai` client, as it comes from its maker, against the running program and its real model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import httpx2
import openai
import pytest
from openai.types.chat import (
    ChatCompletionChunk,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionUserMessageParam,
)
from tests.live.support import Dispatcher, until

HELLO: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "What is a GPU slice?"}]


@pytest.fixture
def client(live: Dispatcher) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none-needed", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
async def client_async(live: Dispatcher) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{live.url}/v1", api_key="none-needed", max_retries=0, timeout=30
    ) as client:
        yield client


# Answers


def test_a_chat_is_answered_with_its_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=HELLO, max_tokens=12, temperature=0)
    assert answer.model == "demo"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_chat_says_the_same_and_tells_its_usage_when_asked(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="demo", messages=HELLO, max_tokens=12, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=HELLO,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert len(chunks) > 12


async def test_the_asynchronous_client_gets_the_same(client_async: openai.AsyncOpenAI) -> None:
    whole = await client_async.chat.completions.create(model="demo", messages=HELLO, max_tokens=8, temperature=0)
    stream = await client_async.chat.completions.create(
        model="demo", messages=HELLO, max_tokens=8, temperature=0, stream=True
    )
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert text == whole.choices[0].message.content


def test_completions_work_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt="Once upon a time", max_tokens=8, temperature=0)
    chunks = client.completions.create(
        model="demo", prompt="Once upon a time", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert whole.choices[0].finish_reason == "length"


def test_responses_pass_to_the_engine_that_has_them(client: openai.OpenAI) -> None:
    assert client.responses.create(model="demo", input="Hello", max_output_tokens=16).output_text
    kinds = [
        event.type for event in client.responses.create(model="demo", input="Hi", max_output_tokens=16, stream=True)
    ]
    assert kinds[-1] == "response.completed"


def test_stop_ends_the_answer_before_the_word(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt="Once upon a time", max_tokens=20, temperature=0)
    word = whole.choices[0].text.split()[3]
    cut = client.completions.create(model="demo", prompt="Once upon a time", max_tokens=20, temperature=0, stop=[word])
    assert cut.choices[0].finish_reason == "stop"
    assert word not in cut.choices[0].text
    assert whole.choices[0].text.startswith(cut.choices[0].text)


def test_max_tokens_is_the_number_of_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=HELLO, max_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_logprobs_are_there_for_each_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=HELLO, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].logprobs is not None
    tokens = answer.choices[0].logprobs.content or []
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


WEATHER: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def test_tools_reach_the_engine_that_has_them_and_its_call_comes_back(client: openai.OpenAI, live: Dispatcher) -> None:
    prompt: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "call a tool"}]
    (choice,) = client.chat.completions.create(model="scripted", messages=prompt, tools=[WEATHER]).choices
    assert json.loads(live.notes("asked-scripted")[-1])["body"]["tools"] == [WEATHER]
    [call] = choice.message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "weather")
    with client.chat.completions.stream(model="scripted", messages=prompt, tools=[WEATHER]) as stream:
        stream.until_done()
        streamed = stream.get_final_completion().choices[0].message.tool_calls or []
    assert [call.function.arguments for call in streamed] == ['{"city": "Hsinchu"}']


def test_a_seed_repeats_an_answer(client: openai.OpenAI) -> None:
    def say(seed: int) -> str:
        answer = client.completions.create(model="demo", prompt="Once", max_tokens=16, temperature=1.5, seed=seed)
        return answer.choices[0].text

    assert say(7) == say(7)
    assert len({say(seed) for seed in range(5)}) > 1


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert "demo" in [model.id for model in client.models.list()]
    found = client.models.retrieve("demo")
    assert (found.id, found.object, found.owned_by) == ("demo", "model", "ssis")
    with pytest.raises(openai.NotFoundError, match=r"no-such is neither listed nor running"):
        client.models.retrieve("no-such")


def test_what_openai_has_no_word_for_goes_into_ssis(client: openai.OpenAI, live: Dispatcher) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=HELLO, max_tokens=2, extra_body={"ssis": {"context": 384, "env": {"HF_TOKEN": None}}}
    )
    assert answer.choices[0].message.content
    assert [server["context"] for server in live.servers("demo") if server["context"] == 384] == [384]


def test_a_request_id_is_kept_and_sent_back_and_else_made(client: openai.OpenAI) -> None:
    raw = client.models.with_raw_response.list(extra_headers={"X-Request-Id": "mine-1"})
    assert raw.headers["x-request-id"] == "mine-1"
    completion = client.completions.create(model="demo", prompt="Hi", max_tokens=1)
    assert completion._request_id
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="no-such", prompt="Hi")
    assert caught.value.request_id


def test_a_hub_token_does_no_harm_where_none_is_needed(client: openai.OpenAI, live: Dispatcher) -> None:
    header = {"X-SSIS-HF-Token": "hf_abcdefghijklmnop"}
    assert client.completions.create(model="demo", prompt="Hi", max_tokens=1, extra_headers=header).choices
    plain = [server for server in live.servers("demo") if server["context"] == 1024]
    assert len(plain) == 1, "a token must not start a second server of a model that needs none"
    with pytest.raises(openai.BadRequestError, match="X-SSIS-HF-Token"):
        client.completions.create(model="demo", prompt="Hi", extra_headers={"X-SSIS-HF-Token": "no token at all"})


# Refusals


def test_a_model_that_is_not_here_says_what_is(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"Here are: .*demo") as caught:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )


@pytest.mark.parametrize(
    ("model", "extra", "error", "param", "words"),
    [
        ("demo@v2", {}, openai.UnprocessableEntityError, "revision", "no revisions"),
        ("demo", {"revision": "v2"}, openai.UnprocessableEntityError, "revision", "no revisions"),
        ("demo", {"context": 100_000}, openai.UnprocessableEntityError, "context", "at most 1024"),
        ("demo", {"engine": "vllm"}, openai.BadRequestError, "engine", "there are: llamacpp"),
        ("demo", {"env": {"LD_PRELOAD": "x"}}, openai.UnprocessableEntityError, "env.LD_PRELOAD", "cannot be set"),
        ("demo", {"contxt": 5}, openai.BadRequestError, "ssis.contxt", "is not known here"),
        ("http://x/y", {}, openai.BadRequestError, "model", "a URL does not name a model"),
    ],
)
def test_a_refusal_is_the_clients_own_exception_and_names_the_field(
    client: openai.OpenAI, model: str, extra: object, error: type[openai.APIStatusError], param: str, words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        client.chat.completions.create(model=model, messages=HELLO, extra_body={"ssis": extra})
    assert (caught.value.param or "").endswith(param)
    assert isinstance(caught.value.code, str)


def test_what_the_engine_refuses_is_said_in_its_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="context size"):
        client.completions.create(model="demo", prompt="word " * 2000)
    with pytest.raises(openai.BadRequestError, match="the prompt is too long"):
        client.completions.create(model="scripted", prompt="refuse")


def test_embeddings_of_a_model_that_has_none_are_refused_clearly(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="ooling"):
        client.embeddings.create(model="demo", input="Hello")


def test_a_route_that_is_no_ones_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="makes no images"):
        client.images.generate(model="demo", prompt="a cat")
    with pytest.raises(openai.NotFoundError, match="There is nothing at /v1/files"):
        client.files.list()


# Answers that are not whole


def test_a_stream_that_breaks_off_is_an_error_and_never_an_end(client: openai.OpenAI) -> None:
    for how in ("truncate", "break off"):
        stream = client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": how}], stream=True
        )
        heard: list[ChatCompletionChunk] = []
        with pytest.raises(openai.APIError, match="broke off"):
            heard.extend(stream)
        assert [chunk.choices[0].delta.content for chunk in heard] == ["one "]


def test_a_reply_that_is_cut_or_no_http_is_a_server_error(client: openai.OpenAI) -> None:
    for how, code in (("truncate", "upstream_incomplete"), ("garbage", "upstream_garbled")):
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="scripted", prompt=how)
        assert (caught.value.status_code, caught.value.code) == (502, code)


def test_a_client_that_stops_reading_gives_its_seat_back(client: openai.OpenAI, live: Dispatcher) -> None:
    with client.completions.create(model="scripted", prompt="wait", stream=True) as stream:
        assert next(iter(stream)).choices[0].text == "one "
        assert live.server("scripted")["busy"] >= 1
    until(lambda: live.notes("left-scripted"), "the engine noticed", 1.0)
    until(live.is_calm, "the seat is free", 1.0)


def test_the_client_can_be_one_of_ones_own_making(live: Dispatcher) -> None:
    """No header or body beyond HTTP's own is needed."""
    reply = httpx2.post(f"{live.url}/v1/completions", json={"model": "demo", "prompt": "Hi", "max_tokens": 1})
    assert reply.json()["choices"]
