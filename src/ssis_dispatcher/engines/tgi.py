"""Text Generation Inference: the engine whose wire format the ssis and tgi dialects speak.

Its launcher takes everything from the environment; its replies need no reading, since they are what callers expect.
Facts from its launcher reference, router and server (version 3.3; the project is archived, so they do not change).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from ssis_dispatcher.engines.base import Ask, Command, Options
from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.engines.routes import Routes
from ssis_dispatcher.engines.variables import Setting, choice, matching, number, switched_on, translate, whole
from ssis_dispatcher.errors import Unprocessable

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        name: name
        for name in (
            *("best_of", "temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p"),
            *("do_sample", "max_new_tokens", "return_full_text", "stop", "truncate", "watermark", "details"),
            *("decoder_input_details", "seed", "top_n_tokens", "adapter_id"),
        )
    }
)
"""Parameters that TGI takes under the same name."""

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "min_new_tokens": "TGI has no minimum length.",
        "min_p": "TGI has no min-p sampling; use `top_p`.",
        "presence_penalty": "TGI has `frequency_penalty` and `repetition_penalty` only.",
        "stop_token_ids": "TGI stops at text, not at token ids; use `stop`.",
        "suppress_tokens": "TGI cannot ban tokens.",
    }
)

QUANTIZE = (
    *("awq", "compressed-tensors", "eetq", "exl2", "gptq", "marlin", "fp8"),
    *("bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4"),
)

SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        name: Setting(name, read)
        for name, read in {
            "QUANTIZE": choice(*QUANTIZE),
            "DTYPE": choice("float16", "bfloat16"),
            "KV_CACHE_DTYPE": choice("fp8_e4m3fn", "fp8_e5m2"),
            "MAX_INPUT_TOKENS": whole(1, 10_000_000),
            "MAX_BATCH_PREFILL_TOKENS": whole(1, 10_000_000),
            "MAX_BATCH_TOTAL_TOKENS": whole(1, 100_000_000),
            "MAX_BATCH_SIZE": whole(1, 4096),
            "MAX_CLIENT_BATCH_SIZE": whole(1, 128),
            "MAX_BEST_OF": whole(1, 16),
            "MAX_STOP_SEQUENCES": whole(1, 64),
            "MAX_TOP_N_TOKENS": whole(1, 64),
            "WAITING_SERVED_RATIO": number(0, 100),
            "MAX_WAITING_TOKENS": whole(1, 100_000),
            "CUDA_GRAPHS": matching(r"\d{1,4}(,\d{1,4}){0,63}", "batch sizes separated by commas, or 0"),
            "SPECULATE": whole(1, 16),
            "ROPE_SCALING": choice("linear", "dynamic"),
            "ROPE_FACTOR": number(1, 64),
            "DISABLE_CUSTOM_KERNELS": switched_on,
            "DISABLE_GRAMMAR_SUPPORT": switched_on,
            "ENABLE_PREFILL_LOGPROBS": switched_on,
            "VALIDATION_WORKERS": whole(1, 16),
            "LORA_ADAPTERS": matching(
                r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(,[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?){0,15}",
                "hub ids separated by commas",
            ),
        }.items()
    }
    # The older name of the same thing.
    | {"MAX_INPUT_LENGTH": Setting("MAX_INPUT_TOKENS", whole(1, 10_000_000))}
)

ROUTES = Routes(
    "TGI",
    get=frozenset({"/", "/health", "/ping", "/info", "/metrics", "/v1/models"}),
    post=frozenset(
        {"/", "/generate", "/generate_stream", "/tokenize", "/chat_tokenize", "/invocations", "/vertex"}
        | {"/v1/chat/completions", "/v1/completions"}
    ),
    absent=MappingProxyType(
        {
            "/v1/embeddings": "TGI generates text only; embeddings need another engine (vllm, sglang, llamacpp).",
            "/v1/responses": "TGI has no responses API; use /v1/chat/completions.",
        }
    ),
    open_v1=False,
)


class TGI:
    """Text Generation Inference."""

    name = "tgi"
    health = "/health"
    seats = 128
    dialects = frozenset({"openai", "tgi"})

    def command(self, options: Options) -> Command:
        """Environment alone starts it. Prefill is bounded by hand, because TGI sizes it by the memory and the name of the
        whole card, which on a MIG or MPS slice is not what it has. Where the slice is a share of what it sees, the tenth
        of the *card* that it keeps free (``TGI_WIGGLE_ROOM``) becomes a tenth of the slice."""
        env = {
            "MODEL_ID": options.model,
            "HOSTNAME": options.host,
            "PORT": str(options.port),
            "NUM_SHARD": str(max(options.gpus, 1)),
            "MAX_TOTAL_TOKENS": str(options.context),
            "MAX_INPUT_TOKENS": str(options.context - 1),
            "MAX_BATCH_PREFILL_TOKENS": str(options.context),
            # Seats are the dispatcher's to count; this only has to be more, for callers who leave and are not yet gone.
            "MAX_CONCURRENT_REQUESTS": str(2 * options.seats + 8),
            "CUDA_MEMORY_FRACTION": "1.0",
            "PAYLOAD_LIMIT": "67108864",  # the dispatcher's own limit is the one that counts
            "USAGE_STATS": "off",
        }
        if options.revision:
            env["REVISION"] = options.revision
        if options.device_mib > options.memory_mib:
            env["TGI_WIGGLE_ROOM"] = f"{1 - 0.1 * options.memory_mib / options.device_mib:.4f}"
        env |= dict(options.arguments)
        return Command((), tuple(env.items()), ("text-generation-launcher",))

    def environment(self, env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        found = translate(env, "TGI", SETTINGS, {})
        if {"DTYPE", "QUANTIZE"} <= {name for name, _ in found}:
            raise Unprocessable(
                "`env.DTYPE` cannot be set here: TGI does not take it together with QUANTIZE.",
                code="unsupported_variable",
                param="env.DTYPE",
            )
        return found

    def refusal(self, method: str, path: str) -> str:
        return ROUTES.refusal(method, path)

    def ask(self, generation: Generation, served_as: str) -> Ask:
        """POST /. Raises `Unprocessable`."""
        parameters = generation.mapped(FIELDS, REFUSED)
        if (grammar := generation.parameters.get("grammar")) is not None:
            ((kind, value),) = grammar.items()
            parameters["grammar"] = {"type": kind, "value": value}
        body = {"inputs": generation.prompt, "parameters": parameters, "stream": generation.stream}
        return Ask("/", msgspec.json.encode(body), None)
