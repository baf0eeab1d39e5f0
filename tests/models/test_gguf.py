from __future__ import annotations

import struct
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssis_dispatcher.models.gguf import (
    BLOCKS,
    Array,
    CorruptModel,
    facts_of,
    file_facts,
    read_file,
    read_header,
)

DEMO = Path(str(files("ssis_dispatcher") / "data" / "demo.gguf"))

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 32,
    "llama.context_length": 131072,
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(item: Any) -> bytes:
    """One metadata value with its type: text, bool, number, or a list of texts or of numbers."""
    if isinstance(item, str):
        return struct.pack("<I", 8) + text(item)
    if isinstance(item, bool):
        return struct.pack("<I?", 7, item)
    if isinstance(item, int):
        return struct.pack("<IQ", 10, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if item and isinstance(item[0], str):
        return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(text(one) for one in item)
    return struct.pack("<IIQ", 9, 5, len(item)) + struct.pack(f"<{len(item)}i", *item)


def gguf(
    metadata: dict[str, Any], tensors: list[tuple[str, tuple[int, ...], int, int]] | None = None, *, version: int = 3
) -> bytes:
    """A header: ``tensors`` are name, shape, type and offset."""
    tensors = tensors or []
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, item in metadata.items():
        out += text(key) + value(item)
    for name, shape, kind, offset in tensors:
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return out


def kv(metadata: dict[str, Any]) -> int | None:
    return facts_of(read_header(gguf(metadata))).kv_bytes_per_token


def test_the_packaged_model_is_read_to_the_byte() -> None:
    facts = file_facts(DEMO)
    header = read_file(DEMO)
    assert header.data + (facts.weight_bytes or 0) == DEMO.stat().st_size == 2_999_744
    assert facts.parameters == 2_755_008
    assert facts.kv_bytes_per_token == 2 * 6 * 2 * 32 * 2
    assert (facts.context, facts.hidden_size, facts.vocabulary) == (1024, 192, 2048)
    assert facts.source == "gguf"
    assert header.architecture == "llama"
    assert header.has_chat_template


def test_a_header_needs_no_more_of_the_file_than_itself() -> None:
    header = read_file(DEMO)
    beginning = DEMO.read_bytes()[: header.data]
    assert read_header(beginning).tensors == header.tensors


def test_an_8b_model_takes_the_same_cache_as_its_configuration_says() -> None:
    assert kv(LLAMA) == 131_072


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"llama.attention.key_length": 256, "llama.attention.value_length": 128}, 196_608, id="own widths"
        ),
        pytest.param({"llama.attention.head_count_kv": [8] * 8 + [0] * 24}, 32_768, id="layers without cache"),
        pytest.param({"llama.full_attention_interval": 4}, 32_768, id="every fourth layer"),
        pytest.param({"llama.attention.shared_kv_layers": 12}, 81_920, id="shared layers"),
        pytest.param(
            {
                "llama.attention.kv_lora_rank": 512,
                "llama.rope.dimension_count": 64,
                "llama.attention.key_length_mla": 192,
                "llama.block_count": 61,
            },
            70_272,
            id="latent",
        ),
        pytest.param({"llama.attention.head_count_kv": [-1, 5]}, 524_288, id="senseless list falls back to all heads"),
        pytest.param({"llama.block_count": 0}, None, id="no layers"),
        pytest.param({"general.architecture": "other"}, None, id="another architecture's numbers"),
    ],
)
def test_cache_layouts(changes: dict[str, Any], expected: int | None) -> None:
    assert kv(LLAMA | changes) == expected


def test_weights_are_the_sum_of_the_stored_tensors() -> None:
    tensors = [("a", (4096, 10), 12, 0), ("b", (32,), 0, 30_000), ("c", (64, 2, 3), 8, 40_000)]
    facts = facts_of(read_header(gguf(LLAMA, tensors)))
    assert facts.weight_bytes == 4096 * 10 // 256 * 144 + 128 + 64 * 6 // 32 * 34
    assert facts.parameters == 4096 * 10 + 32 + 64 * 6


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_tensor_type_has_its_size(kind: int) -> None:
    _, values, size = BLOCKS[kind]
    header = read_header(gguf({}, [("t", (values * 3, 5), kind, 0)]))
    assert header.tensors[0].bytes == 15 * size
    assert 1.5 < size * 8 / values <= 64  # bits per value


def test_a_tensor_type_of_the_future_is_weighed_by_the_file() -> None:
    raw = gguf(LLAMA, [("t", (100,), 999, 0)])
    assert facts_of(read_header(raw)).weight_bytes is None
    header = read_header(raw, size=10_000)
    assert facts_of(header).weight_bytes == 10_000 - header.data


def test_the_words_of_the_vocabulary_are_counted_where_no_number_is_given() -> None:
    header = read_header(gguf(LLAMA | {"tokenizer.ggml.tokens": ["a", "b", "c"], "x": 1.5, "y": True}))
    assert facts_of(header).vocabulary == 3
    assert header.metadata["tokenizer.ggml.tokens"] == Array(3)
    assert not header.has_chat_template


def test_a_sliding_window_is_noted() -> None:
    assert "512 tokens" in facts_of(read_header(gguf(LLAMA | {"llama.attention.sliding_window": 512}))).note


def test_version_2_and_a_file_that_says_nothing_are_read_too() -> None:
    assert facts_of(read_header(gguf({}))).kv_bytes_per_token is None
    assert read_header(gguf(LLAMA, version=2)).version == 2


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "ends within its header, after 0 bytes"),
        (b"PK\x03\x04" + bytes(100), "not a GGUF file"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1 cannot be read"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "claims 1099511627776 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "1099511627776 metadata entries"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "a text of 1152921504606846976 bytes"),
        (gguf({"k": "v"})[:-3], "ends within its header"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 13), "the unknown type 13"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1), "the unknown type 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 50), "a list of"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 4, 1 << 50), "more than 256 MiB"),
        (gguf({}, [("t", (2, 2, 2, 2, 2), 0, 0)]), "tensor `t` has 5 dimensions"),
        (gguf({}, [("t", (1 << 40, 1 << 40), 0, 0)]), "tensor `t` has the shape"),
        (gguf({}, [("t", (0,), 0, 0)]), "tensor `t` has the shape"),
        (gguf({}, [("t", (33,), 8, 0)]), "rows of 33 values cannot be stored as Q8_0"),
        (gguf({"general.alignment": 0}), "an alignment of 0"),
        (gguf({"general.alignment": "x"}), "an alignment of 'x'"),
    ],
)
def test_what_is_no_model_is_refused_with_the_reason(raw: bytes, words: str) -> None:
    with pytest.raises(CorruptModel) as caught:
        read_header(raw, name="x.gguf")
    assert str(caught.value).startswith("x.gguf: ")
    assert words in str(caught.value)


def test_a_download_that_broke_off_is_noticed_by_its_length(tmp_path: Path) -> None:
    whole = DEMO.read_bytes()
    file = tmp_path / "half.gguf"
    for length in (len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CorruptModel, match=rf"half\.gguf: truncated: .* the file has {length}; fetch it again"):
            file_facts(file)


def test_a_missing_file_is_an_ordinary_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_facts(tmp_path / "none.gguf")


def test_a_split_model_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    first = gguf(LLAMA | {"split.count": 2}, [("a", (64,), 0, 0)])
    second = gguf({"split.count": 2}, [("b", (32,), 0, 0)])
    for number, raw in enumerate((first, second), 1):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(raw + bytes(1000))
    facts = file_facts(tmp_path / "m-00001-of-00002.gguf")
    assert (facts.weight_bytes, facts.parameters, facts.kv_bytes_per_token) == (96 * 4, 96, 131_072)
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(CorruptModel, match=r"the part m-00002-of-00002\.gguf is missing"):
        file_facts(tmp_path / "m-00001-of-00002.gguf")


SMALL = gguf(
    LLAMA | {"tokenizer.ggml.tokens": ["a", "bc"], "f": 0.5, "b": True, "l": [1, 2, 3]},
    [("a", (256, 2), 12, 0), ("b", (32,), 0, 288)],
)


@settings(max_examples=300)
@given(st.data())
def test_no_damage_leads_to_anything_but_a_clear_refusal(data: st.DataObject) -> None:
    raw = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    try:
        facts = facts_of(read_header(bytes(raw), size=len(raw)))
    except CorruptModel:
        return
    for number in (facts.weight_bytes, facts.kv_bytes_per_token, facts.context, facts.vocabulary, facts.parameters):
        assert number is None or number >= 0
