from __future__ import annotations

import pytest

from ssis_dispatcher.models.weights import Choice, File, choose_gguf, gguf_choices, stored_bytes

REPOSITORY: tuple[File, ...] = (
    ("README.md", 1),
    ("imatrix.gguf", 3),
    ("mmproj-model-f16.gguf", 5),
    ("model-Q2_K.gguf", 20),
    ("model-Q4_K_M.gguf", 40),
    ("model-Q8_0.gguf", 80),
    ("BF16/model-BF16-00002-of-00002.gguf", 60),
    ("BF16/model-BF16-00001-of-00002.gguf", 100),
    ("model-F32-00001-of-00003.gguf", 100),
)


def test_models_are_told_from_projectors_aids_and_incomplete_ones() -> None:
    assert gguf_choices(REPOSITORY) == (
        Choice("Q2_K", 20, ("model-Q2_K.gguf",)),
        Choice("Q4_K_M", 40, ("model-Q4_K_M.gguf",)),
        Choice("Q8_0", 80, ("model-Q8_0.gguf",)),
        Choice("BF16", 160, ("BF16/model-BF16-00001-of-00002.gguf", "BF16/model-BF16-00002-of-00002.gguf")),
    )


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (("Q2_K", "Q4_K_M", "Q8_0"), "Q4_K_M"),
        (("Q2_K", "Q8_0"), "Q8_0"),
        (("Q2_K", "Q6_K"), "Q2_K"),
    ],
)
def test_without_a_wish_q4_k_m_then_q8_0_then_the_smallest(present: tuple[str, ...], chosen: str) -> None:
    files = [(f"m-{quant}.gguf", 10 + index) for index, quant in enumerate(present)]
    choice = choose_gguf(files)
    assert choice is not None
    assert choice.quant == chosen


def test_a_wish_is_fulfilled_or_not_but_never_replaced() -> None:
    choice = choose_gguf(REPOSITORY, "q8_0")
    assert choice is not None
    assert choice.parts == ("model-Q8_0.gguf",)
    assert choose_gguf(REPOSITORY, "Q5_K_M") is None
    assert choose_gguf(REPOSITORY, "Q4_K") is None
    assert choose_gguf([("README.md", 1)]) is None


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("llama-3.1-8b-instruct.q5_k_s.gguf", "q5_k_s"),
        ("model-UD-IQ1_S.gguf", "UD-IQ1_S"),
        ("model.IQ4_XS.gguf", "IQ4_XS"),
        ("Q6_K/model-00001-of-00001.gguf", "Q6_K"),
        ("gpt-oss-20b-mxfp4.gguf", "mxfp4"),
        ("model-f16.gguf", "f16"),
        ("demo.gguf", ""),
    ],
)
def test_the_quantisation_is_in_the_file_or_folder_name(name: str, quant: str) -> None:
    assert gguf_choices([(name, 1)])[0].quant == quant


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([("model-00001-of-00002.safetensors", 5), ("model-00002-of-00002.safetensors", 6)], 11),
        ([("model.safetensors", 5), ("pytorch_model.bin", 7)], 5),
        ([("model.safetensors", 5), ("consolidated.safetensors", 5)], 5),
        ([("consolidated.safetensors", 5)], 5),
        ([("pytorch_model-00001-of-00001.bin", 7), ("training_args.bin", 1)], 7),
        ([("original/consolidated.00.pth", 7)], None),
        ([("model.gguf", 9), ("onnx/model.onnx", 4)], None),
        ([("model.safetensors", 0)], None),
        ([], None),
    ],
)
def test_weights_are_counted_once(files: list[File], expected: int | None) -> None:
    assert stored_bytes(files) == expected
