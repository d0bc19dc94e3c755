"""Prompts read both ways: every prompt token attends to the whole prompt, every code to what stands before it.

It is the prefix language model of Raffel et al. (2020), section 3.2.1; the paper's prompts are causal. A model says by
``config.is_causal = False`` that it reads so: transformers then gives a prompt no causal mask, and what is generated
behind it, token by token, sees all before it. Whole rows, prompt and codes together, need the mask made here.
"""

from __future__ import annotations

from typing import Any

import torch

from toolscaler.errors import TrainingError

#: Attention implementations that take a mask of our own.
_TAKES_MASKS = ("sdpa", "eager")

_PROBE = 4


def reads_both_ways(model: Any) -> bool:
    """Say whether a model reads prompts both ways."""
    return getattr(model.config.get_text_config(), "is_causal", True) is False


def both_ways_mask(model: Any, real: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
    """Make the mask of whole rows.

    Args:
        model: Model with ``sdpa`` or ``eager`` attention.
        real: (B, T), nonzero where a token may be seen.
        prompt: (B, T) bool, true in the columns of the prompt, padding before it included.

    Returns:
        (B, 1, T, T): bool for ``sdpa``, else numbers in the model's dtype to be added. Each token sees the real tokens
        of the prompt, the real ones before it, and itself.
    """
    width = real.shape[1]
    before = torch.ones(width, width, dtype=torch.bool, device=real.device).tril()
    seen = (before | prompt.to(real.device)[:, None]) & real.bool()[:, None]
    # A hidden token sees itself, since a softmax over nothing is not a number.
    seen |= torch.eye(width, dtype=torch.bool, device=real.device)
    if getattr(model.config.get_text_config(), "_attn_implementation", "sdpa") == "sdpa":
        return seen[:, None]
    lowest = torch.finfo(model.dtype).min
    return torch.zeros(seen.shape, dtype=model.dtype, device=seen.device).masked_fill_(~seen, lowest)[:, None]


def read_both_ways(model: Any, longest: int | None = None) -> None:
    """Let a causal LM read prompts both ways from now on, after a look at whether its architecture can.

    Args:
        model: Causal LM, maybe inside a PEFT wrapper. Its ``config.is_causal`` is set, which is saved with it.
        longest: Longest row, in tokens; default: not known.

    Raises:
        TrainingError: Its attention takes no mask of our own, a layer looks back less far than rows are long, or it
            goes on reading prompts causally. The model is as before.
    """
    config = model.config.get_text_config()
    name = type(model).__name__
    if getattr(config, "_attn_implementation", None) not in _TAKES_MASKS:
        raise TrainingError(
            f"bidirectional_prompts: expected {' or '.join(_TAKES_MASKS)} attention, {name} has "
            f"{config._attn_implementation!r}; load it with attn_implementation='sdpa'"
        )
    window = getattr(config, "sliding_window", None)
    near = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    if window and near and (longest is None or longest > window):
        raise TrainingError(
            f"bidirectional_prompts: {name} looks back {window} tokens, expected at least max_length={longest}"
        )
    before = getattr(config, "is_causal", None)
    config.is_causal = False
    partitioned = model.get_input_embeddings().weight.shape[0] == 0  # under ZeRO-3 nobody can look
    if not partitioned and not _reads_as_said(model):
        if before is None:
            del config.is_causal
        else:
            config.is_causal = before
        raise TrainingError(
            f"bidirectional_prompts: expected a decoder that reads config.is_causal, {name} does not in this version "
            "of transformers; set it off"
        )


@torch.no_grad()
def _reads_as_said(model: Any) -> bool:
    """Say whether a prompt is read both ways, and whether our mask of prompt and codes gives the same of the prompt."""
    training = model.training
    model.eval()
    try:
        ids = torch.arange(_PROBE + 2, device=model.device)[None] + 1
        other = ids.clone()
        other[:, _PROBE - 1] = 0
        real = torch.ones_like(ids)
        mask = both_ways_mask(model, real, torch.arange(_PROBE + 2)[None] < _PROBE)

        def first(tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            logits = model(input_ids=tokens, attention_mask=mask, use_cache=False, return_dict=True).logits
            return logits[:, 0].float()

        alone, changed, whole = first(ids[:, :_PROBE]), first(other[:, :_PROBE]), first(ids, mask)
    finally:
        model.train(training)
    scale = alone.abs().max()
    near = (alone - whole).abs().max() <= 3e-2 * scale
    return bool((alone - changed).abs().max() > 1e-6 * scale) and bool(near)
