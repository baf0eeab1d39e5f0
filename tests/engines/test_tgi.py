"""TGI: its own parameters, and an environment that starts it on a share of a card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ssis_dispatcher.engines.base import Engine, Options
from ssis_dispatcher.engines.generation import Generation
from ssis_dispatcher.engines.tgi import TGI

ENGINE = TGI()
Asked = Callable[..., dict[str, Any]]


def test_the_readmes_request_becomes_one_that_tgi_takes(asked: Asked) -> None:
    """The original sent ``"max_new_tokens": "20"``, for which TGI has a 422, and ``"parameters": null`` without ``par``."""
    assert asked(ENGINE, max_new_tokens="20") == {
        "inputs": "Hello",
        "parameters": {"max_new_tokens": 20},
        "stream": False,
    }
    assert asked(ENGINE)["parameters"] == {}


@pytest.mark.parametrize("kind", ["json", "regex"])
def test_grammars_go_back_into_tgis_form(asked: Asked, kind: str) -> None:
    value: object = {"type": "object"} if kind == "json" else "[0-9]+"
    assert asked(ENGINE, grammar={"type": kind, "value": value})["parameters"]["grammar"] == {
        "type": kind,
        "value": value,
    }


def test_what_it_cannot_do_is_refused_by_name(refused: Callable[[Engine], set[str]]) -> None:
    assert refused(ENGINE) == {"min_new_tokens", "min_p", "presence_penalty", "stop_token_ids", "suppress_tokens"}


def test_all_else_goes_through_under_its_name(asked: Asked) -> None:
    sent = {
        "do_sample": True,
        "best_of": 2,
        "truncate": 9,
        "watermark": True,
        "return_full_text": False,
        "adapter_id": "a/b",
    }
    assert asked(ENGINE, **sent)["parameters"] == sent


def test_its_reply_needs_no_reader() -> None:
    assert ENGINE.ask(Generation("x", {}), "demo").reader is None


def test_the_environment_starts_it_within_its_context(options: Options) -> None:
    command = ENGINE.command(msgspec.structs.replace(options, gpus=2, revision="main"))
    env = dict(command.env)
    assert command.argv == ()
    assert (env["MODEL_ID"], env["REVISION"], env["NUM_SHARD"]) == ("org/name", "main", "2")
    assert (env["MAX_INPUT_TOKENS"], env["MAX_TOTAL_TOKENS"]) == ("4095", "4096")
    assert int(env["MAX_BATCH_PREFILL_TOKENS"]) >= int(env["MAX_INPUT_TOKENS"])
    assert int(env["MAX_CONCURRENT_REQUESTS"]) > options.seats
    assert env["CUDA_MEMORY_FRACTION"] == "1.0"
    assert "TGI_WIGGLE_ROOM" not in env
    assert "HF_TOKEN" not in env


def test_on_a_share_of_a_card_it_keeps_free_a_tenth_of_the_share_not_of_the_card(options: Options) -> None:
    """Its cache budget is ``free − (1 − fraction × room) × total``, and total is the whole card."""
    env = dict(ENGINE.command(msgspec.structs.replace(options, memory_mib=10240, device_mib=40960)).env)
    room = float(env["TGI_WIGGLE_ROOM"])
    assert 10240 - (1 - room) * 40960 == pytest.approx(0.9 * 10240)


def test_the_callers_variables_replace_the_defaults(options: Options) -> None:
    arguments = ENGINE.environment({"MAX_INPUT_LENGTH": "1000", "QUANTIZE": "awq"})
    env = dict(ENGINE.command(msgspec.structs.replace(options, arguments=arguments)).env)
    assert env["MAX_INPUT_TOKENS"] == "1000"
    assert env["QUANTIZE"] == "awq"
