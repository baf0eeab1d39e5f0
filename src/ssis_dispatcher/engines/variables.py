"""Environment variables that a caller may send with a model, and what becomes of them.

The seed's request carries ``env``, which the original program copied into the container whole. Here each variable of
TGI's launcher reference has an answer per engine: it becomes an engine argument (`Setting`), or it is refused by name
with the reason; every other name is refused. Values never appear in errors. Used by the engines, for
`Engine.environment`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from ssis_dispatcher.errors import Unprocessable

_OURS = "the dispatcher decides where a server listens and what it is called."
_SHARE = "it follows from the slice the model is placed on."
_SEATS = "how many requests run at once follows from the slice; it is not the caller's to set."
_PATHS = "paths on the server are the operator's to set."
_WATCH = "logs, traces and statistics are the operator's to set."
_CODE = "it would change which code or libraries the server runs."
_NET = "it would change where the server connects to."
_DEVICE = "the slice decides which device a server sees."
_NAMED = "it is part of how a model is named, and not passed on."

LAUNCHER = (
    *(
        "MODEL_ID",
        "REVISION",
        "HF_TOKEN",
        "VALIDATION_WORKERS",
        "SHARDED",
        "NUM_SHARD",
        "QUANTIZE",
        "SPECULATE",
        "DTYPE",
    ),
    *("KV_CACHE_DTYPE", "TRUST_REMOTE_CODE", "MAX_CONCURRENT_REQUESTS", "MAX_BEST_OF", "MAX_STOP_SEQUENCES"),
    *("MAX_TOP_N_TOKENS", "MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH", "MAX_TOTAL_TOKENS", "WAITING_SERVED_RATIO"),
    *("MAX_BATCH_PREFILL_TOKENS", "MAX_BATCH_TOTAL_TOKENS", "MAX_WAITING_TOKENS", "MAX_BATCH_SIZE", "CUDA_GRAPHS"),
    *("HOSTNAME", "PORT", "PROMETHEUS_PORT", "SHARD_UDS_PATH", "MASTER_ADDR", "MASTER_PORT", "HUGGINGFACE_HUB_CACHE"),
    *("WEIGHTS_CACHE_OVERRIDE", "DISABLE_CUSTOM_KERNELS", "CUDA_MEMORY_FRACTION", "ROPE_SCALING", "ROPE_FACTOR"),
    *("JSON_OUTPUT", "OTLP_ENDPOINT", "OTLP_SERVICE_NAME", "CORS_ALLOW_ORIGIN", "API_KEY", "WATERMARK_GAMMA"),
    *("WATERMARK_DELTA", "NGROK", "NGROK_AUTHTOKEN", "NGROK_EDGE", "TOKENIZER_CONFIG_PATH", "DISABLE_GRAMMAR_SUPPORT"),
    *("ENV", "MAX_CLIENT_BATCH_SIZE", "LORA_ADAPTERS", "USAGE_STATS", "PAYLOAD_LIMIT", "ENABLE_PREFILL_LOGPROBS"),
    *("GRACEFUL_TERMINATION_TIMEOUT",),
)
"""Every variable of TGI's launcher reference."""

GUARDED: Mapping[str, str] = MappingProxyType(
    {
        "MODEL_ID": _NAMED,
        "REVISION": _NAMED,
        "HF_TOKEN": _NAMED,
        "MAX_TOTAL_TOKENS": _NAMED,
        "HOSTNAME": _OURS,
        "HOST": _OURS,
        "PORT": _OURS,
        "PROMETHEUS_PORT": _OURS,
        "MASTER_ADDR": _OURS,
        "MASTER_PORT": _OURS,
        "SHARD_UDS_PATH": _OURS,
        "API_KEY": "callers show their key to the dispatcher, and servers are not reachable past it.",
        "CORS_ALLOW_ORIGIN": "browsers talk to the dispatcher, not to the server.",
        "PAYLOAD_LIMIT": "the dispatcher's own limit holds.",
        "GRACEFUL_TERMINATION_TIMEOUT": "the dispatcher decides how long a server may take to stop.",
        "MAX_CONCURRENT_REQUESTS": _SEATS,
        "SHARDED": _SHARE,
        "NUM_SHARD": _SHARE,
        "CUDA_MEMORY_FRACTION": _SHARE,
        "TGI_WIGGLE_ROOM": _SHARE,
        "HUGGINGFACE_HUB_CACHE": _PATHS,
        "WEIGHTS_CACHE_OVERRIDE": _PATHS,
        "TOKENIZER_CONFIG_PATH": _PATHS,
        "HF_HOME": _PATHS,
        "HF_HUB_CACHE": _PATHS,
        "TRANSFORMERS_CACHE": _PATHS,
        "HOME": _PATHS,
        "TMPDIR": _PATHS,
        "JSON_OUTPUT": _WATCH,
        "LOG_LEVEL": _WATCH,
        "RUST_LOG": _WATCH,
        "OTLP_ENDPOINT": _WATCH,
        "OTLP_SERVICE_NAME": _WATCH,
        "USAGE_STATS": _WATCH,
        "TRUST_REMOTE_CODE": "it would run code that came with the model; only the operator may allow that.",
        "WATERMARK_GAMMA": "the operator sets how watermarks are made, so that they can be found again.",
        "WATERMARK_DELTA": "the operator sets how watermarks are made, so that they can be found again.",
        "NGROK": _NET,
        "NGROK_AUTHTOKEN": _NET,
        "NGROK_EDGE": _NET,
        "ENV": "it would print the server's environment instead of serving.",
        "PATH": _CODE,
        "HF_ENDPOINT": _NET,
        "HF_HUB_OFFLINE": _NET,
        "CUDA_VISIBLE_DEVICES": _DEVICE,
        "HIP_VISIBLE_DEVICES": _DEVICE,
    }
)
"""Names with an answer of their own; everything in TGI's launcher reference that no engine takes is among them."""

_FAMILIES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"LD_|PYTHON|BASH|PERL5|RUBY|NODE_|JAVA_|GCONV|MALLOC|GLIBC|IFS$|ENV$|SHELL"), _CODE),
    (re.compile(r"(?i).*_proxy$|SSL_|REQUESTS_|CURL_"), _NET),
    (re.compile(r"NVIDIA_|CUDA_|NCCL_|GPU_|ROCR_|ZE_"), _DEVICE),
    (re.compile(r"K_|KUBERNETES_|POD_|SSIS_"), "it belongs to the platform."),
    (re.compile(r"OTEL_|LOG"), _WATCH),
)

IDLE: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "NUM_SHARD": frozenset({"1"}),
        "SHARDED": frozenset({"false"}),
        "TRUST_REMOTE_CODE": frozenset({"false", "0"}),
        "JSON_OUTPUT": frozenset({"false", "0"}),
        "USAGE_STATS": frozenset({"off"}),
        "SPECULATE": frozenset({"0"}),
        "DISABLE_CUSTOM_KERNELS": frozenset({"false", "0"}),
        "DISABLE_GRAMMAR_SUPPORT": frozenset({"false", "0"}),
        "ENABLE_PREFILL_LOGPROBS": frozenset({"false", "0"}),
    }
)
"""Values that ask for what is so anyway: accepted, and without effect on the model's identity."""


class Unfit(Exception):
    """A value that a setting cannot take; the text says what it can."""


class Setting(msgspec.Struct, frozen=True):
    """What a variable becomes: the engine's argument, and how its value is read (raises `Unfit`)."""

    argument: str
    read: Callable[[str], str]


def choice(*same: str, **others: str) -> Callable[[str], str]:
    """One of ``same``, unchanged, or of ``others``, renamed (underscores stand for hyphens there)."""
    table = {value: value for value in same} | {name.replace("_", "-"): value for name, value in others.items()}
    return renamed(table)


def renamed(table: Mapping[str, str]) -> Callable[[str], str]:
    """One of the keys of ``table``, as its value."""

    def read(value: str) -> str:
        if value not in table:
            raise Unfit(f"one of {', '.join(sorted(table))}")
        return table[value]

    return read


def whole(low: int, high: int) -> Callable[[str], str]:
    """A whole number within bounds."""

    def read(value: str) -> str:
        if not re.fullmatch(r"\d{1,12}", value) or not low <= int(value) <= high:
            raise Unfit(f"a whole number from {low} to {high}")
        return str(int(value))

    return read


def number(low: float, high: float) -> Callable[[str], str]:
    """A decimal number within bounds."""

    def read(value: str) -> str:
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value) or not low <= float(value) <= high:
            raise Unfit(f"a number from {low:g} to {high:g}")
        return f"{float(value):g}"

    return read


def matching(pattern: str, wanted: str) -> Callable[[str], str]:
    """Text that ``pattern`` matches as a whole."""
    compiled = re.compile(pattern)

    def read(value: str) -> str:
        if not compiled.fullmatch(value):
            raise Unfit(wanted)
        return value

    return read


def switched_on(value: str) -> str:
    """``true`` (a false one is dropped before, by `IDLE`)."""
    if value.lower() not in {"true", "1"}:
        raise Unfit("true or false")
    return "true"


def translate(
    env: Mapping[str, str], engine: str, settings: Mapping[str, Setting], refused: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """``env`` as sorted engine arguments. Raises `Unprocessable` that names the first variable that cannot be had, with
    the reason: ``refused`` holds those of this engine, `GUARDED` those of all."""
    found: dict[str, str] = {}
    for name in sorted(env):
        value = env[name].strip()
        if value == "" or value.lower() in IDLE.get(name, ()):
            continue
        setting = settings.get(name)
        if setting is None:
            raise _refused(name, engine, refused.get(name) or _reason(name))
        try:
            found[setting.argument] = setting.read(value)
        except Unfit as wanted:
            raise _refused(name, engine, f"with {engine} it must be {wanted}.") from None
    return tuple(sorted(found.items()))


def _refused(name: str, engine: str, reason: str) -> Unprocessable:
    where = f"env.{name[:64]}"
    return Unprocessable(f"`{where}` cannot be set here: {reason}", code="unsupported_variable", param=where)


def _reason(name: str) -> str:
    if (reason := GUARDED.get(name)) is not None:
        return reason
    for pattern, reason in _FAMILIES:
        if pattern.match(name):
            return reason
    return "it is not on the list of variables that a request may set."
