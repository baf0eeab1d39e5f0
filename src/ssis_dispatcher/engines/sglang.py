"""SGLang: OpenAI's interface, and a ``/generate`` of its own that tells token ids and why a generation ended.

Facts from its documentation, server arguments and ``SamplingParams`` (0.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from ssis_dispatcher.engines.base import Ask, Command, Options
from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.engines.replies import Finish, Piece, Reason, Token, understood
from ssis_dispatcher.engines.routes import Routes
from ssis_dispatcher.engines.variables import Setting, choice, renamed, translate, whole
from ssis_dispatcher.errors import UpstreamError

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "max_new_tokens": "max_new_tokens",
        "min_new_tokens": "min_new_tokens",
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "repetition_penalty": "repetition_penalty",
        "frequency_penalty": "frequency_penalty",
        "presence_penalty": "presence_penalty",
        "stop": "stop",
        "stop_token_ids": "stop_token_ids",
    }
)
"""Parameters that go into ``sampling_params``."""

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "typical_p": "SGLang has no typical sampling; use `top_p`.",
        "truncate": "SGLang does not shorten prompts; it refuses those that do not fit.",
        "best_of": "SGLang does not rank several attempts; use 1.",
        "watermark": "SGLang has no watermarking.",
        "adapter_id": "SGLang knows only adapters that were there when the server started.",
    }
)

NEUTRAL: Mapping[str, Any] = MappingProxyType(
    {"max_new_tokens": None, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
)
"""What an absent parameter means in TGI's terms: the rest of the context (128 tokens by default)."""

SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "DTYPE": Setting("dtype", choice("float16", "bfloat16")),
        "QUANTIZE": Setting(
            "quantization",
            renamed(
                {
                    "awq": "awq",
                    "gptq": "gptq",
                    "marlin": "marlin",
                    "fp8": "fp8",
                    "compressed-tensors": "compressed-tensors",
                    "bitsandbytes-nf4": "bitsandbytes",
                }
            ),
        ),
        "KV_CACHE_DTYPE": Setting("kv-cache-dtype", renamed({"fp8_e4m3fn": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"})),
        "MAX_BATCH_PREFILL_TOKENS": Setting("max-prefill-tokens", whole(1, 10_000_000)),
        "CUDA_GRAPHS": Setting("disable-cuda-graph", renamed({"0": "true"})),
    }
)

_NONE = "SGLang has nothing like it."
_BATCH = "SGLang makes up batches from the memory it has."

REFUSED_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "MAX_INPUT_TOKENS": "SGLang has one limit for prompt and answer together; use MAX_TOTAL_TOKENS.",
        "MAX_INPUT_LENGTH": "SGLang has one limit for prompt and answer together; use MAX_TOTAL_TOKENS.",
        "MAX_BATCH_TOTAL_TOKENS": _BATCH,
        "MAX_BATCH_SIZE": _BATCH,
        "WAITING_SERVED_RATIO": _BATCH,
        "MAX_WAITING_TOKENS": _BATCH,
        "MAX_CLIENT_BATCH_SIZE": _NONE,
        "MAX_BEST_OF": _NONE,
        "MAX_STOP_SEQUENCES": "SGLang has no such limit.",
        "MAX_TOP_N_TOKENS": "SGLang has no such limit.",
        "SPECULATE": "speculative decoding needs a draft model, which is the operator's to choose.",
        "ROPE_SCALING": "SGLang takes it from the model's configuration.",
        "ROPE_FACTOR": "SGLang takes it from the model's configuration.",
        "LORA_ADAPTERS": "adapters are the operator's to set, in the catalogue.",
        "DISABLE_CUSTOM_KERNELS": _NONE,
        "DISABLE_GRAMMAR_SUPPORT": _NONE,
        "ENABLE_PREFILL_LOGPROBS": "SGLang gives them to whoever asks.",
        "VALIDATION_WORKERS": _NONE,
    }
)

ROUTES = Routes(
    "SGLang",
    # Not /server_info: it tells the server's arguments, keys among them.
    get=frozenset(
        {"/health", "/health_generate", "/ready", "/get_model_info", "/model_info", "/metrics", "/v1/models"}
    ),
    post=frozenset(
        {"/generate", "/encode", "/classify", "/tokenize", "/detokenize"}
        | {f"/v1/{name}" for name in ("completions", "chat/completions", "responses", "embeddings", "score", "rerank")}
        | {"/v1/messages", "/v1/tokenize", "/v1/detokenize", "/v1/classify"}
    ),
    absent=MappingProxyType(
        {
            "/v1/load_lora_adapter": "it would change the server for everybody; adapters are the operator's to set.",
            "/v1/unload_lora_adapter": "it would change the server for everybody; adapters are the operator's to set.",
            "/v1/images/generations": "SGLang makes no images with language models.",
            "/v1/moderations": "SGLang has no moderation models.",
        }
    ),
)


class SGLang:
    """SGLang."""

    name = "sglang"
    health = "/health"
    seats = 256
    dialects = frozenset({"openai"})

    def command(self, options: Options) -> Command:
        """Arguments of ``sglang.launch_server``. The static share of memory (weights and KV cache) is SGLang's own choice,
        unless the slice is a share of what it sees."""
        argv = [
            *("--model-path", options.model, "--served-model-name", options.served_as),
            *("--host", options.host, "--port", str(options.port)),
            *("--context-length", str(options.context), "--max-running-requests", str(options.seats)),
            "--enable-metrics",
        ]
        if options.gpus > 1:
            argv += ["--tp-size", str(options.gpus)]
        if options.revision:
            argv += ["--revision", options.revision]
        if options.device_mib > options.memory_mib:
            argv += ["--mem-fraction-static", f"{0.85 * options.memory_mib / options.device_mib:.4f}"]
        for name, value in options.arguments:
            argv += [f"--{name}"] if value == "true" else [f"--{name}", value]
        return Command(tuple(argv), (), ("python3", "-m", "sglang.launch_server"))

    def environment(self, env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return translate(env, "SGLang", SETTINGS, REFUSED_VARIABLES)

    def refusal(self, method: str, path: str) -> str:
        return ROUTES.refusal(method, path)

    def ask(self, generation: Generation, served_as: str) -> Ask:
        """POST /generate. Raises `Unprocessable`."""
        given = generation.parameters
        sampling: dict[str, Any] = {**NEUTRAL, "no_stop_trim": True}
        if generation.greedy:
            sampling["temperature"] = 0.0
        elif "seed" in given:
            raise generation.refuse("seed", "SGLang draws from one source for all requests of a server.")
        sampling.update(generation.mapped(FIELDS, REFUSED))
        if "suppress_tokens" in given:
            sampling["logit_bias"] = {str(token): -100.0 for token in given["suppress_tokens"]}
        if "grammar" in given:
            ((kind, value),) = given["grammar"].items()
            sampling |= {"regex": value} if kind == "regex" else {"json_schema": msgspec.json.encode(value).decode()}
        body: dict[str, Any] = {"text": generation.prompt, "sampling_params": sampling, "stream": generation.stream}
        if generation.logprobs or "decoder_input_details" in given:
            body |= {"return_logprob": True, "return_text_in_logprobs": True}
            body["top_logprobs_num"] = given.get("top_n_tokens", 0)
            body["logprob_start_len"] = 0 if "decoder_input_details" in given else -1
        return Ask("/generate", msgspec.json.encode(body), SGLangReader())


_Entry = tuple[float | None, int, str | None]


class _End(msgspec.Struct):
    type: str = ""
    matched: int | str | list[int] | None = None
    message: str = ""


class _Meta(msgspec.Struct):
    finish_reason: _End | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_token_logprobs: list[_Entry] | None = None
    output_token_logprobs: list[_Entry] | None = None
    output_top_logprobs: list[list[_Entry] | None] | None = None


class _Error(msgspec.Struct):
    message: str = ""


class _Generated(msgspec.Struct):
    """``/generate``'s reply, and each event of its stream."""

    text: str = ""
    output_ids: list[int] = []
    meta_info: _Meta = msgspec.field(default_factory=_Meta)
    error: _Error | str | None = None


_generated = msgspec.json.Decoder(_Generated).decode


class SGLangReader:
    """Reads ``/generate``. Each event of its stream repeats all that came before (unless the server was told to send
    only what is new, which shows in fewer ids than tokens), so what was already read is counted and left out."""

    def __init__(self) -> None:
        self._text = 0
        self._tokens = 0

    def whole(self, body: bytes) -> tuple[Piece, Finish]:
        reply = _checked(body)
        finish = _finish(reply.meta_info)
        if finish is None:
            raise UpstreamError("The inference server sent a generation without an end.")
        return _piece(reply, 0, 0), finish

    def event(self, data: bytes) -> tuple[Piece | None, Finish | None]:
        if data == b"[DONE]":
            return None, None
        reply = _checked(data)
        repeats = len(reply.output_ids) == (reply.meta_info.completion_tokens or 0)
        piece = _piece(reply, self._text if repeats else 0, self._tokens if repeats else 0)
        self._text = len(reply.text) if repeats else self._text + len(reply.text)
        self._tokens = len(reply.output_ids) if repeats else self._tokens + len(reply.output_ids)
        return (piece if piece.text or piece.tokens else None), _finish(reply.meta_info)


def _checked(data: bytes) -> _Generated:
    reply = understood(_generated, data)
    if reply.error is not None:
        message = reply.error if isinstance(reply.error, str) else reply.error.message
        raise UpstreamError(f"The inference server stopped with an error: {message}")
    return reply


def _piece(reply: _Generated, text: int, tokens: int) -> Piece:
    """What is new after ``text`` characters and ``tokens`` tokens."""
    new, ids, meta = reply.text[text:], reply.output_ids[tokens:], reply.meta_info
    if meta.output_token_logprobs is None:
        return Piece(new, (Token(ids[-1], new),) if ids else ())
    entries = meta.output_token_logprobs[tokens:]
    top = (meta.output_top_logprobs or [])[tokens:]
    return Piece(new, _tokens(entries), tuple(_tokens(others or ()) for others in top))


def _tokens(entries: list[_Entry] | tuple[()]) -> tuple[Token, ...]:
    return tuple(Token(id, text or "", logprob) for logprob, id, text in entries)


def _finish(meta: _Meta) -> Finish | None:
    end = meta.finish_reason
    if end is None:
        return None
    if end.type == "length":
        reason = Reason.LENGTH
    elif end.type == "stop":
        reason = Reason.STOP if isinstance(end.matched, str) else Reason.EOS
    else:
        raise UpstreamError(f"The inference server gave up on a generation: {end.message or end.type}")
    return Finish(reason, meta.completion_tokens, meta.prompt_tokens, _tokens(meta.input_token_logprobs or ()))
