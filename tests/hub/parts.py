"""Tiny parts of an artefact, made on the spot; imported by tests and by the scripts that they start."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import tiny

TOOLS = [f"units/{verb} {thing}" for verb in ("convert", "count", "sort", "round") for thing in ("a", "b", "c")]
GISTS = (2, 32)


def documents() -> list[Any]:
    from toolscaler.data import ToolDocument

    return [
        ToolDocument(name=name.partition("/")[2], provider="units", category="Units", description=f"Will {name} 12 – ü")
        for name in TOOLS
    ]


def codebook(**keys: Any) -> tuple[Any, np.ndarray]:
    """A codebook over random gists of the tiny tools, and the gists."""
    from toolscaler.codebook import Codebook

    gists = np.random.default_rng(0).normal(size=(len(TOOLS), *GISTS)).astype(np.float32)
    return Codebook.fit(gists, TOOLS, **{"num_centroids": 4, "reduced_dim": 4, **keys}), gists


def tokenizer(**keys: Any) -> Any:
    from toolscaler.tokenization import ToolscalerTokenizer

    book, _ = codebook()
    hashes = {document.id: document.content_hash for document in documents()}
    return ToolscalerTokenizer.from_tokenizer(tiny.tiny_tokenizer(), book, document_hashes=hashes, **keys)


def with_codes(model: Any, codes: Any) -> Any:
    from toolscaler.embedding import initialize_code_embeddings

    return initialize_code_embeddings(model, codes, codebook()[1])


def adapted(model: Any, codes: Any, seed: int = 0) -> Any:
    """A model with an adapter whose every number was moved, as training would."""
    from toolscaler.training.adapters import with_adapter

    wrapped = with_adapter(with_codes(model, codes), codes, rank=4, alpha=8, dropout=0.0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return wrapped.eval()


def same_weights(one: Any, other: Any) -> bool:
    mine, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
