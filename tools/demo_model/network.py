"""The demonstration model as a network: a small Llama, written out so that it can be trained without further packages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-5
ROPE_BASE = 10_000.0
LONGEST = 1024
"""Tokens of context that the exported model claims; the angles of twice as many are known."""


@dataclass(frozen=True)
class Shape:
    """All that must be known of the model besides its weights."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, EPSILON)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on interleaved pairs, which is llama.cpp's order: the export has nothing to permute."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Block(nn.Module):
    """Attention with shared keys and values, then SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._shape = shape
        width, kv_width = shape.width, shape.kv_heads * shape.head_width
        self.attention_norm = Norm(width)
        self.feed_forward_norm = Norm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, kv_width, bias=False)
        self.value = nn.Linear(width, kv_width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, shape.feed_forward, bias=False)
        self.up = nn.Linear(width, shape.feed_forward, bias=False)
        self.down = nn.Linear(shape.feed_forward, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self._attend(self.attention_norm(x), cos, sin)
        h = self.feed_forward_norm(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))

    def _attend(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape = self._shape
        batch, length, _ = h.shape

        def split(x: Tensor, heads: int) -> Tensor:
            return x.view(batch, length, heads, shape.head_width).transpose(1, 2)

        query = rotate(split(self.query(h), shape.heads), cos, sin)
        key = rotate(split(self.key(h), shape.kv_heads), cos, sin)
        value = split(self.value(h), shape.kv_heads)
        shared_by = shape.heads // shape.kv_heads
        key, value = key.repeat_interleave(shared_by, 1), value.repeat_interleave(shared_by, 1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.attention_out(mixed.transpose(1, 2).reshape(batch, length, shape.width))


class Network(nn.Module):
    """Token ids (batch × length) in, logits (batch × length × vocabulary) out; input and output share their embeddings."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width)
        frequencies = 1.0 / (ROPE_BASE ** (torch.arange(0, shape.head_width, 2).float() / shape.head_width))
        angles = torch.outer(torch.arange(2 * LONGEST).float(), frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._initialise(0.02, shape.layers)

    def _initialise(self, deviation: float, layers: int) -> None:
        """As GPT-2 did: what is added to the residual stream begins smaller, the more layers add to it."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0, deviation)
        for block in self.blocks:
            nn.init.normal_(block.attention_out.weight, 0, deviation / math.sqrt(2 * layers))
            nn.init.normal_(block.down.weight, 0, deviation / math.sqrt(2 * layers))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embeddings(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        return functional.linear(self.norm(x), self.embeddings.weight)
