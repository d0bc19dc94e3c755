"""Catalogues and models that the room's tests share."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

SIZES = (4, 3, 4)
CHAT = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="session")
def make_tokenizer(make_tiny_tokenizer):
    """Give ``make(count=12, shared=False, chat=False, seed=0)`` -> a new tokenizer of ``count`` tools."""
    from toolscaler.tokenization import ToolscalerTokenizer

    base = cache(lambda chat: make_tiny_tokenizer(chat_template=CHAT if chat else None))

    def make(count: int = 12, *, shared: bool = False, chat: bool = False, seed: int = 0, sizes=SIZES):
        rng = np.random.default_rng(seed)
        rows = rng.choice(np.prod(sizes), size=count, replace=shared)
        return ToolscalerTokenizer.from_tokenizer(
            base(chat),
            codes=np.stack(np.unravel_index(rows, sizes), 1),
            tool_ids=[f"tool_{k}" for k in range(count)],
            code_sizes=sizes,
            collisions="share" if shared else "reassign",
        )

    return make


@pytest.fixture(scope="session")
def make_model(make_tiny_model):
    """Give ``make(tokenizer, arch="llama", **options)`` -> a model with code rows and clearly different scores."""
    from toolscaler.embedding import initialize_code_embeddings

    def make(tokenizer, arch: str = "llama", *, pad_to_multiple_of: int | None = None, **options):
        model = make_tiny_model(arch, tokenizer, **options)
        initialize_code_embeddings(model, tokenizer, init="random", pad_to_multiple_of=pad_to_multiple_of)
        with torch.no_grad():  # random weights give nearly equal logits: make rounding and rank two different things
            for name, weight in model.named_parameters():
                if weight.ndim == 2:
                    weight.mul_(8 if "lm_head" in name else 4)
        return model

    return make
