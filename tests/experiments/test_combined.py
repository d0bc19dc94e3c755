"""A hybrid of a grid: which tools it takes for unseen, and a temperature from the validation queries alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from toolscaler.codebook import Codebook
from toolscaler.data import ToolDocument, ToolQuery
from toolscaler.decoding import GenerativeRetriever, HybridRetriever
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.evaluation import BM25Retriever
from toolscaler.experiments.systems import find_system
from toolscaler.tokenization import ToolscalerTokenizer

WORDS = ("count", "word", "metre", "week", "block", "mine")
DOCUMENTS = [ToolDocument(name=f"tool_{n}", description=f"{word} tool") for n, word in enumerate(WORDS)]
VALIDATION = [ToolQuery(f"{word} please", (f"tool_{n}",)) for n, word in enumerate(WORDS[:4])]


@pytest.fixture(scope="module")
def model(make_tiny_tokenizer, make_tiny_model) -> GenerativeRetriever:
    base = make_tiny_tokenizer()
    codebook = Codebook.fit(
        np.random.default_rng(0).normal(size=(6, 2, 32)).astype(np.float32),
        [document.id for document in DOCUMENTS],
        num_centroids=3,
        num_levels=1,
        reduced_dim=4,
    )
    tokenizer = ToolscalerTokenizer.from_tokenizer(base, codebook)
    return GenerativeRetriever(initialize_code_embeddings(make_tiny_model("llama", base), tokenizer), tokenizer)


@pytest.fixture
def context(model) -> SimpleNamespace:
    queries = {"train": VALIDATION[:3], "validation": VALIDATION}
    parts = {"draft": BM25Retriever(DOCUMENTS), "model": model}
    return SimpleNamespace(
        load_part=lambda role: SimpleNamespace(retriever=parts[role], facts={"from": "model"}),
        options={"draft_k": 6},
        evaluation={"beams": 3},
        data=SimpleNamespace(documents=DOCUMENTS, queries=queries.__getitem__),
    )


def load(context: Any) -> Any:
    return find_system("hybrid").load(context)


def test_tools_without_a_training_query_are_unseen(context: Any) -> None:
    found = load(context)
    assert found.retriever.unseen == {"tool_3", "tool_4", "tool_5"}
    assert found.facts == {"unseen_tools": 3, "from": "model"}
    assert (found.retriever.temperature, found.retriever.num_beams) == (1.0, 3)
    context.options = {"unseen": False}
    assert load(context).retriever.unseen == frozenset()


def test_the_temperature_is_calibrated_on_validation_queries(context: Any, model: GenerativeRetriever) -> None:
    context.options = {"draft_k": 6, "max_loss": 0.5}
    found = load(context)
    twin = HybridRetriever(BM25Retriever(DOCUMENTS), model, draft_k=6, unseen=found.retriever.unseen, num_beams=3)
    wanted = twin.calibrate([q.text for q in VALIDATION], [q.tools for q in VALIDATION], max_loss=0.5)
    assert found.facts["temperature"] == found.retriever.temperature == wanted
    assert wanted != 1.0
    context.options = {"unseen": False, "max_loss": 0.5}  # nothing is unseen: nothing to calibrate
    assert "temperature" not in load(context).facts
