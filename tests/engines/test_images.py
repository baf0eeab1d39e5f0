"""Container images of the engines, and which engine an image is."""

from __future__ import annotations

import pytest

from ssis_dispatcher.engines.base import Options
from ssis_dispatcher.engines.images import CONTAINERS, NEBULY, container, engine_of, image
from ssis_dispatcher.engines.registry import ENGINES


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("ghcr.io/huggingface/text-generation-inference:3.3.7", "tgi"),
        ("ghcr.io/huggingface/text-generation-inference:3.3.5-rocm", "tgi"),
        ("ghcr.io/llshang/tgi_custom:latest", "tgi"),
        ("localhost:5000/tgi@sha256:0123", "tgi"),
        ("vllm/vllm-openai:latest", "vllm"),
        ("registry.example/mirror/vllm-openai", "vllm"),
        ("lmsysorg/sglang:v0.5.23", "sglang"),
        ("ghcr.io/ggml-org/llama.cpp:server-cuda", "llamacpp"),
        ("dev.local/llama-server:1", "llamacpp"),
        ("vllm/llama-server:1", "llamacpp"),
        ("vllm:5000/something", "vllm"),
        ("meta/llama-3:1", ""),
        ("nginx:tgi", ""),
        ("", ""),
    ],
)
def test_an_image_tells_its_engine_by_its_name(name: str, engine: str) -> None:
    """The original's ConfigMap names an image and nothing else."""
    assert engine_of(name) == engine


@pytest.mark.parametrize("engine", sorted(CONTAINERS))
def test_our_own_images_tell_theirs(engine: str) -> None:
    assert engine in ENGINES
    for name in CONTAINERS[engine].images.values():
        assert engine_of(name) == engine
        assert not name.endswith(":latest")  # which is another image tomorrow, and asked for anew at every start


def test_what_the_operator_says_beats_our_own_and_the_more_telling_slice_the_other() -> None:
    ours = image("tgi", (NEBULY, "mps"), {})
    assert ours == CONTAINERS["tgi"].images[NEBULY]
    assert image("tgi", ("mig",), {}) == CONTAINERS["tgi"].images[""]
    assert image("tgi", (NEBULY, "mps"), {"tgi": {"": "a"}}) == "a"
    assert image("tgi", (NEBULY, "mps"), {"tgi": {"": "a", "mps": "b"}}) == "b"
    assert image("tgi", (NEBULY, "mps"), {"tgi": {"": "a", "mps": "b", NEBULY: "c"}}) == "c"
    assert image("tgi", ("gpu",), {"tgi": {"mps": "b"}, "vllm": {"": "x"}}) == CONTAINERS["tgi"].images[""]


def test_an_engine_that_nobody_knows_has_no_image_until_somebody_names_one() -> None:
    assert image("own", ("gpu",), {}) == ""
    assert image("own", ("gpu",), {"own": {"": "own:1"}}) == "own:1"
    assert not container("own").by_program


@pytest.mark.parametrize("engine", sorted(CONTAINERS))
def test_those_started_by_their_program_have_one(engine: str) -> None:
    command = ENGINES[engine].command(Options("m", "m", "0.0.0.0", 8080, context=16, seats=1, memory_mib=1024))
    assert command.program
    # An image without an entry point of its own would start nothing from variables alone.
    assert container(engine).by_program == bool(command.argv)
