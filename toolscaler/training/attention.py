"""Which attention a model is loaded with: FlashAttention-2 where it can run, else what its architecture prefers."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger(__name__)

_said: set[str] = set()
# FlashAttention-2 needs Ampere or newer.
_CAPABILITY = (8, 0)


def attention_implementation(wanted: str | None = None, *, bf16: bool | None = None) -> str | None:
    """Choose the attention to load a model with; the choice is logged once.

    Args:
        wanted: A name that transformers knows is taken as it is; ``None`` or ``"auto"`` chooses.
        bf16: Whether training computes in bfloat16; FlashAttention computes in half precision only. Default: where a
            GPU supports it.

    Returns:
        ``attn_implementation`` for ``from_pretrained``; ``None``: the architecture's default.
    """
    if wanted not in (None, "auto"):
        return wanted
    why = _why_not(bf16)
    chosen = None if why else "flash_attention_2"
    line = f"attention: the architecture's default, {why}" if why else "attention: FlashAttention-2"
    if line not in _said:
        _said.add(line)
        logger.info("%s", line)
    return chosen


def _why_not(bf16: bool | None) -> str | None:
    """Say why FlashAttention-2 cannot run; ``None`` where it can."""
    from transformers.utils import is_flash_attn_2_available

    if not torch.cuda.is_available():
        return "there is no GPU"
    if not is_flash_attn_2_available():
        return "flash-attn is not installed"
    if torch.cuda.get_device_capability() < _CAPABILITY:
        return "the GPU is too old for FlashAttention-2"
    if not (torch.cuda.is_bf16_supported() if bf16 is None else bf16):
        return "training is not in bfloat16"
    return None
