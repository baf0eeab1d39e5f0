"""vLLM: OpenAI's interface with vLLM's additions. Facts from its documentation and protocol classes (0.33)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from ssis_dispatcher.engines.base import Ask, Command, Options
from ssis_dispatcher.engines.completions import CompletionsReader
from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.engines.routes import Routes
from ssis_dispatcher.engines.variables import Setting, choice, renamed, translate, whole

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "max_new_tokens": "max_tokens",
        "min_new_tokens": "min_tokens",
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "repetition_penalty": "repetition_penalty",
        "frequency_penalty": "frequency_penalty",
        "presence_penalty": "presence_penalty",
        "stop": "stop",
        "stop_token_ids": "stop_token_ids",
        "truncate": "truncate_prompt_tokens",
        "top_n_tokens": "logprobs",
    }
)

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "typical_p": "vLLM has no typical sampling; use `top_p`.",
        "best_of": "vLLM does not rank several attempts; use 1.",
        "watermark": "vLLM has no watermarking of this kind.",
        "adapter_id": "an adapter is a model of its own with vLLM.",
    }
)

NEUTRAL: Mapping[str, Any] = MappingProxyType(
    {"max_tokens": None, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
)
"""What an absent parameter means in TGI's terms: the rest of the context (16 tokens by default), and not what the model's
own generation_config.json says."""

SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "DTYPE": Setting("dtype", choice("float16", "bfloat16")),
        "QUANTIZE": Setting(
            "quantization",
            renamed(
                {
                    "awq": "awq",
                    "gptq": "gptq",
                    "fp8": "fp8",
                    "compressed-tensors": "compressed-tensors",
                    "bitsandbytes-nf4": "bitsandbytes",
                }
            ),
        ),
        "KV_CACHE_DTYPE": Setting("kv-cache-dtype", renamed({"fp8_e4m3fn": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"})),
        "MAX_BATCH_PREFILL_TOKENS": Setting("max-num-batched-tokens", whole(1, 10_000_000)),
        "MAX_TOP_N_TOKENS": Setting("max-logprobs", whole(1, 64)),
        "CUDA_GRAPHS": Setting("enforce-eager", renamed({"0": "true"})),
    }
)

_NONE = "vLLM has nothing like it."
_BATCH = "vLLM makes up batches from the memory it has."

REFUSED_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "MAX_INPUT_TOKENS": "vLLM has one limit for prompt and answer together; use MAX_TOTAL_TOKENS.",
        "MAX_INPUT_LENGTH": "vLLM has one limit for prompt and answer together; use MAX_TOTAL_TOKENS.",
        "MAX_BATCH_TOTAL_TOKENS": _BATCH,
        "MAX_BATCH_SIZE": _BATCH,
        "WAITING_SERVED_RATIO": _BATCH,
        "MAX_WAITING_TOKENS": _BATCH,
        "MAX_CLIENT_BATCH_SIZE": _NONE,
        "MAX_BEST_OF": _NONE,
        "MAX_STOP_SEQUENCES": "vLLM has no such limit.",
        "SPECULATE": "speculative decoding needs a draft model, which is the operator's to choose.",
        "ROPE_SCALING": "vLLM takes it from the model's configuration.",
        "ROPE_FACTOR": "vLLM takes it from the model's configuration.",
        "LORA_ADAPTERS": "adapters are the operator's to set, in the catalogue.",
        "DISABLE_CUSTOM_KERNELS": _NONE,
        "DISABLE_GRAMMAR_SUPPORT": _NONE,
        "ENABLE_PREFILL_LOGPROBS": "vLLM gives them to whoever asks.",
        "VALIDATION_WORKERS": _NONE,
    }
)

ROUTES = Routes(
    "vLLM",
    get=frozenset({"/health", "/ping", "/version", "/load", "/metrics", "/v1/models"}),
    post=frozenset(
        {"/tokenize", "/detokenize", "/pooling", "/classify", "/score", "/rerank", "/v2/rerank", "/invocations"}
        | {f"/v1/{name}" for name in ("completions", "chat/completions", "responses", "embeddings", "score", "rerank")}
        | {"/v1/messages", "/v1/audio/transcriptions", "/v1/audio/translations"}
    ),
    absent=MappingProxyType(
        {
            "/v1/load_lora_adapter": "it would change the server for everybody; adapters are the operator's to set.",
            "/v1/unload_lora_adapter": "it would change the server for everybody; adapters are the operator's to set.",
            "/v1/images/generations": "vLLM makes no images.",
            "/v1/moderations": "vLLM has no moderation models.",
        }
    ),
)


class VLLM:
    """vLLM."""

    name = "vllm"
    health = "/health"
    seats = 256
    dialects = frozenset({"openai"})

    def command(self, options: Options) -> Command:
        """Arguments of ``vllm serve``. The KV cache gets its absolute size where the plan knows it; else a share of the
        memory that vLLM sees, which under MPS is the whole card."""
        argv = [
            *(options.model, "--served-model-name", options.served_as),
            *("--host", options.host, "--port", str(options.port)),
            *("--max-model-len", str(options.context), "--max-num-seqs", str(options.seats)),
        ]
        if options.gpus > 1:
            argv += ["--tensor-parallel-size", str(options.gpus)]
        if options.revision:
            argv += ["--revision", options.revision, "--tokenizer-revision", options.revision]
        if options.kv_mib:
            argv += ["--kv-cache-memory-bytes", str((options.kv_mib << 20) // max(options.gpus, 1))]
        elif options.device_mib > options.memory_mib:
            argv += ["--gpu-memory-utilization", f"{0.92 * options.memory_mib / options.device_mib:.4f}"]
        for name, value in options.arguments:
            argv += [f"--{name}"] if value == "true" else [f"--{name}", value]
        return Command(tuple(argv), (("VLLM_NO_USAGE_STATS", "1"), ("DO_NOT_TRACK", "1")), ("vllm", "serve"))

    def environment(self, env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return translate(env, "vLLM", SETTINGS, REFUSED_VARIABLES)

    def refusal(self, method: str, path: str) -> str:
        return ROUTES.refusal(method, path)

    def ask(self, generation: Generation, served_as: str) -> Ask:
        """POST /v1/completions. Raises `Unprocessable`."""
        given = generation.parameters
        body: dict[str, Any] = {
            "model": served_as,
            "prompt": generation.prompt,
            "stream": generation.stream,
            **NEUTRAL,
            "include_stop_str_in_output": True,
            "return_token_ids": True,
        }
        if generation.stream:
            body["stream_options"] = {"include_usage": True}
        if generation.greedy:
            body["temperature"] = 0.0
        body.update(generation.mapped(FIELDS, REFUSED))
        if "seed" in given:
            body["seed"] = given["seed"] % 2**63
        if "suppress_tokens" in given:
            body["logit_bias"] = {str(token): -100 for token in given["suppress_tokens"]}
        if "grammar" in given:
            body["structured_outputs"] = given["grammar"]
        if generation.logprobs:
            body.setdefault("logprobs", 0)
        if "decoder_input_details" in given:
            if generation.stream:
                raise generation.refuse("decoder_input_details", "vLLM does not tell it in a stream.")
            body["prompt_logprobs"] = 0
        return Ask("/v1/completions", msgspec.json.encode(body), CompletionsReader())
