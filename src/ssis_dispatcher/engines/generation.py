"""A text generation in neutral terms: the prompt, and parameters under the names that transformers and TGI use.

`read` checks what a caller sent: every generation parameter of TGI and transformers is known here, numeric strings are
numbers, null means absent, and a value that changes nothing (``num_beams: 1``) is dropped, so that nobody is refused
for it. What remains is either in `READ`, and each engine maps it or refuses it by name, or no inference server can do it,
and `NOWHERE` says why. Called by the dialects; the engines read the result.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from ssis_dispatcher.errors import InvalidRequest, Unprocessable

WARPERS = ("temperature", "top_k", "top_p", "typical_p", "min_p")
"""Parameters that ask for sampling by being there, as in TGI's ``has_warpers`` (utils/tokens.py)."""

FORMS = ("return_full_text", "details", "do_sample")
"""Parameters that no engine but TGI sees: they say how the reply is written, or what the others mean."""


class Generation(msgspec.Struct):
    """One text generation. ``parameters`` hold only checked values of names in `READ`; ``field`` is the name of the
    object in the caller's body that they came in, for errors."""

    prompt: str
    parameters: dict[str, Any]
    stream: bool = False
    field: str = "parameters"

    def __repr__(self) -> str:
        # Without the prompt, which belongs in no log.
        return f"Generation({sorted(self.parameters)}, stream={self.stream})"

    @property
    def greedy(self) -> bool:
        """TGI's rule: the likeliest token each time, unless ``do_sample`` or a parameter of sampling asks otherwise. (`read`
        has already dropped the latter where ``do_sample`` is false in so many words.)"""
        return not self.parameters.get("do_sample") and not any(name in self.parameters for name in WARPERS)

    @property
    def logprobs(self) -> bool:
        """Whether the caller will be shown single tokens with their probabilities."""
        return bool(self.parameters.get("details") or "top_n_tokens" in self.parameters)

    def refuse(self, name: str, reason: str) -> Unprocessable:
        """The error for a parameter that the engine cannot do."""
        where = f"{self.field}.{name}"
        return Unprocessable(f"`{where}` cannot be used here: {reason}", code="unsupported_parameter", param=where)

    def mapped(self, fields: Mapping[str, str], refused: Mapping[str, str]) -> dict[str, Any]:
        """The parameters that an engine takes as they are, under its own names (``fields``). Raises `Unprocessable` for
        the first one in ``refused``; what is in neither, the engine handles itself."""
        found: dict[str, Any] = {}
        for name, value in self.parameters.items():
            if (field := fields.get(name)) is not None:
                found[field] = value
            elif (reason := refused.get(name)) is not None:
                raise self.refuse(name, reason)
        return found


class _Wrong(Exception):
    """What a value should have been."""


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    raise _Wrong("true or false")


def _integer(low: int, high: int = 2**63 - 1) -> Callable[[object], int]:
    wanted = f"a whole number of at least {low}" if high >= 2**63 - 1 else f"a whole number from {low} to {high}"

    def read(value: object) -> int:
        if isinstance(value, str):
            try:
                value = int(value[:32])
            except ValueError:
                raise _Wrong(wanted) from None
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _Wrong(wanted)
        return value

    return read


def _number(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Callable[[object], float]:
    """``above`` excludes ``low`` itself."""
    bounds = f" {'above' if above else 'of at least'} {low:g}" if low > -math.inf else ""
    bounds += f" and at most {high:g}" if high < math.inf else ""
    wanted = f"a number{bounds}"

    def read(value: object) -> float:
        if isinstance(value, str):
            try:
                value = float(value[:64])
            except ValueError:
                raise _Wrong(wanted) from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _Wrong(wanted)
        if not (low < value <= high if above else low <= value <= high):
            raise _Wrong(wanted)
        return float(value)

    return read


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
        return list(value)
    raise _Wrong("a string or a list of strings, none of them empty")


def _token_ids(value: object) -> list[int]:
    items = value if isinstance(value, list) else [value]
    if all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in items):
        return list(items)
    raise _Wrong("a token id or a list of token ids")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise _Wrong("a string")


def _grammar(value: object) -> dict[str, Any]:
    """TGI's ``{"type": "json" | "json_schema" | "regex", "value": …}``, as ``{"json": schema}`` or ``{"regex": text}``."""
    if isinstance(value, dict) and set(value) == {"type", "value"}:
        kind, inner = value["type"], value["value"]
        if kind == "regex" and isinstance(inner, str):
            return {"regex": inner}
        if kind == "json_schema" and isinstance(inner, dict) and isinstance(inner.get("schema"), dict):
            return {"json": inner["schema"]}
        if kind == "json":
            if isinstance(inner, str):
                try:
                    inner = msgspec.json.decode(inner)
                except (msgspec.DecodeError, RecursionError):
                    inner = None
            if isinstance(inner, dict):
                return {"json": inner}
    raise _Wrong('an object like {"type": "json", "value": {…}} or {"type": "regex", "value": "…"}')


class Rule(msgspec.Struct, frozen=True):
    """How one parameter is read, and the values that change nothing."""

    read: Callable[[object], Any]
    idle: tuple[Any, ...] = ()


READ: Mapping[str, Rule] = MappingProxyType(
    {
        "max_new_tokens": Rule(_integer(1, 2**31 - 1)),
        "min_new_tokens": Rule(_integer(0, 2**31 - 1), (0,)),
        "do_sample": Rule(_boolean, (False,)),
        "temperature": Rule(_number(0), (1.0,)),
        "top_k": Rule(_integer(-1, 2**31 - 1), (0, -1)),
        "top_p": Rule(_number(0, 1, above=True), (1.0,)),
        "typical_p": Rule(_number(0, 1, above=True), (1.0,)),
        "min_p": Rule(_number(0, 1), (0.0,)),
        "repetition_penalty": Rule(_number(0, above=True), (1.0,)),
        "frequency_penalty": Rule(_number(-2, 2), (0.0,)),
        "presence_penalty": Rule(_number(-2, 2), (0.0,)),
        "seed": Rule(_integer(0, 2**64 - 1)),
        "stop": Rule(_strings, ([],)),
        "stop_token_ids": Rule(_token_ids, ([],)),
        "suppress_tokens": Rule(_token_ids, ([],)),
        "truncate": Rule(_integer(1)),
        "best_of": Rule(_integer(1), (1,)),
        "watermark": Rule(_boolean, (False,)),
        "details": Rule(_boolean, (False,)),
        "decoder_input_details": Rule(_boolean, (False,)),
        "top_n_tokens": Rule(_integer(0, 20), (0,)),
        "grammar": Rule(_grammar),
        "adapter_id": Rule(_text, ("",)),
        "return_full_text": Rule(_boolean),
    }
)
"""The parameters that at least one engine can do."""

SAME: Mapping[str, str] = MappingProxyType(
    {
        "stop_strings": "stop",
        "stop_sequences": "stop",
        "stop_sequence": "stop",
        "eos_token_id": "stop_token_ids",
        "prompt_truncation": "truncate",
    }
)
"""Other names in use for the same thing."""

_BEAMS = "inference servers that batch requests draw one sequence for each, without beams."
_TOKENS = "the caller's tokens are not known here; say it in text."
_INSIDE = "it changes how the model runs inside, which is the same for all requests of a server."
_TENSORS = "replies are text, not tensors."
_HELPER = "speculative decoding belongs to the server, not to one request."
_SCORES = "the engines have no such logits processor."

NOWHERE: Mapping[str, tuple[tuple[Any, ...], str]] = MappingProxyType(
    {
        "max_length": (
            (),
            "it counts the prompt too, whose length in tokens only the engine knows; use `max_new_tokens`.",
        ),
        "min_length": ((0,), "it counts the prompt too; use `min_new_tokens`."),
        "max_time": ((), "time is not the engine's to keep; close the connection, and the generation stops."),
        "early_stopping": ((False,), _BEAMS),
        "num_beams": ((1,), _BEAMS),
        "num_beam_groups": ((1,), _BEAMS),
        "diversity_penalty": ((0, 0.0), _BEAMS),
        "length_penalty": ((1, 1.0), _BEAMS),
        "constraints": ((), _BEAMS),
        "force_words_ids": ((), _BEAMS),
        "num_return_sequences": ((1,), "one request gives one sequence; send it as often as you need."),
        "penalty_alpha": ((0, 0.0), "the engines have no contrastive search."),
        "dola_layers": ((), "the engines have no DoLa decoding."),
        "epsilon_cutoff": ((0, 0.0), _SCORES),
        "eta_cutoff": ((0, 0.0), _SCORES),
        "top_h": ((), _SCORES),
        "encoder_repetition_penalty": ((1, 1.0), _SCORES),
        "no_repeat_ngram_size": ((0,), _SCORES),
        "encoder_no_repeat_ngram_size": ((0,), _SCORES),
        "renormalize_logits": ((False,), _SCORES),
        "remove_invalid_values": ((False,), _SCORES),
        "exponential_decay_length_penalty": ((), _SCORES),
        "sequence_bias": (([], {}), _SCORES),
        "token_healing": ((False,), _SCORES),
        "guidance_scale": ((1, 1.0), "the engines have no classifier-free guidance."),
        "negative_prompt_ids": ((), "the engines have no classifier-free guidance."),
        "negative_prompt_attention_mask": ((), "the engines have no classifier-free guidance."),
        "logits_processor": (([],), "code cannot be sent."),
        "stopping_criteria": (([],), "code cannot be sent; use `stop`."),
        "prefix_allowed_tokens_fn": ((), "code cannot be sent; use `grammar`."),
        "custom_generate": ((), "code cannot be sent."),
        "streamer": ((), "use `stream`."),
        "bad_words_ids": (([],), "sequences of tokens cannot be banned; `suppress_tokens` bans single ones."),
        "begin_suppress_tokens": (([],), _SCORES),
        "forced_bos_token_id": ((), _SCORES),
        "forced_eos_token_id": ((), _SCORES),
        "forced_decoder_ids": ((), _SCORES),
        "bos_token_id": ((), _TOKENS),
        "pad_token_id": ((), _TOKENS),
        "decoder_start_token_id": ((), _TOKENS),
        "watermarking_config": ((), "use `watermark` where the engine is TGI."),
        "use_cache": ((True,), _INSIDE),
        "cache_implementation": ((), _INSIDE),
        "cache_config": ((), _INSIDE),
        "return_legacy_cache": ((False, True), _INSIDE),
        "prefill_chunk_size": ((), _INSIDE),
        "low_memory": ((False,), _INSIDE),
        "compile_config": ((), _INSIDE),
        "disable_compile": ((False, True), _INSIDE),
        "synced_gpus": ((False,), _INSIDE),
        "continuous_batching_config": ((), _INSIDE),
        "use_model_defaults": ((False,), "defaults are the same for every model here; say what you want."),
        "generation_config": ((), "send its fields."),
        "generation_kwargs": (({},), "send its fields."),
        "output_attentions": ((False,), _TENSORS),
        "output_hidden_states": ((False,), _TENSORS),
        "output_scores": ((False,), "use `details` and `top_n_tokens`."),
        "output_logits": ((False,), "use `details` and `top_n_tokens`."),
        "return_dict_in_generate": ((False, True), _TENSORS),
        "return_tensors": ((False,), _TENSORS),
        "return_text": ((True,), _TENSORS),
        "is_assistant": ((False,), _HELPER),
        "assistant_model": ((), _HELPER),
        "num_assistant_tokens": ((), _HELPER),
        "num_assistant_tokens_schedule": ((), _HELPER),
        "assistant_confidence_threshold": ((), _HELPER),
        "prompt_lookup_num_tokens": ((), _HELPER),
        "max_matching_ngram_size": ((), _HELPER),
        "assistant_early_exit": ((), _HELPER),
        "assistant_lookbehind": ((), _HELPER),
        "target_lookbehind": ((), _HELPER),
        "clean_up_tokenization_spaces": ((False,), "text is returned as the model wrote it."),
        "prefix": (("",), "put it in front of the prompt."),
        "handle_long_generation": ((), "a prompt that is too long is refused; use `truncate` where the engine has it."),
        "tokenizer_encode_kwargs": (({},), "the engine's own tokenizer settings hold."),
        "truncation": ((False,), "use `truncate`."),
        "padding": ((False, True), "padding belongs to batches, and the engine makes those."),
        "add_special_tokens": ((True,), "the engine's own tokenizer settings hold."),
        "skip_special_tokens": ((True,), "special tokens are never part of the text."),
        "continue_final_message": ((False,), "it belongs to chats; use /v1/chat/completions."),
    }
)
"""Parameters that no engine can do: the values that change nothing, and the reason."""


def read(given: Mapping[str, object], field: str) -> dict[str, Any]:
    """The parameters in ``given``, checked, under their names in `READ`.

    ``field`` is the caller's name for the object. Raises `InvalidRequest` for a wrong value or a name that nobody knows,
    `Unprocessable` for one that no engine can do.
    """
    found: dict[str, Any] = {}
    off = False
    for name, value in given.items():
        if value is None:
            continue
        rule = READ.get(known := SAME.get(name, name))
        if rule is None:
            _refuse_unless_idle(name, value, field)
            continue
        try:
            value = rule.read(value)
        except _Wrong as wanted:
            raise InvalidRequest(f"`{field}.{name}` must be {wanted}.", param=f"{field}.{name}") from None
        if value not in rule.idle:
            found[known] = value
        elif known == "do_sample":
            off = True
    if found.get("temperature") == 0 or off:
        # Everybody means greedy by these two, though TGI itself refuses the one and samples in spite of the other.
        for name in (*WARPERS, "do_sample"):
            found.pop(name, None)
    return found


def _refuse_unless_idle(name: str, value: object, field: str) -> None:
    where = f"{field}.{name[:64]}"
    if name not in NOWHERE:
        near = difflib.get_close_matches(name[:64], (*READ, *SAME, *NOWHERE), 1)
        hint = f"; did you mean `{near[0]}`?" if near else "."
        raise InvalidRequest(f"`{where}` is not a generation parameter{hint}", code="unknown_parameter", param=where)
    idle, reason = NOWHERE[name]
    if not any(value == calm and isinstance(value, bool) == isinstance(calm, bool) for calm in idle):
        raise Unprocessable(f"`{where}` cannot be used here: {reason}", code="unsupported_parameter", param=where)
