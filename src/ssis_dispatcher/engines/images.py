"""The engines as container images: which there are, and what a launcher must know to use them. Data.

Facts from each project's Dockerfile and documentation. Keys of slices are the words of `SliceKind`, and `NEBULY` for
the MPS slices of Nebuly's device plugin, which differ from NVIDIA's own; "" stands for every slice that has no key of
its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

NEBULY = "nebuly"


class Container(msgspec.Struct, frozen=True):
    """How one engine's image is used.

    ``images`` are the default ones by slice. ``by_program`` tells that the image does not start the server by itself,
    in all its versions: `Command.program` is named. ``caches`` are variables that say where it keeps what it computes
    or fetches, each with a folder below the one for weights; ``offline`` are those that keep it from the hub, beside
    the hub's own. ``joins`` tells that it is several processes, which share memory through ``/dev/shm``, even on one
    GPU. ``host_mib`` is what it needs of its node's memory besides the model.
    """

    images: Mapping[str, str]
    by_program: bool = False
    caches: tuple[tuple[str, str], ...] = ()
    offline: tuple[tuple[str, str], ...] = ()
    joins: bool = False
    host_mib: int = 2048


CONTAINERS: Mapping[str, Container] = MappingProxyType(
    {
        "tgi": Container(
            {
                "": "ghcr.io/huggingface/text-generation-inference:3.3.7",
                # From 3.1.1 on its Python lies under /root: those images run as root only, and Nebuly's MPS server admits
                # one user, by default 1000.
                NEBULY: "ghcr.io/huggingface/text-generation-inference:3.1.0",
            }
        ),
        "vllm": Container(
            {"": "vllm/vllm-openai:v0.33.0"},
            by_program=True,  # what its entry point is changed over time
            caches=(("VLLM_CACHE_ROOT", "vllm"),),
            joins=True,
        ),
        "sglang": Container({"": "lmsysorg/sglang:v0.5.23"}, by_program=True, joins=True),
        "llamacpp": Container(
            {"": "ghcr.io/ggml-org/llama.cpp:server-cuda", "cpu": "ghcr.io/ggml-org/llama.cpp:server"},
            caches=(("LLAMA_CACHE", "llama.cpp"),),
            offline=(("LLAMA_ARG_OFFLINE", "1"),),
            host_mib=256,
        ),
    }
)

UNKNOWN = Container({})
"""An engine of the operator's own: its image is theirs to name."""

_NAMES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("tgi", re.compile(r"text-generation-inference|(?<![a-z0-9])tgi(?![a-z0-9])")),
    ("vllm", re.compile(r"(?<![a-z0-9])vllm(?![a-z0-9])")),
    ("sglang", re.compile(r"(?<![a-z0-9])sglang(?![a-z0-9])")),
    ("llamacpp", re.compile(r"(?<![a-z0-9])llama[._-]?(?:cpp|server)(?![a-z0-9])")),
)


def container(engine: str) -> Container:
    """How the image of ``engine`` is used."""
    return CONTAINERS.get(engine, UNKNOWN)


def image(engine: str, slices: Iterable[str], overrides: Mapping[str, Mapping[str, str]]) -> str:
    """The image of ``engine`` for a slice that goes by the keys ``slices``, most telling first; "" where there is none.

    What the operator says (``overrides``, by engine and slice), be it for every slice, beats our own.
    """
    keys = (*slices, "")
    for table in (overrides.get(engine, {}), container(engine).images):
        for key in keys:
            if found := table.get(key):
                return found
    return ""


def engine_of(image: str) -> str:
    """The engine that an image's name tells of (``ghcr.io/huggingface/text-generation-inference:3.3.7`` → ``tgi``); ""
    where it tells none. The last part of the name counts first: ``vllm/llama-server`` is llama.cpp's."""
    parts = _without_tag(image.lower()).split("/")
    for part in reversed(parts):
        for engine, pattern in _NAMES:
            if pattern.search(part):
                return engine
    return ""


def _without_tag(image: str) -> str:
    """``image`` without digest and tag; a port before the first ``/`` is no tag."""
    image = image.partition("@")[0]
    folder, slash, name = image.rpartition("/")
    return folder + slash + name.partition(":")[0]
