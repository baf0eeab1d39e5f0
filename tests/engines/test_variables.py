"""The caller's variables: every one has an answer, per engine, and none of them is silence."""

from __future__ import annotations

import pytest

from ssis_dispatcher.engines.registry import ENGINES
from ssis_dispatcher.engines.variables import GUARDED, LAUNCHER
from ssis_dispatcher.errors import Unprocessable

FIT = {
    "QUANTIZE": "awq",
    "DTYPE": "float16",
    "KV_CACHE_DTYPE": "fp8_e5m2",
    "MAX_INPUT_TOKENS": "100",
    "MAX_INPUT_LENGTH": "100",
    "MAX_BATCH_PREFILL_TOKENS": "4096",
    "MAX_BATCH_TOTAL_TOKENS": "8192",
    "MAX_BATCH_SIZE": "8",
    "MAX_CLIENT_BATCH_SIZE": "4",
    "MAX_BEST_OF": "2",
    "MAX_STOP_SEQUENCES": "4",
    "MAX_TOP_N_TOKENS": "5",
    "WAITING_SERVED_RATIO": "1.2",
    "MAX_WAITING_TOKENS": "20",
    "CUDA_GRAPHS": "0",
    "SPECULATE": "2",
    "ROPE_SCALING": "linear",
    "ROPE_FACTOR": "2.0",
    "DISABLE_CUSTOM_KERNELS": "true",
    "DISABLE_GRAMMAR_SUPPORT": "true",
    "ENABLE_PREFILL_LOGPROBS": "true",
    "VALIDATION_WORKERS": "2",
    "LORA_ADAPTERS": "org/one,org/two",
    "NUM_SHARD": "2",
    "SHARDED": "true",
    "TRUST_REMOTE_CODE": "true",
    "JSON_OUTPUT": "true",
    "USAGE_STATS": "on",
}
TAKEN = {
    "tgi": {
        *("QUANTIZE", "DTYPE", "KV_CACHE_DTYPE", "MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH", "MAX_BATCH_PREFILL_TOKENS"),
        *("MAX_BATCH_TOTAL_TOKENS", "MAX_BATCH_SIZE", "MAX_CLIENT_BATCH_SIZE", "MAX_BEST_OF", "MAX_STOP_SEQUENCES"),
        *("MAX_TOP_N_TOKENS", "WAITING_SERVED_RATIO", "MAX_WAITING_TOKENS", "CUDA_GRAPHS", "SPECULATE", "ROPE_SCALING"),
        *("ROPE_FACTOR", "DISABLE_CUSTOM_KERNELS", "DISABLE_GRAMMAR_SUPPORT", "ENABLE_PREFILL_LOGPROBS"),
        *("VALIDATION_WORKERS", "LORA_ADAPTERS"),
    },
    "vllm": {"QUANTIZE", "DTYPE", "KV_CACHE_DTYPE", "MAX_BATCH_PREFILL_TOKENS", "MAX_TOP_N_TOKENS", "CUDA_GRAPHS"},
    "sglang": {"QUANTIZE", "DTYPE", "KV_CACHE_DTYPE", "MAX_BATCH_PREFILL_TOKENS", "CUDA_GRAPHS"},
    "llamacpp": {"ROPE_SCALING", "ROPE_FACTOR", "MAX_BATCH_PREFILL_TOKENS"},
    "openai": set[str](),
}


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("name", LAUNCHER)
def test_each_launcher_variable_is_passed_or_refused_by_name_with_the_reason(engine: str, name: str) -> None:
    """The original program copied the caller's variables into the container without looking at them."""
    value = FIT.get(name, "1")
    if name in TAKEN[engine]:
        assert len(ENGINES[engine].environment({name: value})) == 1
        return
    with pytest.raises(Unprocessable) as caught:
        ENGINES[engine].environment({name: value})
    problem = caught.value.problem
    assert problem.param == f"env.{name}"
    assert problem.message.startswith(f"`env.{name}` cannot be set here: ")
    assert "not on the list" not in problem.message


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "PYTHONSTARTUP", "HOME", "IFS", "BASH_ENV"),
        *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "PORT", "HOSTNAME"),
        *("http_proxy", "HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE", "HF_ENDPOINT", "HF_HOME", "TRUST_REMOTE_CODE"),
        *(
            "K_SERVICE",
            "KUBERNETES_SERVICE_HOST",
            "SSIS_KEYS",
            "VLLM_PORT",
            "AWS_SECRET_ACCESS_KEY",
            "",
            "a b",
            "=",
            "é",
        ),
    ],
)
def test_a_name_outside_the_list_is_refused_by_name(engine: str, name: str) -> None:
    """With the original program a caller could preload a library or look at another slice's device."""
    with pytest.raises(Unprocessable) as caught:
        ENGINES[engine].environment({name: "CANARY"})
    assert caught.value.problem.param == f"env.{name}"
    assert "CANARY" not in caught.value.problem.message


@pytest.mark.parametrize(
    ("engine", "env"),
    [
        ("tgi", {"DTYPE": "float64"}),
        ("tgi", {"CUDA_GRAPHS": "1;2"}),
        ("tgi", {"LORA_ADAPTERS": "/etc/passwd"}),
        ("tgi", {"MAX_BATCH_SIZE": "-1"}),
        ("tgi", {"WAITING_SERVED_RATIO": "nan"}),
        ("tgi", {"DISABLE_CUSTOM_KERNELS": "maybe"}),
        ("vllm", {"QUANTIZE": "eetq"}),
        ("vllm", {"CUDA_GRAPHS": "1,2"}),
        ("sglang", {"QUANTIZE": "exl2"}),
        ("llamacpp", {"ROPE_SCALING": "dynamic"}),
    ],
)
def test_a_value_that_the_engine_cannot_take_is_refused_without_being_repeated(
    engine: str, env: dict[str, str]
) -> None:
    ((name, value),) = env.items()
    with pytest.raises(Unprocessable, match="it must be") as caught:
        ENGINES[engine].environment(env)
    assert caught.value.problem.param == f"env.{name}"
    assert value not in caught.value.problem.message.split()


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_what_is_so_anyway_is_accepted_and_changes_no_identity(engine: str) -> None:
    env = {"NUM_SHARD": "1", "SHARDED": "false", "TRUST_REMOTE_CODE": "False", "USAGE_STATS": "off", "DTYPE": " "}
    assert ENGINES[engine].environment(env) == ()


def test_arguments_are_sorted_and_in_the_engines_own_words() -> None:
    env = {"QUANTIZE": "bitsandbytes-nf4", "KV_CACHE_DTYPE": "fp8_e4m3fn", "CUDA_GRAPHS": "0"}
    assert ENGINES["vllm"].environment(env) == (
        ("enforce-eager", "true"),
        ("kv-cache-dtype", "fp8_e4m3"),
        ("quantization", "bitsandbytes"),
    )


def test_both_names_of_the_longest_prompt_are_one_argument() -> None:
    tgi = ENGINES["tgi"]
    assert tgi.environment({"MAX_INPUT_LENGTH": "0100"}) == tgi.environment({"MAX_INPUT_TOKENS": "100"})


def test_tgi_takes_no_dtype_together_with_quantization() -> None:
    with pytest.raises(Unprocessable, match="QUANTIZE"):
        ENGINES["tgi"].environment({"DTYPE": "float16", "QUANTIZE": "awq"})


def test_every_reason_reads_as_the_end_of_a_sentence() -> None:
    for reason in GUARDED.values():
        assert reason[0].islower() or reason.startswith(("TGI", "HF"))
        assert reason.endswith(".")
