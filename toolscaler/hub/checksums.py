"""Checksums that outlive a change of library: a tokenizer without its codes, a base model without its code rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from toolscaler.tokenization import ToolscalerTokenizer

# Texts whose ids show how a tokenizer splits: spaces, case, digits, accents, other scripts, marks, line breaks.
_PROBES = (
    "The quick brown fox jumps over 13 lazy dogs.",
    "  two  spaces,\ttab,\n\nline breaks ",
    "camelCase snake_case kebab-case SHOUT 3.14159 1,000,000",
    "Größe naïve façade Ærøskøbing",
    "日本語 русский العربية हिन्दी 🙂",
    '{"name": "get_weather", "arguments": {"city": "Oslo"}}',
    "https://example.org/a?b=c&d=e#f",
)
_SAMPLES = 64
_WRAPPINGS = (".base_layer", ".token_adapter", ".original_module")


def tokenizer_sha256(tokenizer: Any) -> str:
    """Give a hash of a fast tokenizer that is the same before and after it was given codes.

    It covers the vocabulary (tokens and ids below the first code) and the ids of some probe texts, not the text of
    ``tokenizer.json``, which changes with the library that writes it.

    Args:
        tokenizer: A base tokenizer or a :class:`~toolscaler.tokenization.ToolscalerTokenizer` made from it.

    Returns:
        64 hexadecimal digits.
    """
    first = getattr(tokenizer, "first_code_id", None)
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted((index, token) for token, index in vocabulary.items() if first is None or index < first)
    ids = [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in _PROBES]
    return hashlib.sha256(json.dumps([tokens, ids], ensure_ascii=True).encode()).hexdigest()


def base_checksum(model: Any, tokenizer: ToolscalerTokenizer) -> str:
    """Give a checksum of a model's weights without its code rows and adapters.

    Of each parameter go in: name, shape, dtype, the exact sum over its bits, and a sample of its values. It tells one
    base from another; it is no defence against somebody who forges weights.

    Args:
        model: Causal LM with code rows, or a ``PeftModel`` around one.
        tokenizer: Its tokenizer, which says which rows are codes.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    spans = (slice(0, tokenizer.first_code_id), slice(tokenizer.first_code_id + tokenizer.num_code_tokens, None))
    tables = {id(layer.weight) for layer in _vocabulary_layers(model)}
    for name, parameter in sorted(base_parameters(model)):
        parts = [parameter.detach()[span] for span in spans] if id(parameter) in tables else [parameter.detach()]
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} {list(map(_bits, parts))}\n".encode())
    return digest.hexdigest()[:32]


def base_parameters(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield a model's own parameters under the names they have without an adapter's wrapping."""
    for name, parameter in model.named_parameters():
        if "lora_" in name or "trainable_tokens" in name:
            continue
        if hasattr(model, "peft_config"):
            name = name.removeprefix("base_model.model.")
        for wrapping in _WRAPPINGS:
            name = name.replace(wrapping + ".", ".")
        yield name, parameter


def _vocabulary_layers(model: Any) -> Iterator[Any]:
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        while layer is not None and hasattr(layer, "token_adapter"):
            layer = layer.token_adapter.base_layer
        if layer is not None:
            yield layer


def _bits(values: Tensor) -> tuple[int, list[int]]:
    """Give the exact sum over the bits of some values, and a sample of them."""
    import torch

    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    bits = values.reshape(-1).view(integers)
    sample = bits[:: max(1, len(bits) // _SAMPLES)].cpu().tolist() if len(bits) else []
    return int(bits.sum(dtype=torch.int64)), sample
