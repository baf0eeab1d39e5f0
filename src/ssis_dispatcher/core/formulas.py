"""Formulas: what follows from a model's ``config.json`` and its tensor counts.

Pure functions over a configuration as the hub publishes it. Every architecture names the same few numbers differently, so
each number is looked up under all its known names. Whatever is not said stays None; nothing is guessed here. Called by
`models/`.

Sources: the configuration classes of transformers, and the KV cache layouts that vLLM and llama.cpp allocate.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

from ssis_dispatcher.core.sizing import MIB, ModelFacts

Config = Mapping[str, object]

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV_HEADS = ("num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num", "kv_n_heads")
_HEAD_DIM = ("head_dim", "kv_channels", "d_kv", "attention_head_dim")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "model_dim", "dim")
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")

_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
_BITS |= {"I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
_DTYPES = {"float32": 32, "float16": 16, "bfloat16": 16, "float8_e4m3fn": 8, "int8": 8}

_WITHOUT_CACHE = ("linear", "mamba", "recurrent", "conv", "rwkv", "moe", "mlp")
"""Words in the name of a layer type that keeps no KV cache (a state of constant size, or none)."""


def kv_bytes_per_token(config: Config, bytes_per_value: int = 2) -> int | None:
    """Bytes of KV cache that one token takes over all layers; None where ``config`` does not tell.

    Attention keeps keys and values: 2 × layers × KV heads × head dimension × bytes. Multi-head latent attention (MLA,
    DeepSeek) keeps one latent instead: layers × (``kv_lora_rank`` + ``qk_rope_head_dim``) × bytes. Layers without
    attention (linear, Mamba) keep none. Layers with a sliding window hold at most a window of tokens, so that for them
    this is an upper bound (`window_note`).
    """
    config = text_config(config)
    layers = _cached_layers(config)
    if layers is None:
        return None
    rank = _number(config, "kv_lora_rank")
    if rank:
        return layers * (rank + (_number(config, "qk_rope_head_dim") or 0)) * bytes_per_value
    heads, width = _kv_heads(config), _head_dim(config)
    if isinstance(heads, list):
        return 2 * sum(heads) * width * bytes_per_value if width else None
    if heads is None or width is None:
        return None
    return 2 * layers * heads * width * bytes_per_value


def window_note(config: Config) -> str:
    """For people: which layers hold less than `kv_bytes_per_token` says; "" where none do."""
    config = text_config(config)
    window, layers = _number(config, "sliding_window"), _number(config, *_LAYERS)
    if not window or not layers or config.get("use_sliding_window") is False:
        return ""
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        sliding = sum(kind == "sliding_attention" for kind in kinds)
    elif config.get("model_type") == "gemma2":
        sliding = layers // 2
    else:
        pattern = _number(config, "sliding_window_pattern")
        sliding = layers - layers // pattern if pattern else layers
    return f"KV cache is an upper bound: {sliding} of {layers} layers keep only {window} tokens" if sliding else ""


def weight_bytes(counts: Mapping[str, int]) -> int:
    """Stored bytes from the number of values per safetensors dtype (``{"BF16": 8030261248}``).

    Covers packed weights (AWQ and GPTQ store I32, MXFP4 stores U8). A dtype that is not known counts 4 bytes a value.
    """
    return ceil(sum(count * _BITS.get(dtype.upper(), 32) for dtype, count in counts.items()) / 8)


def weights_of(parameters: int, bits: float = 16) -> int:
    """Bytes of ``parameters`` values at ``bits`` each."""
    return ceil(parameters * bits / 8)


def parameters_of(config: Config) -> int | None:
    """Number of parameters that the configuration implies; None for architectures not covered.

    Covers decoders with a gated MLP (Llama, Mistral, Qwen 2 and 3, Gemma, Phi-3), their mixtures of experts (Mixtral,
    Qwen 3 MoE), and GPT-2. Tied embeddings count once, although some files store them twice.
    """
    config = text_config(config)
    family = str(config.get("model_type", ""))
    layers, hidden, vocabulary = (_number(config, *names) for names in (_LAYERS, _HIDDEN, ("vocab_size",)))
    if not layers or not hidden or not vocabulary:
        return None
    if family == "gpt2":
        positions = _number(config, *_CONTEXT) or 0
        return (vocabulary + positions + 2) * hidden + layers * (12 * hidden + 13) * hidden
    if family not in _GATED:
        return None
    attention = _attention_parameters(config, family, hidden)
    mlp = _mlp_parameters(config, family, hidden)
    if attention is None or mlp is None:
        return None
    norms = (4 if family in ("gemma2", "gemma3_text") else 2) * hidden
    tied = config.get("tie_word_embeddings", family.startswith("gemma"))
    return vocabulary * hidden * (1 if tied else 2) + layers * (attention + mlp + norms) + hidden


def facts_from_config(
    config: Config, *, stored: int | None = None, parameters: int | None = None, source: str = "safetensors"
) -> ModelFacts:
    """All that ``config`` tells. ``stored`` (bytes of the weight files) and ``parameters`` are better known elsewhere;
    where they are not, the configuration's own numbers and dtype stand in for them."""
    text = text_config(config)
    notes = [window_note(config)]
    if parameters is None:
        parameters = parameters_of(config)
    if stored is None and parameters is not None:
        dtype = text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or config.get("dtype")
        stored = weights_of(parameters, _DTYPES.get(str(dtype), 16))
        notes.append("weights computed from the configuration")
    return ModelFacts(
        source=source,
        weight_bytes=stored,
        kv_bytes_per_token=kv_bytes_per_token(config),
        context=_number(text, *_CONTEXT),
        parameters=parameters,
        hidden_size=_number(text, *_HIDDEN),
        vocabulary=_number(text, "vocab_size"),
        note="; ".join(note for note in notes if note),
    )


def gpu_overhead_mib(facts: ModelFacts, prefill_tokens: int = 2048) -> int:
    """MiB per GPU beside weights and KV cache, without the share of the slice: a CUDA context and graphs (512), and the
    activations of one prefill chunk (four layers' worth at 16 bit)."""
    return 512 + ceil(prefill_tokens * (facts.hidden_size or 4096) * 4 * 2 / MIB)


def cpu_overhead_mib(facts: ModelFacts, batch: int = 512) -> int:
    """MiB of a llama.cpp process on a CPU beside weights and KV cache: the process itself (64), and its compute buffer
    for one batch (logits and a few layers' worth of activations at 32 bit).

    Measured with the packaged model: 28 MiB for the process, 30 with 16 seats; 5.89 MiB for the buffer, where this
    counts 6.25, and no more for a longer context (flash attention).
    """
    return 64 + ceil(batch * ((facts.vocabulary or 128_000) + 6 * (facts.hidden_size or 4096)) * 4 / MIB)


def text_config(config: Config) -> Config:
    """The language model's part of ``config``: that of a multimodal model is nested."""
    for name in _NESTED:
        nested = config.get(name)
        if isinstance(nested, Mapping) and _number(nested, *_LAYERS):
            return nested
    return config


_GATED = frozenset(
    {"llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "phi3"}
)
"""Model types whose parameters `parameters_of` can count, beside GPT-2."""


def _attention_parameters(config: Config, family: str, hidden: int) -> int | None:
    heads, kv_heads, width = _number(config, *_HEADS), _kv_heads(config), _head_dim(config)
    if not heads or not isinstance(kv_heads, int) or not width:
        return None
    parameters = 2 * hidden * heads * width + 2 * hidden * kv_heads * width
    if family == "qwen2":
        parameters += (heads + 2 * kv_heads) * width  # biases of q, k and v
    if family in ("qwen3", "qwen3_moe", "gemma3_text"):
        parameters += 2 * width  # norms of q and k
    return parameters


def _mlp_parameters(config: Config, family: str, hidden: int) -> int | None:
    experts = _number(config, "num_local_experts", "num_experts") if family in ("mixtral", "qwen3_moe") else None
    width = _number(config, "moe_intermediate_size" if family == "qwen3_moe" else "intermediate_size")
    if not width:
        return None
    return 3 * hidden * width * (experts or 1) + hidden * (experts or 0)


def _cached_layers(config: Config) -> int | None:
    """Layers that keep a KV cache."""
    for name in ("layer_types", "layers_block_type"):
        kinds = config.get(name)
        if isinstance(kinds, list) and kinds:
            return sum(not any(word in str(kind) for word in _WITHOUT_CACHE) for kind in kinds)
    pattern = config.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:
        return pattern.count("*")
    layers = _number(config, *_LAYERS)
    period = _number(config, "full_attention_interval", "attn_layer_period")
    if layers and period:
        return layers // period
    return layers and layers - (_number(config, "num_kv_shared_layers") or 0)


def _kv_heads(config: Config) -> int | list[int] | None:
    """KV heads per layer (one number, or one per layer); as many as query heads where nothing else is said."""
    for name in _KV_HEADS:
        value = config.get(name)
        if isinstance(value, list) and value and all(isinstance(heads, int) for heads in value):
            return value
    nested = config.get("attn_config")
    found = _number(config, *_KV_HEADS) or (_number(nested, *_KV_HEADS) if isinstance(nested, Mapping) else None)
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        return 1
    return found or _number(config, *_HEADS)


def _head_dim(config: Config) -> int | None:
    hidden, heads = _number(config, *_HIDDEN), _number(config, *_HEADS)
    return _number(config, *_HEAD_DIM) or (hidden // heads if hidden and heads else None)


def _number(config: Mapping[Any, object], *names: str) -> int | None:
    """The first positive whole number among ``names``; configurations hold nulls, lists and text in these places."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 53:
            return value
    return None
