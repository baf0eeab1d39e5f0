"""Which of a repository's files are the model. Pure; called by the hub and the model resolver."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

File = tuple[str, int]
"""A file's path within its repository, and its bytes (0 where unknown)."""

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})")
_QUANT = re.compile(
    r"(?<![A-Za-z0-9])(?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|BF16|F16|F32|FP16|FP32|MXFP4)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(r"mmproj|imatrix|ggml-vocab|(?<![a-z])(?:lora|adapter|draft|mtp)(?![a-z])", re.IGNORECASE)
"""GGUF files that are no language model by themselves: image projectors, quantisation aids, adapters, drafts."""

_FORMATS = (".safetensors", ".bin", ".pt", ".pth")
_DEFAULTS = ("Q4_K_M", "Q8_0")


class Choice(msgspec.Struct, frozen=True):
    """One GGUF model of a repository: its files in order (several where it is split), quantisation and bytes in all."""

    quant: str
    size: int
    parts: tuple[str, ...]


def gguf_choices(files: Iterable[File]) -> tuple[Choice, ...]:
    """The GGUF models among ``files``, smallest first. Image projectors and split models that lack parts are left out."""
    models: dict[tuple[str, int], list[File]] = {}
    for path, size in files:
        folder, _, name = path.rpartition("/")
        if not name.lower().endswith(".gguf") or _NO_MODEL.search(name):
            continue
        split = _SPLIT.fullmatch(name[:-5])
        stem, parts = (split["stem"], int(split["parts"])) if split else (name[:-5], 1)
        models.setdefault((f"{folder}/{stem}", parts), []).append((path, size))
    choices = [
        Choice(_quant(stem), sum(size for _, size in found), tuple(sorted(path for path, _ in found)))
        for (stem, parts), found in models.items()
        if len(found) == parts
    ]
    return tuple(sorted(choices, key=lambda choice: (choice.size, choice.parts)))


def choose_gguf(files: Iterable[File], quant: str = "") -> Choice | None:
    """The GGUF model to serve: that of the quantisation asked for, else Q4_K_M, else Q8_0, else the smallest.

    None where there is none, or none of this quantisation: another one is never served in its place.
    """
    choices = gguf_choices(files)
    for wanted in [quant] if quant else _DEFAULTS:
        for choice in choices:
            if choice.quant.upper() == wanted.upper():
                return choice
    return choices[0] if choices and not quant else None


def stored_bytes(files: Iterable[File]) -> int | None:
    """Bytes of a repository's weights in the best of its formats, by file size; None where it has none.

    Only the top folder counts (copies in other formats lie below), and of two copies there (``consolidated.safetensors``
    beside ``model-….safetensors``) the one that transformers loads.
    """
    top = [(name, size) for name, size in files if "/" not in name and size > 0]
    for ending in _FORMATS:
        found = [(name, size) for name, size in top if name.endswith(ending) and not name.startswith("training_args")]
        named = [(name, size) for name, size in found if name.startswith(("model", "pytorch_model"))]
        if found:
            return sum(size for _, size in named or found)
    return None


def _quant(stem: str) -> str:
    """The quantisation in a file's name, else in its folder's; "" where neither tells."""
    folder, _, name = stem.rpartition("/")
    for text in (name, folder):
        found = _QUANT.findall(text)
        if found:
            return str(found[-1])
    return ""
