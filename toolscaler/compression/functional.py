"""Tensor arithmetic of the compressor that needs no model: the loss, and the statistics of an embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Label of positions that carry no loss.
IGNORE_INDEX = -100


def target_loss(logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Give the cross-entropy over target tokens, padding left out of sum and count.

    Args:
        logits: ``(R, T, vocabulary)``.
        labels: ``(R, T)`` int64, -100 where nothing is to be predicted.
        num_items: Divisor. Default: the number of target tokens in ``labels``.

    Returns:
        Scalar, float32.
    """
    total = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )
    if num_items is None:
        num_items = (labels != IGNORE_INDEX).sum().clamp(min=1)
    return total / (num_items.to(total.device) if isinstance(num_items, Tensor) else num_items)


@torch.no_grad()
def embedding_statistics(embedding: nn.Module, chunk: int = 8192) -> tuple[Tensor, Tensor]:
    """Give mean and standard deviation, per dimension, of what a token embedding puts into the first layer.

    The module is called rather than its weight read: some (Gemma's) scale their rows, and ``inputs_embeds`` are not
    scaled again.

    Args:
        embedding: Token embedding of any causal language model.
        chunk: Rows a step.

    Returns:
        Two vectors ``(D,)``, float32, on the CPU.
    """
    size = embedding.weight.shape[0]
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    for start in range(0, size, chunk):
        ids = torch.arange(start, min(start + chunk, size), device=embedding.weight.device)
        rows = embedding(ids).double().cpu()
        total, squares = total + rows.sum(0), squares + rows.square().sum(0)
    mean = torch.as_tensor(total) / size
    variance = (torch.as_tensor(squares) / size - mean.square()).clamp(min=0)
    return mean.float(), variance.sqrt().float()
