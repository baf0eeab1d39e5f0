"""vLLM: OpenAI's completions with its own additions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ssis_dispatcher.engines.base import Engine, Options
from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.engines.vllm import VLLM
from ssis_dispatcher.errors import Unprocessable

ENGINE = VLLM()
Asked = Callable[..., dict[str, Any]]


def test_without_parameters_it_is_greedy_and_uses_the_rest_of_the_context(asked: Asked) -> None:
    assert asked(ENGINE) == {
        "model": "demo",
        "prompt": "Hello",
        "stream": False,
        "max_tokens": None,
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "include_stop_str_in_output": True,
        "return_token_ids": True,
    }


@pytest.mark.parametrize(
    ("sent", "put"),
    [
        ({"max_new_tokens": "20", "min_new_tokens": 3}, {"max_tokens": 20, "min_tokens": 3}),
        ({"top_k": 5}, {"top_k": 5, "temperature": 1.0}),
        ({"truncate": 100}, {"truncate_prompt_tokens": 100}),
        ({"eos_token_id": 2}, {"stop_token_ids": [2]}),
        ({"suppress_tokens": [5]}, {"logit_bias": {"5": -100}}),
        ({"seed": 2**64 - 1, "do_sample": True}, {"seed": 2**63 - 1}),
        ({"details": True}, {"logprobs": 0}),
        ({"top_n_tokens": 4}, {"logprobs": 4}),
        ({"decoder_input_details": True}, {"prompt_logprobs": 0}),
        ({"grammar": {"type": "regex", "value": "[0-9]"}}, {"structured_outputs": {"regex": "[0-9]"}}),
    ],
)
def test_parameters_get_its_names(asked: Asked, sent: dict[str, object], put: dict[str, object]) -> None:
    body = asked(ENGINE, **sent)
    assert {name: body[name] for name in put} == put


def test_a_stream_asks_for_the_usage(asked: Asked) -> None:
    assert asked(ENGINE, stream=True)["stream_options"] == {"include_usage": True}


def test_what_it_cannot_do_is_refused_by_name(refused: Callable[[Engine], set[str]]) -> None:
    assert refused(ENGINE) == {"typical_p", "best_of", "watermark", "adapter_id"}
    with pytest.raises(Unprocessable, match="decoder_input_details"):
        ENGINE.ask(Generation("x", {"decoder_input_details": True}, stream=True), "demo")


def test_the_arguments_start_it(options: Options) -> None:
    command = ENGINE.command(options)
    assert command.program == ("vllm", "serve")
    assert command.argv == (
        *("org/name", "--served-model-name", "org/name", "--host", "127.0.0.1", "--port", "8001"),
        *("--max-model-len", "4096", "--max-num-seqs", "4"),
    )


def test_several_gpus_a_revision_and_the_callers_arguments(options: Options) -> None:
    argv = ENGINE.command(
        msgspec.structs.replace(
            options, gpus=2, revision="v1", kv_mib=2048, arguments=(("dtype", "float16"), ("enforce-eager", "true"))
        )
    ).argv
    assert argv[argv.index("--tensor-parallel-size") + 1] == "2"
    assert argv[argv.index("--revision") + 1] == "v1"
    assert argv[argv.index("--kv-cache-memory-bytes") + 1] == str(1024 * 1024 * 1024)
    assert argv[-3:] == ("--dtype", "float16", "--enforce-eager")


def test_on_a_share_of_a_card_it_takes_no_more_than_the_share(options: Options) -> None:
    argv = ENGINE.command(msgspec.structs.replace(options, memory_mib=10240, device_mib=40960)).argv
    assert float(argv[argv.index("--gpu-memory-utilization") + 1]) * 40960 < 10240
