"""What callers may say about a generation, and what is made of it before any engine sees it."""

from __future__ import annotations

import pytest

from ssis_dispatcher.engines.generation import NOWHERE, READ, SAME, Generation, read
from ssis_dispatcher.errors import InvalidRequest, Unprocessable

# transformers' GenerationConfig, `generate` and the text-generation pipeline, and TGI's GenerateParameters.
TRANSFORMERS = """
    max_length max_new_tokens min_length min_new_tokens early_stopping max_time stop_strings do_sample
    num_beams num_beam_groups use_cache cache_implementation cache_config prefill_chunk_size
    return_legacy_cache penalty_alpha dola_layers temperature top_k top_p min_p typical_p epsilon_cutoff
    eta_cutoff diversity_penalty repetition_penalty encoder_repetition_penalty length_penalty
    no_repeat_ngram_size bad_words_ids force_words_ids renormalize_logits constraints forced_bos_token_id
    forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens
    begin_suppress_tokens sequence_bias token_healing guidance_scale low_memory watermarking_config
    num_return_sequences output_attentions output_hidden_states output_scores output_logits
    return_dict_in_generate pad_token_id bos_token_id eos_token_id encoder_no_repeat_ngram_size
    decoder_start_token_id is_assistant num_assistant_tokens num_assistant_tokens_schedule
    assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit
    assistant_lookbehind target_lookbehind compile_config disable_compile generation_config logits_processor
    stopping_criteria prefix_allowed_tokens_fn synced_gpus assistant_model streamer negative_prompt_ids
    negative_prompt_attention_mask custom_generate return_tensors return_text return_full_text
    clean_up_tokenization_spaces prefix handle_long_generation stop_sequence truncation padding
    add_special_tokens
"""
TGI = """
    best_of temperature repetition_penalty frequency_penalty top_k top_p typical_p do_sample max_new_tokens
    return_full_text stop truncate watermark details decoder_input_details seed top_n_tokens grammar
    adapter_id
"""


@pytest.mark.parametrize("name", sorted({*TRANSFORMERS.split(), *TGI.split()}))
def test_every_parameter_of_transformers_and_tgi_is_known(name: str) -> None:
    assert name in READ or name in NOWHERE or SAME[name] in READ
    assert read({name: None}, "par") == {}


def test_no_parameter_is_known_in_two_ways() -> None:
    assert not READ.keys() & NOWHERE.keys()
    assert not SAME.keys() & (READ.keys() | NOWHERE.keys())


@pytest.mark.parametrize(
    ("name", "sent", "read_as"),
    [
        ("max_new_tokens", "20", 20),
        ("max_new_tokens", " 20 ", 20),
        ("max_new_tokens", 20.0, 20),
        ("temperature", "0.7", 0.7),
        ("top_p", "0.9", 0.9),
        ("seed", str(2**64 - 1), 2**64 - 1),
        ("do_sample", "true", True),
        ("do_sample", "True", True),
        ("stop", "END", ["END"]),
        ("stop", ["a", "b"], ["a", "b"]),
        ("eos_token_id", 2, [2]),
    ],
)
def test_a_numeric_string_is_a_number(name: str, sent: object, read_as: object) -> None:
    """The original program's own example sends ``"max_new_tokens": "20"`` and passed it on as text, which TGI refuses."""
    assert read({name: sent}, "par") == {SAME.get(name, name): read_as}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", "many"),
        ("max_new_tokens", 1.5),
        ("max_new_tokens", True),
        ("max_new_tokens", "9" * 5000),
        ("max_new_tokens", [20]),
        ("temperature", -1),
        ("temperature", "hot"),
        ("temperature", "nan"),
        ("temperature", float("inf")),
        ("temperature", True),
        ("top_p", 0),
        ("top_p", 1.1),
        ("seed", -1),
        ("do_sample", "perhaps"),
        ("do_sample", 1),
        ("stop", 5),
        ("stop", ["", "a"]),
        ("suppress_tokens", ["a"]),
        ("adapter_id", 3),
        ("grammar", "json"),
        ("grammar", {"type": "poem", "value": "x"}),
        ("grammar", {"type": "json", "value": "{"}),
        ("grammar", {"type": "regex", "value": {}}),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_field(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read({name: value}, "par")
    assert caught.value.problem.param == f"par.{name}"
    assert f"`par.{name}` must be " in caught.value.problem.message


IDLE = [
    ("top_p", 1.0),
    ("top_k", 0),
    ("top_k", -1),
    ("typical_p", 1),
    ("repetition_penalty", "1.0"),
    ("best_of", 1),
    ("watermark", False),
    ("temperature", 1),
    ("num_beams", 1),
    ("use_cache", True),
    ("num_return_sequences", 1),
    ("do_sample", False),
    ("stop", []),
    ("stop", ""),
]


@pytest.mark.parametrize(("name", "value"), IDLE)
def test_a_value_that_changes_nothing_is_dropped_and_never_refused(name: str, value: object) -> None:
    assert read({name: value}, "par") == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_beams", 4), ("max_length", 100), ("use_cache", False), ("return_text", 1), ("bad_words_ids", [[1]])],
)
def test_what_no_engine_can_do_is_refused_by_name_with_the_reason(name: str, value: object) -> None:
    with pytest.raises(Unprocessable) as caught:
        read({name: value}, "par")
    assert caught.value.problem.param == f"par.{name}"
    assert NOWHERE[name][1] in caught.value.problem.message


def test_an_unknown_parameter_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(InvalidRequest, match=r"`par\.max_new_token` is not .* did you mean `max_new_tokens`\?"):
        read({"max_new_token": 5}, "par")


@pytest.mark.parametrize(
    ("sent", "greedy"),
    [
        ({}, True),
        ({"do_sample": False}, True),
        ({"do_sample": True}, False),
        ({"do_sample": "true"}, False),
        ({"temperature": 0.7}, False),
        ({"top_k": 5}, False),
        ({"top_p": 1.0}, True),
        ({"seed": 7}, True),
        ({"temperature": 0, "do_sample": True, "top_p": 0.5}, True),
        ({"temperature": 0.7, "top_p": 0.5, "do_sample": False}, True),
        ({"do_sample": "false", "top_k": 5}, True),
    ],
)
def test_a_generation_is_greedy_unless_sampling_is_asked_for(sent: dict[str, object], greedy: bool) -> None:
    assert Generation("Hello", read(sent, "par")).greedy is greedy


@pytest.mark.parametrize(
    ("sent", "read_as"),
    [
        ({"type": "json", "value": {"type": "object"}}, {"json": {"type": "object"}}),
        ({"type": "json", "value": '{"type": "object"}'}, {"json": {"type": "object"}}),
        ({"type": "json_schema", "value": {"name": "x", "schema": {"type": "array"}}}, {"json": {"type": "array"}}),
        ({"type": "regex", "value": "[0-9]+"}, {"regex": "[0-9]+"}),
    ],
)
def test_a_grammar_is_a_schema_or_a_regular_expression(sent: object, read_as: object) -> None:
    assert read({"grammar": sent}, "par") == {"grammar": read_as}


def test_a_generation_does_not_show_its_prompt() -> None:
    assert "secret" not in repr(Generation("secret words", {"max_new_tokens": 5}))
