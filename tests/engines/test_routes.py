"""Which routes of an engine callers reach."""

from __future__ import annotations

import pytest

from ssis_dispatcher.engines.registry import ENGINES

CONTROLS = [
    *(("POST", "/sleep"), ("POST", "/wake_up"), ("POST", "/reset_prefix_cache"), ("POST", "/collective_rpc")),
    *(("POST", "/lora-adapters"), ("POST", "/props"), ("POST", "/slots/0"), ("POST", "/models/load")),
    *(("POST", "/flush_cache"), ("POST", "/update_weights_from_disk"), ("POST", "/release_memory_occupation")),
    *(("GET", "/server_info"), ("GET", "/get_server_info"), ("GET", "/lora-adapters"), ("PUT", "/v1/completions")),
    *(("GET", "/slots"), ("GET", "/props")),
]


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize(("method", "path"), CONTROLS)
def test_routes_that_change_the_server_or_show_what_is_not_the_callers_are_closed(
    engine: str, method: str, path: str
) -> None:
    assert ENGINES[engine].refusal(method, path) != ""


@pytest.mark.parametrize("engine", ["tgi", "vllm", "sglang"])
@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"])
def test_adapters_cannot_be_changed_from_outside(engine: str, path: str) -> None:
    assert ENGINES[engine].refusal("POST", path) != ""


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_chat_and_completions_are_open_everywhere(engine: str) -> None:
    assert ENGINES[engine].refusal("POST", "/v1/chat/completions") == ""
    assert ENGINES[engine].refusal("POST", "/v1/completions") == ""


@pytest.mark.parametrize("engine", ["llamacpp", "vllm", "sglang", "openai"])
def test_a_route_below_v1_that_nobody_has_heard_of_is_the_engines_own_to_answer(engine: str) -> None:
    assert ENGINES[engine].refusal("POST", "/v1/inventions") == ""
    assert ENGINES[engine].refusal("GET", "/v1/inventions") != ""


def test_tgi_is_closed_beyond_its_table_because_nothing_new_will_come() -> None:
    assert "embeddings" in ENGINES["tgi"].refusal("POST", "/v1/embeddings")
    assert ENGINES["tgi"].refusal("POST", "/v1/inventions") == "TGI has no route /v1/inventions for callers."


def test_a_known_route_under_the_wrong_method_says_so() -> None:
    assert ENGINES["llamacpp"].refusal("DELETE", "/metrics") == "/metrics does not take DELETE."
