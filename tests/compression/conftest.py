"""Fixtures of the compression room: one tiny tokenizer, a few documents, and models made on demand."""

from __future__ import annotations

import pytest

from toolscaler.data.documents import ToolDocument

_VERBS = ("convert", "count", "fetch", "tell", "sort", "round")


@pytest.fixture(scope="session")
def tokenizer(make_tiny_tokenizer):
    return make_tiny_tokenizer()


@pytest.fixture(scope="session")
def documents():
    """Twelve documents of clearly different length."""
    return [
        ToolDocument(
            name=f"{verb}_{i}",
            provider="tests",
            category="Units" if i % 2 else "Dates",
            description=" ".join([f"{verb} the value number {i}."] * (1 + i % 5)),
            code=f"{verb}_{i}(value=1)",
        )
        for i, verb in enumerate(_VERBS * 2)
    ]


@pytest.fixture
def make_model(make_tiny_model, tokenizer):
    """``make_model(arch="llama", tie=False, **from_base_model arguments)`` -> a compressor in evaluation mode."""
    from toolscaler.compression import GistForToolCompression

    def make(arch="llama", tie=False, hidden_size=32, **keys):
        return GistForToolCompression.from_base_model(make_tiny_model(arch, tokenizer, hidden_size, tie=tie), **keys)

    return make
