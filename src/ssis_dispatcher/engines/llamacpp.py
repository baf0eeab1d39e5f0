"""llama.cpp's server: the embedded runtime, and its container images.

Generations go to its own ``/completion``, not to ``/v1/completions``: there it tells token ids, which stop string was
met, and why it ended. Facts from its README (tools/server) and from the running server.
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
from ssis_dispatcher.engines.variables import Setting, choice, number, translate, whole
from ssis_dispatcher.errors import UpstreamError

FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "max_new_tokens": "n_predict",
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "typical_p": "typical_p",
        "min_p": "min_p",
        "repetition_penalty": "repeat_penalty",
        "frequency_penalty": "frequency_penalty",
        "presence_penalty": "presence_penalty",
        "stop": "stop",
        "top_n_tokens": "n_probs",
    }
)
"""Parameters that only have another name here."""

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "min_new_tokens": "llama.cpp has no minimum length.",
        "stop_token_ids": "llama.cpp stops at text, not at token ids; use `stop`.",
        "truncate": "llama.cpp does not shorten prompts; it refuses those that do not fit.",
        "best_of": "llama.cpp does not rank several attempts; use 1.",
        "watermark": "llama.cpp has no watermarking.",
        "decoder_input_details": "llama.cpp does not tell the probabilities of the prompt.",
        "adapter_id": "llama.cpp chooses adapters when the server starts, not per request.",
    }
)

NEUTRAL: Mapping[str, Any] = MappingProxyType(
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "n_predict": -1}
)
"""What an absent parameter means in TGI's terms; llama.cpp's own defaults (0.8, 40, 0.95, 0.05) differ."""

SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "ROPE_SCALING": Setting("LLAMA_ARG_ROPE_SCALING_TYPE", choice("linear")),
        "ROPE_FACTOR": Setting("LLAMA_ARG_ROPE_SCALE", number(1, 64)),
        "MAX_BATCH_PREFILL_TOKENS": Setting("LLAMA_ARG_BATCH", whole(32, 65536)),
    }
)

_FILE = "the GGUF file decides that; name the one you want, as in org/name:Q8_0."
_TGI = "llama.cpp has nothing like it."

REFUSED_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "QUANTIZE": _FILE,
        "DTYPE": _FILE,
        "KV_CACHE_DTYPE": "the fp8 formats it names are not llama.cpp's.",
        "MAX_INPUT_TOKENS": "llama.cpp has one limit for prompt and answer together; use MAX_TOTAL_TOKENS.",
        "MAX_INPUT_LENGTH": "llama.cpp has one limit for prompt and answer together; use MAX_TOTAL_TOKENS.",
        "CUDA_GRAPHS": _TGI,
        "SPECULATE": _TGI,
        "LORA_ADAPTERS": "adapters are files on the server, the operator's to set.",
        "MAX_BATCH_TOTAL_TOKENS": "it follows from the context and the number of seats.",
        "MAX_BATCH_SIZE": "it follows from the number of seats.",
        "MAX_CLIENT_BATCH_SIZE": _TGI,
        "MAX_BEST_OF": _TGI,
        "MAX_STOP_SEQUENCES": "llama.cpp has no such limit.",
        "MAX_TOP_N_TOKENS": "llama.cpp has no such limit.",
        "WAITING_SERVED_RATIO": _TGI,
        "MAX_WAITING_TOKENS": _TGI,
        "DISABLE_CUSTOM_KERNELS": _TGI,
        "DISABLE_GRAMMAR_SUPPORT": _TGI,
        "ENABLE_PREFILL_LOGPROBS": _TGI,
        "VALIDATION_WORKERS": _TGI,
    }
)

ROUTES = Routes(
    "llama.cpp",
    # Not /slots and /props: they tell what other callers asked for, and where the operator's files lie.
    get=frozenset({"/health", "/v1/health", "/metrics", "/models", "/v1/models"}),
    post=frozenset(
        {"/completion", "/completions", "/chat/completions", "/infill", "/tokenize", "/detokenize", "/apply-template"}
        | {"/embedding", "/embeddings", "/rerank", "/reranking", "/responses"}
        | {
            f"/v1/{name}"
            for name in ("completions", "chat/completions", "responses", "embeddings", "rerank", "messages")
        }
    ),
    absent=MappingProxyType(
        {
            "/v1/images/generations": "llama.cpp makes no images.",
            "/v1/images/edits": "llama.cpp makes no images.",
            "/v1/audio/speech": "llama.cpp makes no speech.",
            "/v1/moderations": "llama.cpp has no moderation models.",
            "/v1/score": "llama.cpp has no scoring; it has /v1/rerank.",
        }
    ),
)


class LlamaCpp:
    """llama.cpp's server."""

    name = "llamacpp"
    health = "/health"
    seats = 16
    dialects = frozenset({"openai"})

    def command(self, options: Options) -> Command:
        """Environment alone starts it. ``LLAMA_ARG_CTX_SIZE`` is the context of all seats together: it is divided."""
        is_file = options.model.endswith(".gguf") or options.model.startswith(("/", "."))
        env = {
            "LLAMA_ARG_MODEL" if is_file else "LLAMA_ARG_HF_REPO": options.model,
            "LLAMA_ARG_ALIAS": options.served_as,
            "LLAMA_ARG_HOST": options.host,
            "LLAMA_ARG_PORT": str(options.port),
            "LLAMA_ARG_CTX_SIZE": str(options.context * options.seats),
            "LLAMA_ARG_N_PARALLEL": str(options.seats),
            "LLAMA_ARG_N_GPU_LAYERS": "99" if options.gpus else "0",
            "LLAMA_ARG_THREADS": str(options.threads),
            "LLAMA_ARG_ENDPOINT_METRICS": "1",
            # Without it, threads that wait spin, and two servers on one machine starve each other.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        return Command((), tuple((env | dict(options.arguments)).items()), ("llama-server",))

    def environment(self, env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return translate(env, "llama.cpp", SETTINGS, REFUSED_VARIABLES)

    def refusal(self, method: str, path: str) -> str:
        return ROUTES.refusal(method, path)

    def ask(self, generation: Generation, served_as: str) -> Ask:
        """POST /completion. Raises `Unprocessable`."""
        given = generation.parameters
        body: dict[str, Any] = {"prompt": generation.prompt, "stream": generation.stream, **NEUTRAL}
        if generation.greedy:
            body["temperature"] = 0.0
        body.update(generation.mapped(FIELDS, REFUSED))
        if "seed" in given:
            body["seed"] = given["seed"] % 0xFFFFFFFF  # 32 bits here, and the largest means "any"
        if "suppress_tokens" in given:
            body["logit_bias"] = [[token, False] for token in given["suppress_tokens"]]
        if given.keys() & {"repetition_penalty", "frequency_penalty", "presence_penalty"}:
            body["repeat_last_n"] = -1  # over the whole context, as everywhere else; 64 tokens by default
        if "grammar" in given:
            if "json" not in given["grammar"]:
                raise generation.refuse("grammar", "llama.cpp takes JSON schemas, not regular expressions.")
            body["json_schema"] = given["grammar"]["json"]
        if generation.logprobs:
            body.setdefault("n_probs", 1)
        return Ask("/completion", msgspec.json.encode(body), LlamaCppReader())


class _Probability(msgspec.Struct, gc=False):
    id: int
    token: str
    logprob: float | None = None
    top_logprobs: list[_Probability] = []

    def read(self) -> Token:
        return Token(self.id, self.token, self.logprob)


class _Error(msgspec.Struct):
    message: str = ""


class _Completion(msgspec.Struct):
    """``/completion``'s reply, and each event of its stream."""

    content: str = ""
    stop: bool = False
    stop_type: str = ""
    stopping_word: str = ""
    tokens: list[int] = []
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    completion_probabilities: list[_Probability] = []
    error: _Error | None = None


_completion = msgspec.json.Decoder(_Completion).decode
_REASONS = {"limit": Reason.LENGTH, "eos": Reason.EOS, "word": Reason.STOP}


class LlamaCppReader:
    """Reads ``/completion``. TGI leaves a stop string in the text, llama.cpp cuts it off: it is put back."""

    def whole(self, body: bytes) -> tuple[Piece, Finish]:
        reply = understood(_completion, body)
        piece = _piece(reply, reply.content + reply.stopping_word)
        return piece, _finish(reply)

    def event(self, data: bytes) -> tuple[Piece | None, Finish | None]:
        if data == b"[DONE]":
            return None, None
        reply = understood(_completion, data)
        if reply.error is not None:
            raise UpstreamError(f"The inference server stopped with an error: {reply.error.message}")
        if not reply.stop:
            return _piece(reply, reply.content), None
        rest = reply.content + reply.stopping_word
        return (_piece(reply, rest) if rest else None), _finish(reply)


def _piece(reply: _Completion, text: str) -> Piece:
    if reply.completion_probabilities:
        tokens = tuple(item.read() for item in reply.completion_probabilities)
        top = tuple(tuple(other.read() for other in item.top_logprobs) for item in reply.completion_probabilities)
        return Piece(text, tokens, top)
    return Piece(text, (Token(reply.tokens[-1], text),) if reply.tokens else ())


def _finish(reply: _Completion) -> Finish:
    reason = _REASONS.get(reply.stop_type)
    if reason is None:
        raise UpstreamError("The inference server ended a generation without saying why.")
    return Finish(reason, reply.tokens_predicted, reply.tokens_evaluated)
