"""What `train` leaves behind, read back: for the two exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from network import Shape
from torch import Tensor

CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'user' %}<|user|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|assistant|>{{ m.content }}<|endoftext|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Writes a conversation as `corpus.chat` does."""


class Checkpoint(NamedTuple):
    """Weights by the names of `network`, and the tokenizer as its file has it."""

    shape: Shape
    weights: dict[str, Tensor]
    tokenizer: dict[str, Any]


def load(folder: Path) -> Checkpoint:
    saved = torch.load(folder / "ckpt.pt", weights_only=True)
    return Checkpoint(Shape(**saved["shape"]), saved["weights"], json.loads((folder / "tokenizer.json").read_text()))
