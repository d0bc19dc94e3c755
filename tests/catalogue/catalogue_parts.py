"""A tiny artefact with everything a catalogue needs, made on the spot; imported by tests and the scripts they start."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import tiny

VERBS, THINGS = ("convert", "count", "sort", "round"), ("length", "words", "rows", "money")


def document(name: str, text: str = "", **more: Any) -> Any:
    """A document of the provider ``units``."""
    from toolscaler.data import ToolDocument

    more = {"provider": "units", "category": "Units", **more}
    return ToolDocument(name=name, description=text or f"Will {name.replace('_', ' ')} – ü", **more)


def documents() -> list[Any]:
    return [document(f"{verb}_{thing}") for verb in VERBS for thing in THINGS]


def extra_documents(count: int, prefix: str = "extra") -> list[Any]:
    return [document(f"{prefix}_{n}", f"Number {n * 7919 % 1009} of the tools that came later.") for n in range(count)]


def compressor() -> tuple[Any, Any]:
    """An untrained gist compressor and its tokenizer, the same ones each time."""
    import torch

    from toolscaler.compression import GistForToolCompression

    tokenizer = tiny.tiny_tokenizer()
    torch.manual_seed(0)
    return GistForToolCompression.from_base_model(tiny.tiny_model("llama", tokenizer), num_gist_tokens=2), tokenizer


def make_artefact(folder: Path, *, with_compressor: bool = True, with_documents: bool = True, **keys: Any) -> None:
    """Save an artefact of 16 tools, whose codes the compressor's own embeddings were quantised to."""
    from toolscaler.codebook import Codebook
    from toolscaler.compression import encode_documents
    from toolscaler.embedding import initialize_code_embeddings
    from toolscaler.hub import save_artifact
    from toolscaler.tokenization import ToolscalerTokenizer

    tools = documents()
    model, base_tokenizer = compressor()
    gists = encode_documents(model, base_tokenizer, tools, show_progress=False)
    book = Codebook.fit(gists, [tool.id for tool in tools], **{"num_centroids": 6, "reduced_dim": 6, **keys})
    hashes = {tool.id: tool.content_hash for tool in tools}
    tokenizer = ToolscalerTokenizer.from_tokenizer(tiny.tiny_tokenizer(), book, document_hashes=hashes)
    lm = initialize_code_embeddings(tiny.tiny_model("llama", seed=1), tokenizer, gists)
    more: dict[str, Any] = {"compressor": model, "compressor_tokenizer": base_tokenizer} if with_compressor else {}
    save_artifact(folder, lm, tokenizer, documents=tools if with_documents else None, **more)


def gists(count: int, seed: int = 0) -> np.ndarray:
    """Random gist embeddings, for changes that need no compressor."""
    return np.random.default_rng(seed).normal(size=(count, 2, 32)).astype(np.float32)
