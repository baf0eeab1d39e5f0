"""Model names: what a request may call a model, and what can be read from the name.

::

    demo                                  a name from the operator's catalogue
    meta-llama/Llama-3.1-8B-Instruct      a model on the hub
    org/name-GGUF:Q4_K_M                  … one quantisation of several
    org/name@refs/pr/1                    … at a revision (branch, tag or commit)

A name ends up in URLs, file paths, command lines and object names, so nothing else is let through: no path, no URL, no
option, no character outside ASCII. Called by the dialects and the model resolver.
"""

from __future__ import annotations

import re
from math import sqrt

import msgspec

from ssis_dispatcher.core.formulas import weights_of
from ssis_dispatcher.core.sizing import ModelFacts
from ssis_dispatcher.errors import InvalidRequest

LONGEST = 200
"""Characters of a model name, all in all."""

_SEGMENT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_QUANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,38}[A-Za-z0-9])?")
_REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")


class ModelName(msgspec.Struct, frozen=True):
    """A model name, taken apart; "" for what is not said. ``repo`` is ``org/name`` or a bare name."""

    repo: str
    quant: str = ""
    revision: str = ""

    @property
    def id(self) -> str:
        """The name without its revision: ``org/name:QUANT``."""
        return f"{self.repo}:{self.quant}" if self.quant else self.repo

    @property
    def bare(self) -> bool:
        """Whether only a catalogue can know it."""
        return "/" not in self.repo


def parse_name(text: str, param: str = "model") -> ModelName:
    """``text`` as a model name. Raises `InvalidRequest` that names ``param`` and what is wrong."""
    if not text:
        raise InvalidRequest("The model name is empty.", param=param)
    if len(text) > LONGEST:
        raise InvalidRequest(f"The model name has {len(text)} characters; at most {LONGEST} are allowed.", param=param)
    if not text.isascii() or not text.isprintable() or " " in text:
        raise _invalid(text, "it may hold ASCII letters, digits and `-_./:@` only", param)
    if "://" in text:
        raise _invalid(text, "a URL does not name a model; use `org/name`", param)
    if text[0] in "/.~\\" or "\\" in text:
        raise _invalid(text, "a path does not name a model; the operator's catalogue gives names to files", param)
    rest, at, revision = text.partition("@")
    repo, colon, quant = rest.partition(":")
    segments = repo.split("/")
    if len(segments) > 2 or not all(_is_segment(segment) for segment in segments):
        raise _invalid(text, "a model is named `org/name`, or by a name from the catalogue", param)
    if colon and not (_QUANT.fullmatch(quant) and ".." not in quant):
        raise _invalid(text, "after `:` there must be a quantisation, such as `Q4_K_M`", param)
    if at and not is_revision(revision):
        raise _invalid(text, "after `@` there must be a revision: a branch, a tag or a commit", param)
    return ModelName(repo, quant, revision)


def is_revision(text: str) -> bool:
    """Whether ``text`` can be a branch, tag or commit on the hub."""
    return bool(_REVISION.fullmatch(text)) and ".." not in text and "//" not in text


def facts_from_name(name: ModelName) -> ModelFacts:
    """What the name itself tells: the parameter count and the quantisation give the weights, and roughly the KV cache.

    The KV cache follows no law; 192 KiB × √(parameters / 8·10⁹) is above most models with grouped-query attention.
    """
    parameters = parameters_in(name.repo)
    if parameters is None:
        return ModelFacts()
    bits = bits_in(name.quant) or bits_in(name.repo) or 16.0
    return ModelFacts(
        source="name",
        weight_bytes=weights_of(parameters, bits),
        kv_bytes_per_token=round(196_608 * sqrt(parameters / 8e9)),
        parameters=parameters,
        note=f"estimated from the name: {parameters / 1e9:.3g} billion parameters of {bits:g} bits",
    )


_COUNT = re.compile(
    r"(?<![A-Za-z0-9.])(?:(?P<experts>\d{1,3})x)?(?P<number>\d{1,4}(?:\.\d{1,3})?)(?P<unit>[bm])(?P<tenth>\d)?(?![a-z0-9])",
    re.IGNORECASE,
)


def parameters_in(name: str) -> int | None:
    """The number of parameters that a model's name tells, or None.

    ``8B``, ``0.5B``, ``350M``, ``7b1`` (7.1 billion); of ``8x7B`` the product, which is above the truth because experts
    share layers; ``A3B`` (active parameters) is not a size. The first one counts: later ones may be tokens of training.
    """
    match = _COUNT.search(name.rpartition("/")[2])
    if match is None:
        return None
    number = match["number"] + (f".{match['tenth']}" if match["tenth"] and "." not in match["number"] else "")
    scale = 1e9 if match["unit"] in "bB" else 1e6
    return round(float(number) * scale * int(match["experts"] or 1)) or None


_BITS = (
    (re.compile(r"(?<![a-z0-9])i?q(?P<bits>[1-68])_", re.IGNORECASE), None),
    (re.compile(r"int-?8|8-?bit|w8a|fp8|f8_e|(?<![a-z0-9])q8(?![a-z0-9])", re.IGNORECASE), 9.0),
    (re.compile(r"awq|gptq|int-?4|4-?bit|w4a|nf4|fp4|(?<![a-z0-9])q4(?![a-z0-9])", re.IGNORECASE), 5.5),
    (re.compile(r"bf16|fp16|(?<![a-z0-9])f16", re.IGNORECASE), 16.0),
    (re.compile(r"fp32|(?<![a-z0-9])f32", re.IGNORECASE), 32.0),
)
"""Words for a quantisation → bits per parameter. Four- and eight-bit formats keep embeddings at 16 bit, so that an 8B
model at four bits has 5.7 bits per parameter and one of 70B 4.5."""

_GGUF_BITS = {1: 2.0, 2: 3.4, 3: 4.3, 4: 4.9, 5: 5.7, 6: 6.6, 8: 8.5}
"""Bits per parameter of llama.cpp's quantisations, the largest variant of each."""


def bits_in(name: str) -> float | None:
    """Bits per parameter that a model's name or quantisation tells (``AWQ``, ``Q4_K_M``, ``fp8``), or None."""
    for pattern, bits in _BITS:
        match = pattern.search(name)
        if match:
            return bits or _GGUF_BITS[int(match["bits"])]
    return None


def _is_segment(text: str) -> bool:
    """The hub's own rule for the parts of a repository's name."""
    return bool(_SEGMENT.fullmatch(text)) and ".." not in text and "--" not in text


def _invalid(text: str, why: str, param: str) -> InvalidRequest:
    shown = ascii(text if len(text) <= 80 else text[:77] + "…")
    return InvalidRequest(f"{shown} is no model name: {why}.", param=param)
