from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssis_dispatcher.core.sizing import ModelFacts
from ssis_dispatcher.errors import InvalidRequest
from ssis_dispatcher.models.naming import (
    LONGEST,
    ModelName,
    bits_in,
    facts_from_name,
    parameters_in,
    parse_name,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("demo", ModelName("demo")),
        ("openai-community/gpt2", ModelName("openai-community/gpt2")),
        ("meta-llama/Llama-3.1-8B-Instruct", ModelName("meta-llama/Llama-3.1-8B-Instruct")),
        ("org/name-GGUF:Q4_K_M", ModelName("org/name-GGUF", "Q4_K_M")),
        ("org/name:UD-Q4_K_XL@main", ModelName("org/name", "UD-Q4_K_XL", "main")),
        ("org/name@refs/pr/1", ModelName("org/name", "", "refs/pr/1")),
        ("demo@v1.0", ModelName("demo", "", "v1.0")),
        ("a/b_", ModelName("a/b_")),
        ("01-ai/Yi-34B", ModelName("01-ai/Yi-34B")),
    ],
)
def test_names_are_taken_apart(text: str, name: ModelName) -> None:
    assert parse_name(text) == name


def test_an_id_leaves_the_revision_out() -> None:
    name = parse_name("org/name:Q8_0@main")
    assert (name.id, name.bare) == ("org/name:Q8_0", False)
    assert parse_name("demo").bare


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "/etc/passwd",
        "./model.gguf",
        "../../etc/passwd",
        "~/model",
        "org/../name",
        "org/..",
        "org/name/",
        "org//name",
        "org/name/more",
        "C:\\model",
        "file:///etc/passwd",
        "https://huggingface.co/org/name",
        "--model",
        "-m",
        "org/-name",
        "org/na--me",
        "org/name..gguf",
        "org/name.",
        "org/náme",
        "模型",
        "org/name\n",
        "org/name\x00",
        "org/name;rm",
        "org/$(id)",
        "org/name:",
        "org/name:../x",
        "org/name:a/b",
        "org/name:-Q4",
        "org/name@",
        "org/name@-x",
        "org/name@a..b",
        "org/name@a//b",
        "org/name@main:Q4_K_M",
        "org/name@a@b",
        "org/" + "x" * 97,
        "x" * 300,
    ],
)
def test_paths_urls_flags_and_oddities_are_no_names(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_name(text)
    problem = caught.value.problem
    assert (problem.status, problem.param) == (400, "model")
    assert problem.message.isascii()
    assert len(problem.message) < 250


def test_the_field_that_is_wrong_is_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_name("../x", "env.MODEL_ID")
    assert caught.value.problem.param == "env.MODEL_ID"
    assert "a path does not name a model" in caught.value.problem.message


@given(st.text(max_size=LONGEST + 10))
def test_whatever_passes_is_harmless_in_a_path_a_url_and_a_command(text: str) -> None:
    try:
        name = parse_name(text)
    except InvalidRequest:
        return
    assert text.isascii()
    assert ".." not in text
    assert not set(text) & set(" \t\r\n\0\\'\"$`;&|<>*?%#~")
    assert not name.repo.startswith(("-", "/", "."))
    assert parse_name(name.id + (f"@{name.revision}" if name.revision else "")) == name


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 8e9),
        ("Qwen/Qwen2.5-0.5B", 0.5e9),
        ("Qwen/Qwen3-30B-A3B", 30e9),
        ("mistralai/Mixtral-8x7B-v0.1", 56e9),
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", 176e9),
        ("facebook/opt-350m", 350e6),
        ("HuggingFaceTB/SmolLM2-135M", 135e6),
        ("bigscience/bloom-7b1", 7.1e9),
        ("TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", 1.1e9),
        ("TinyLlama/TinyLlama-1.1B-step-50K-105b", 1.1e9),
        ("TheBloke/Llama-2-70B-chat-GPTQ", 70e9),
        ("org/llama_13b_4bit", 13e9),
        ("70B-club/tiny", None),
        ("openai-community/gpt2", None),
        ("microsoft/Phi-3-mini-4k-instruct", None),
        ("google/gemma-3n-E4B-it", None),
        ("BAAI/bge-m3", None),
        ("org/model-8bit", None),
        ("org/model-0B", None),
        ("demo", None),
    ],
)
def test_the_number_of_parameters_is_read_from_the_name(name: str, parameters: float | None) -> None:
    assert parameters_in(name) == parameters


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("org/Llama-3.1-8B-AWQ", 5.5),
        ("org/Llama-3.1-8B-GPTQ-Int4", 5.5),
        ("org/Llama-3.1-8B-GPTQ-Int8", 9.0),
        ("org/Llama-3.1-8B-bnb-4bit", 5.5),
        ("org/Llama-3.1-8B-FP8-dynamic", 9.0),
        ("org/Llama-3.1-8B-quantized.w8a8", 9.0),
        ("org/x-MXFP4", 5.5),
        ("Q4_K_M", 4.9),
        ("UD-Q2_K_XL", 3.4),
        ("IQ3_XS", 4.3),
        ("Q8_0", 8.5),
        ("F16", 16.0),
        ("BF16", 16.0),
        ("F32", 32.0),
        ("org/Llama-3.1-8B-Instruct", None),
        ("Qwen/Qwen2.5-7B", None),
    ],
)
def test_quantisation_is_read_from_the_name(name: str, bits: float | None) -> None:
    assert bits_in(name) == bits


def test_a_name_gives_an_estimate_that_errs_upwards() -> None:
    facts = facts_from_name(parse_name("meta-llama/Llama-3.1-8B-Instruct"))
    assert (facts.source, facts.weight_bytes) == ("name", 16_000_000_000)
    assert (facts.kv_bytes_per_token or 0) > 131_072
    assert "8 billion parameters of 16 bits" in facts.note
    quantised = facts_from_name(parse_name("org/Llama-3.1-8B-GGUF:Q4_K_M"))
    assert quantised.weight_bytes == 4_900_000_000


def test_a_name_that_tells_nothing_leaves_everything_unknown() -> None:
    assert facts_from_name(parse_name("openai-community/gpt2")) == ModelFacts()
