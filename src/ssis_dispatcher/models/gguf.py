"""The header of a GGUF file: what the file says about its model, without reading the model.

Format: magic ``GGUF``, version, number of tensors, number of metadata pairs, the pairs, the tensors' names, shapes, types
and offsets, then aligned data (the specification is ``docs/gguf.md`` of ggml). Only the header is read, and every length
in it is checked before it is believed, because a file may be truncated, corrupt or hostile. Synchronous: a tokenizer of
250,000 words takes some 0.1 s, so callers read in a thread. Called by the model resolver.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from io import BytesIO
from math import prod
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from ssis_dispatcher.core.sizing import ModelFacts

_MAGIC: Final = b"GGUF"
_LARGEST_HEADER: Final = 256 << 20
_LONGEST_KEY: Final = 1 << 16
_MOST_ENTRIES: Final = 1 << 16
_MOST_DIMENSIONS: Final = 4
_MOST_ELEMENTS: Final = 1 << 48
_KEPT_VALUES: Final = 1024

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FORMATS = {kind: struct.Struct("<" + code) for kind, code in _SCALARS.items()}

BLOCKS: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""ggml's tensor types: name, values per block, bytes per block."""


class CorruptModel(Exception):
    """A model file that is no model, or not all of one. The message says what is wrong with it."""


class Tensor(msgspec.Struct, frozen=True):
    """One tensor: its shape, its type as ggml numbers it, and where it lies in the data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def bytes(self) -> int | None:
        """Stored bytes; None for a type newer than this reader."""
        if self.type not in BLOCKS:
            return None
        _, values, size = BLOCKS[self.type]
        return prod(self.shape) // values * size


class Array(msgspec.Struct, frozen=True):
    """A list in the metadata. ``values`` only where they are numbers and few."""

    length: int
    values: tuple[int | float, ...] = ()


Value = int | float | str | Array


class Header(msgspec.Struct, frozen=True):
    """What a GGUF file says about itself. ``data`` is where its tensors begin, ``size`` the file's bytes where known."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    data: int
    size: int | None = None

    @property
    def architecture(self) -> str:
        """``llama``, ``qwen2`` …; "" where the file does not say."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def has_chat_template(self) -> bool:
        """Whether the model brings the form of a conversation with it."""
        return "tokenizer.chat_template" in self.metadata

    @property
    def parts(self) -> int:
        """How many files the model is split into."""
        count = self.metadata.get("split.count", 1)
        return count if isinstance(count, int) and count > 1 else 1

    def number(self, key: str) -> int | None:
        """A positive whole number of this architecture (``block_count``); None where the file does not say."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and 0 < value < 1 << 32 else None


def file_facts(path: Path) -> ModelFacts:
    """What the model in the file ``path`` needs. Reads the headers of all parts of a split one.

    Raises `CorruptModel` for a file that is no whole model, `OSError` where it cannot be read.
    """
    headers = [read_file(path)]
    for part in _other_parts(path, headers[0].parts):
        if not part.exists():
            raise CorruptModel(f"{path.name}: the part {part.name} is missing")
        headers.append(read_file(part))
    facts = [facts_of(header) for header in headers]
    return msgspec.structs.replace(
        facts[0],
        weight_bytes=sum(part.weight_bytes or 0 for part in facts),
        parameters=sum(part.parameters or 0 for part in facts),
    )


def read_file(path: Path) -> Header:
    """The header of the file ``path``, checked against the file's size. Raises `CorruptModel`, `OSError`."""
    with path.open("rb") as file:
        return read_header(file, path.stat().st_size, path.name)


def read_header(source: BinaryIO | bytes, size: int | None = None, name: str = "model") -> Header:
    """The header at the beginning of ``source``. ``size`` is the whole file's, where known; ``name`` is for errors.

    Raises `CorruptModel`.
    """
    try:
        return _read(_Cursor(BytesIO(source) if isinstance(source, bytes) else source), size)
    except CorruptModel as error:
        raise CorruptModel(f"{name}: {error}") from None


def facts_of(header: Header) -> ModelFacts:
    """What the model needs, as far as its header tells. KV cache at 16 bit, as llama.cpp allocates it."""
    window = header.number("attention.sliding_window")
    return ModelFacts(
        source="gguf",
        weight_bytes=_weight_bytes(header),
        kv_bytes_per_token=_kv_bytes_per_token(header),
        context=header.number("context_length"),
        parameters=sum(prod(tensor.shape) for tensor in header.tensors),
        hidden_size=header.number("embedding_length"),
        vocabulary=_vocabulary(header),
        note=f"KV cache is an upper bound: some layers keep only {window} tokens" if window else "",
    )


class _Cursor:
    """Reads little-endian values from the beginning of a file, and never more than a header may have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = bytearray()
        self.at = 0

    def skip(self, count: int) -> int:
        """Move on by ``count`` bytes that must exist; returns where they begin."""
        start, end = self.at, self.at + count
        if end > len(self._buffer):
            self._fill(end)
        self.at = end
        return start

    def bytes(self, count: int) -> bytearray:
        start = self.skip(count)
        return self._buffer[start : self.at]

    def scalar(self, kind: int) -> int | float:
        format = _FORMATS[kind]
        value: int | float = format.unpack_from(self._buffer, self.skip(format.size))[0]
        return value

    def u32(self) -> int:
        return int(self.scalar(4))

    def u64(self) -> int:
        return int(self.scalar(10))

    def text(self, longest: int = _LARGEST_HEADER) -> str:
        length = self.u64()
        if length > longest:
            raise CorruptModel(f"a text of {length} bytes in its header")
        return self.bytes(length).decode(errors="replace")

    def skip_texts(self, count: int) -> None:
        for _ in range(count):
            self.skip(self.u64())

    def _fill(self, end: int) -> None:
        if end > _LARGEST_HEADER:
            raise CorruptModel(f"its header claims more than {_LARGEST_HEADER >> 20} MiB")
        while len(self._buffer) < end:
            more = self._file.read(max(end - len(self._buffer), 1 << 18))
            if not more:
                raise CorruptModel(f"ends within its header, after {len(self._buffer)} bytes")
            self._buffer += more


def _read(cursor: _Cursor, size: int | None) -> Header:
    if cursor.bytes(4) != _MAGIC:
        raise CorruptModel("not a GGUF file: it does not begin with `GGUF`")
    version = cursor.u32()
    if version not in (2, 3):
        kind = "big-endian GGUF" if version in (0x0200_0000, 0x0300_0000) else f"GGUF version {version}"
        raise CorruptModel(f"{kind} cannot be read here (versions 2 and 3, little-endian, can)")
    tensors, pairs = cursor.u64(), cursor.u64()
    if tensors > _MOST_ENTRIES or pairs > _MOST_ENTRIES:
        raise CorruptModel(f"its header claims {tensors} tensors and {pairs} metadata entries")
    metadata: dict[str, Value] = {}
    for _ in range(pairs):
        key = cursor.text(_LONGEST_KEY)
        metadata[key] = _value(cursor, cursor.u32())
    described = tuple(_tensor(cursor) for _ in range(tensors))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise CorruptModel(f"an alignment of {alignment!r}")
    data = -(-cursor.at // alignment) * alignment
    header = Header(version, metadata, described, data, size)
    _check_bounds(header)
    return header


def _value(cursor: _Cursor, kind: int) -> Value:
    if kind in _FORMATS:
        return cursor.scalar(kind)
    if kind == _STRING:
        return cursor.text()
    if kind != _ARRAY:
        raise CorruptModel(f"a metadata value of the unknown type {kind}")
    item, length = cursor.u32(), cursor.u64()
    if item == _STRING:
        if length > _LARGEST_HEADER // 8:
            raise CorruptModel(f"a list of {length} texts in its header")
        cursor.skip_texts(length)
        return Array(length)
    if item not in _FORMATS:
        raise CorruptModel(f"a list of values of the unknown type {item}")
    if length <= _KEPT_VALUES:
        return Array(length, tuple(cursor.scalar(item) for _ in range(length)))
    cursor.skip(length * _FORMATS[item].size)
    return Array(length)


def _tensor(cursor: _Cursor) -> Tensor:
    name = cursor.text(_LONGEST_KEY)
    dimensions = cursor.u32()
    if dimensions > _MOST_DIMENSIONS:
        raise CorruptModel(f"tensor `{name}` has {dimensions} dimensions")
    shape = tuple(cursor.u64() for _ in range(dimensions))
    if not 0 < prod(shape) <= _MOST_ELEMENTS:
        raise CorruptModel(f"tensor `{name}` has the shape {shape}")
    kind = cursor.u32()
    if kind in BLOCKS and shape and shape[0] % BLOCKS[kind][1]:
        raise CorruptModel(f"tensor `{name}`: rows of {shape[0]} values cannot be stored as {BLOCKS[kind][0]}")
    return Tensor(name, shape, kind, cursor.u64())


def _check_bounds(header: Header) -> None:
    """Every tensor lies within the file."""
    if header.size is None:
        return
    for tensor in header.tensors:
        end = header.data + tensor.offset + (tensor.bytes or 0)
        if end > header.size:
            raise CorruptModel(
                f"truncated: tensor `{tensor.name}` ends at byte {end}, the file has {header.size}; fetch it again"
            )


def _weight_bytes(header: Header) -> int | None:
    sizes = [tensor.bytes for tensor in header.tensors]
    known = [size for size in sizes if size is not None]
    if len(known) == len(sizes):
        return sum(known)
    return None if header.size is None else header.size - header.data


def _kv_bytes_per_token(header: Header, bytes_per_value: int = 2) -> int | None:
    """Keys and values of all layers that keep them; a latent instead where the architecture has one (MLA)."""
    layers = header.number("block_count")
    if layers is None:
        return None
    layers -= header.number("attention.shared_kv_layers") or 0
    layers //= header.number("full_attention_interval") or 1
    rank, key = header.number("attention.kv_lora_rank"), header.number("attention.key_length")
    if rank and header.number("attention.key_length_mla"):
        return layers * (rank + (header.number("rope.dimension_count") or 0)) * bytes_per_value
    hidden, heads = header.number("embedding_length"), _heads(header, "attention.head_count", layers)
    cached = _heads(header, "attention.head_count_kv", layers)
    cached = heads if cached is None else cached
    if key is None and hidden and heads:
        key = hidden * layers // heads
    if key is None or cached is None:
        return None
    return cached * (key + (header.number("attention.value_length") or key)) * bytes_per_value


def _heads(header: Header, key: str, layers: int) -> int | None:
    """Heads of all layers together: the file gives one number for each layer, or one number for all."""
    value = header.metadata.get(f"{header.architecture}.{key}")
    if isinstance(value, Array):
        counts = [count for count in value.values if isinstance(count, int) and 0 <= count < 1 << 16]
        return sum(counts) if counts and len(counts) == value.length else None
    number = header.number(key)
    return number and number * layers


def _vocabulary(header: Header) -> int | None:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return header.number("vocab_size") or (tokens.length if isinstance(tokens, Array) and tokens.length else None)


def _other_parts(path: Path, count: int) -> list[Path]:
    """The other files of a split model, by their names (``x-00001-of-00003.gguf``)."""
    match = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if count == 1 or not match:
        return []
    return [
        path.with_name(f"{match[1]}-{number:05}-of-{match[3]}.gguf")
        for number in range(1, int(match[3]) + 1)
        if number != int(match[2])
    ]
