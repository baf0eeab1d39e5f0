"""The estimator against published models: parameters, stored bytes, KV cache and context."""

from __future__ import annotations

from typing import Any

import pytest

from ssis_dispatcher.core.formulas import (
    Config,
    cpu_overhead_mib,
    facts_from_config,
    gpu_overhead_mib,
    kv_bytes_per_token,
    parameters_of,
    text_config,
    weight_bytes,
    weights_of,
    window_note,
)
from ssis_dispatcher.core.sizing import ModelFacts


def gated(
    family: str,
    layers: int,
    heads: int,
    kv_heads: int,
    hidden: int,
    mlp: int,
    vocabulary: int,
    context: int,
    *,
    tied: bool = False,
    **more: Any,
) -> dict[str, Any]:
    return {
        "model_type": family,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        **more,
    }


GPT2 = {
    "model_type": "gpt2",
    "n_layer": 12,
    "n_head": 12,
    "n_embd": 768,
    "n_positions": 1024,
    "n_ctx": 1024,
    "vocab_size": 50257,
}
LLAMA_8B = gated("llama", 32, 32, 8, 4096, 14336, 128256, 131072)
QWEN2_7B = gated("qwen2", 28, 28, 4, 3584, 18944, 152064, 131072)
PHI2 = {
    "model_type": "phi",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "vocab_size": 51200,
    "max_position_embeddings": 2048,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "hidden_size": 7168,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
}

# model, configuration, parameters, values as stored per dtype, stored bytes, KV bytes per token at 16 bit, context
PUBLISHED: list[tuple[str, dict[str, Any], int | None, dict[str, int], int, int, int]] = [
    ("openai-community/gpt2", GPT2, 124_439_808, {"F32": 137_022_720}, 548_090_880, 36_864, 1024),
    (
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        gated("llama", 22, 32, 4, 2048, 5632, 32000, 2048),
        1_100_048_384,
        {"BF16": 1_100_048_384},
        2_200_096_768,
        22_528,
        2048,
    ),
    (
        "meta-llama/Llama-3.2-1B-Instruct",
        gated("llama", 16, 32, 8, 2048, 8192, 128256, 131072, tied=True, head_dim=64),
        1_235_814_400,
        {"BF16": 1_235_814_400},
        2_471_628_800,
        32_768,
        131072,
    ),
    (
        "meta-llama/Llama-3.2-3B-Instruct",
        gated("llama", 28, 24, 8, 3072, 8192, 128256, 131072, tied=True, head_dim=128),
        3_212_749_824,
        {"BF16": 3_212_749_824},
        6_425_499_648,
        114_688,
        131072,
    ),
    (
        "meta-llama/Llama-3.1-8B-Instruct",
        LLAMA_8B,
        8_030_261_248,
        {"BF16": 8_030_261_248},
        16_060_522_496,
        131_072,
        131072,
    ),
    (
        "meta-llama/Llama-3.3-70B-Instruct",
        gated("llama", 80, 64, 8, 8192, 28672, 128256, 131072),
        70_553_706_496,
        {"BF16": 70_553_706_496},
        141_107_412_992,
        327_680,
        131072,
    ),
    (
        "Qwen/Qwen2.5-0.5B-Instruct",
        gated("qwen2", 24, 14, 2, 896, 4864, 151936, 32768, tied=True),
        494_032_768,
        {"BF16": 494_032_768},
        988_065_536,
        12_288,
        32768,
    ),
    (
        "Qwen/Qwen2.5-1.5B-Instruct",
        gated("qwen2", 28, 12, 2, 1536, 8960, 151936, 131072, tied=True),
        1_543_714_304,
        {"BF16": 1_543_714_304},
        3_087_428_608,
        28_672,
        131072,
    ),
    (
        "Qwen/Qwen2.5-3B-Instruct",
        gated("qwen2", 36, 16, 2, 2048, 11008, 151936, 32768, tied=True),
        3_085_938_688,
        {"BF16": 3_085_938_688},
        6_171_877_376,
        36_864,
        32768,
    ),
    (
        "Qwen/Qwen2.5-7B-Instruct",
        QWEN2_7B,
        7_615_616_512,
        {"BF16": 7_615_616_512},
        15_231_233_024,
        57_344,
        131072,
    ),
    (
        "Qwen/Qwen2.5-14B",
        gated("qwen2", 48, 40, 8, 5120, 13824, 152064, 131072),
        14_770_033_664,
        {"BF16": 14_770_033_664},
        29_540_067_328,
        196_608,
        131072,
    ),
    (
        "Qwen/Qwen2.5-32B",
        gated("qwen2", 64, 40, 8, 5120, 27648, 152064, 131072),
        32_763_876_352,
        {"BF16": 32_763_876_352},
        65_527_752_704,
        262_144,
        131072,
    ),
    (
        "Qwen/Qwen2.5-72B",
        gated("qwen2", 80, 64, 8, 8192, 29568, 152064, 131072),
        72_706_203_648,
        {"BF16": 72_706_203_648},
        145_412_407_296,
        327_680,
        131072,
    ),
    (
        "Qwen/Qwen3-0.6B",  # the output embedding is stored although it is tied
        gated("qwen3", 28, 16, 8, 1024, 3072, 151936, 40960, tied=True, head_dim=128),
        596_049_920,
        {"BF16": 751_632_384},
        1_503_264_768,
        114_688,
        40960,
    ),
    (
        "Qwen/Qwen3-1.7B",
        gated("qwen3", 28, 16, 8, 2048, 6144, 151936, 40960, tied=True, head_dim=128),
        1_720_574_976,
        {"BF16": 2_031_739_904},
        4_063_479_808,
        114_688,
        40960,
    ),
    (
        "Qwen/Qwen3-4B",
        gated("qwen3", 36, 32, 8, 2560, 9728, 151936, 40960, tied=True, head_dim=128),
        4_022_468_096,
        {"BF16": 4_022_468_096},
        8_044_936_192,
        147_456,
        40960,
    ),
    (
        "Qwen/Qwen3-8B",
        gated("qwen3", 36, 32, 8, 4096, 12288, 151936, 40960, head_dim=128),
        8_190_735_360,
        {"BF16": 8_190_735_360},
        16_381_470_720,
        147_456,
        40960,
    ),
    (
        "Qwen/Qwen3-14B",
        gated("qwen3", 40, 40, 8, 5120, 17408, 151936, 40960, head_dim=128),
        14_768_307_200,
        {"BF16": 14_768_307_200},
        29_536_614_400,
        163_840,
        40960,
    ),
    (
        "Qwen/Qwen3-30B-A3B",
        gated(
            "qwen3_moe", 48, 32, 4, 2048, 6144, 151936, 40960, head_dim=128, num_experts=128, moe_intermediate_size=768
        ),
        30_532_122_624,
        {"BF16": 30_532_122_624},
        61_064_245_248,
        98_304,
        40960,
    ),
    (
        "mistralai/Mistral-7B-v0.1",
        gated("mistral", 32, 32, 8, 4096, 14336, 32000, 32768, sliding_window=4096),
        7_241_732_096,
        {"BF16": 7_241_732_096},
        14_483_464_192,
        131_072,
        32768,
    ),
    (
        "mistralai/Mistral-7B-Instruct-v0.3",
        gated("mistral", 32, 32, 8, 4096, 14336, 32768, 32768),
        7_248_023_552,
        {"BF16": 7_248_023_552},
        14_496_047_104,
        131_072,
        32768,
    ),
    (
        "mistralai/Mixtral-8x7B-v0.1",
        gated("mixtral", 32, 32, 8, 4096, 14336, 32000, 32768, num_local_experts=8),
        46_702_792_704,
        {"BF16": 46_702_792_704},
        93_405_585_408,
        131_072,
        32768,
    ),
    (
        "google/gemma-2-2b-it",
        gated("gemma2", 26, 8, 4, 2304, 9216, 256000, 8192, tied=True, head_dim=256, sliding_window=4096),
        2_614_341_888,
        {"BF16": 2_614_341_888},
        5_228_683_776,
        106_496,
        8192,
    ),
    (
        "google/gemma-2-9b-it",
        gated("gemma2", 42, 16, 8, 3584, 14336, 256000, 8192, tied=True, head_dim=256, sliding_window=4096),
        9_241_705_984,
        {"BF16": 9_241_705_984},
        18_483_411_968,
        344_064,
        8192,
    ),
    (
        "google/gemma-3-1b-it",
        gated(
            "gemma3_text",
            26,
            4,
            1,
            1152,
            6912,
            262144,
            131072,
            tied=True,
            head_dim=256,
            sliding_window=512,
            sliding_window_pattern=6,
        ),
        999_885_952,
        {"BF16": 999_885_952},
        1_999_771_904,
        26_624,
        131072,
    ),
    (
        "microsoft/Phi-3-mini-4k-instruct",
        gated("phi3", 32, 32, 32, 3072, 8192, 32064, 4096),
        3_821_079_552,
        {"BF16": 3_821_079_552},
        7_642_159_104,
        393_216,
        4096,
    ),
    (
        "microsoft/phi-4",
        gated("phi3", 40, 40, 10, 5120, 17920, 100352, 16384),
        14_659_507_200,
        {"BF16": 14_659_507_200},
        29_319_014_400,
        204_800,
        16384,
    ),
    ("microsoft/phi-2", PHI2, None, {"F16": 2_779_683_840}, 5_559_367_680, 327_680, 2048),
    (
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",  # the shape of Qwen2.5-1.5B, but untied
        gated("qwen2", 28, 12, 2, 1536, 8960, 151936, 131072),
        1_777_088_000,
        {"BF16": 1_777_088_000},
        3_554_176_000,
        28_672,
        131072,
    ),
    (
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        QWEN2_7B,
        7_615_616_512,
        {"BF16": 7_615_616_512},
        15_231_233_024,
        57_344,
        131072,
    ),
    (
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        LLAMA_8B,
        8_030_261_248,
        {"BF16": 8_030_261_248},
        16_060_522_496,
        131_072,
        131072,
    ),
    ("deepseek-ai/DeepSeek-V3", DEEPSEEK_V3, None, {}, 688_586_727_753, 70_272, 163840),
]
ROWS = [pytest.param(*row[1:], id=row[0]) for row in PUBLISHED]


@pytest.mark.parametrize(("config", "parameters", "values", "stored", "kv", "context"), ROWS)
def test_published_models_come_out_as_published(
    config: Config, parameters: int | None, values: dict[str, int], stored: int, kv: int, context: int
) -> None:
    assert parameters_of(config) == parameters
    if values:
        assert weight_bytes(values) == stored
    facts = facts_from_config(config, stored=stored, parameters=sum(values.values()) or None)
    assert facts.weight_bytes == stored
    assert facts.kv_bytes_per_token == kv
    assert facts.context == context
    assert facts.vocabulary == config["vocab_size"]


def test_a_small_model_may_need_three_times_the_cache_of_a_large_one() -> None:
    kv = {name: cache for name, _, _, _, _, cache, _ in PUBLISHED}
    assert kv["microsoft/Phi-3-mini-4k-instruct"] == 3 * kv["meta-llama/Llama-3.1-8B-Instruct"]


def test_a_latent_cache_of_671_billion_parameters_is_smaller_than_that_of_eight() -> None:
    assert (kv_bytes_per_token(DEEPSEEK_V3) or 0) < (kv_bytes_per_token(LLAMA_8B) or 0)


def test_gpt2_is_stored_in_32_bits() -> None:
    assert weight_bytes({"F32": 124_439_808}) == 497_759_232 > weights_of(124_439_808)


def test_an_eight_bit_cache_is_half_a_sixteen_bit_one() -> None:
    assert kv_bytes_per_token(LLAMA_8B, bytes_per_value=1) == 65_536


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({"n_layer": 32, "n_head": 71, "hidden_size": 4544, "multi_query": True}, 8192, id="falcon-7b"),
        pytest.param(
            {
                "num_hidden_layers": 60,
                "num_attention_heads": 128,
                "num_kv_heads": 8,
                "hidden_size": 8192,
                "multi_query": True,
                "new_decoder_architecture": True,
            },
            122_880,
            id="falcon-40b",
        ),
        pytest.param({"n_layers": 32, "n_heads": 32, "d_model": 4096}, 524_288, id="mpt-7b"),
        pytest.param(
            {"n_layers": 40, "n_heads": 48, "d_model": 6144, "attn_config": {"kv_n_heads": 8}}, 163_840, id="dbrx"
        ),
        pytest.param({"num_transformer_layers": 2, "num_kv_heads": [3, 5], "head_dim": 64}, 2048, id="openelm-like"),
        pytest.param(
            {
                "num_hidden_layers": 48,
                "full_attention_interval": 4,
                "num_attention_heads": 16,
                "num_key_value_heads": 2,
                "head_dim": 256,
            },
            24_576,
            id="qwen3-next",
        ),
        pytest.param(
            {
                "num_hidden_layers": 4,
                "layer_types": ["conv", "full_attention", "linear_attention", "sliding_attention"],
                "num_key_value_heads": 1,
                "head_dim": 64,
            },
            512,
            id="hybrid-by-layer-types",
        ),
        pytest.param(
            {"num_hidden_layers": 5, "hybrid_override_pattern": "M-M*-", "num_key_value_heads": 8, "head_dim": 128},
            4096,
            id="nemotron-h",
        ),
        pytest.param(
            {"num_hidden_layers": 30, "num_kv_shared_layers": 10, "num_key_value_heads": 2, "head_dim": 256},
            40_960,
            id="shared-cache-layers",
        ),
    ],
)
def test_every_family_has_its_own_words_for_the_same_numbers(config: Config, expected: int) -> None:
    assert kv_bytes_per_token(config) == expected


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_hidden_layers": None, "hidden_size": 8, "num_attention_heads": 2},
        {"num_hidden_layers": 2, "num_attention_heads": True, "hidden_size": "768"},
        {"num_hidden_layers": -3, "num_attention_heads": 2, "hidden_size": 64},
        {"num_hidden_layers": 10**30, "num_attention_heads": 2, "hidden_size": 64},
    ],
)
def test_what_a_configuration_does_not_tell_stays_unknown(config: Config) -> None:
    assert kv_bytes_per_token(config) is None
    facts = facts_from_config(config)
    assert (facts.weight_bytes, facts.kv_bytes_per_token, facts.parameters, facts.context) == (None, None, None, None)


def test_a_multimodal_model_is_sized_by_its_language_part() -> None:
    config = {"model_type": "llava", "text_config": LLAMA_8B, "vision_config": {"num_hidden_layers": 24}}
    assert text_config(config) is LLAMA_8B
    assert facts_from_config(config, stored=1).kv_bytes_per_token == 131_072


def test_without_stored_bytes_the_configuration_stands_in_and_says_so() -> None:
    facts = facts_from_config(LLAMA_8B)
    assert (facts.parameters, facts.weight_bytes) == (8_030_261_248, 16_060_522_496)
    assert "computed from the configuration" in facts.note


def test_an_unusual_dtype_counts_as_four_bytes() -> None:
    assert weight_bytes({"F8_E4M3": 10, "F4": 3, "NOVEL": 2}) == 10 + 2 + 8


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("google/gemma-2-2b-it", "13 of 26 layers keep only 4096 tokens"),
        ("google/gemma-3-1b-it", "22 of 26 layers keep only 512 tokens"),
        ("mistralai/Mistral-7B-v0.1", "32 of 32 layers keep only 4096 tokens"),
        ("meta-llama/Llama-3.1-8B-Instruct", ""),
    ],
)
def test_sliding_windows_are_noted(name: str, note: str) -> None:
    config = next(row[1] for row in PUBLISHED if row[0] == name)
    assert window_note(config).endswith(note)
    assert bool(window_note(config)) == bool(note)


def test_a_window_that_is_switched_off_is_not_noted() -> None:
    assert window_note(gated("qwen2", 28, 28, 4, 64, 64, 64, 64, sliding_window=32, use_sliding_window=False)) == ""


def test_overhead_grows_with_the_width_of_the_model() -> None:
    assert gpu_overhead_mib(ModelFacts(hidden_size=4096)) == 512 + 64
    assert gpu_overhead_mib(ModelFacts(hidden_size=8192)) == 512 + 128
    assert cpu_overhead_mib(ModelFacts(hidden_size=192, vocabulary=2048)) == 64 + 7
