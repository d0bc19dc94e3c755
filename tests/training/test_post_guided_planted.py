"""A planted catalogue: tools with different words that are always used together draw together, others do not."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from toolscaler.codebook import Codebook
from toolscaler.codebook.translation import co_used_pairs, pair_distances
from toolscaler.compression import GistForToolCompression, encode_documents
from toolscaler.data import ToolDocument, ToolQuery, retrieval_rows
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.tokenization import ToolscalerTokenizer
from toolscaler.training import (
    CompressionConfig,
    PostGuidedConfig,
    RetrievalConfig,
    compression_trainer,
    guiding_rows,
    post_guided_trainer,
    retrieval_trainer,
)
from toolscaler.training.compression import finalize

PAIRS = 12
SEED = 0  # seeds 0, 1, 2: co-used from 2.83, 3.25, 3.25 to 2.08, 2.08, 2.00; random pairs stay at 3.1 to 3.2
FIT = {"num_levels": 2, "num_centroids": 6, "reduced_dim": 8, "seed": SEED}


def _catalogue() -> tuple[list[ToolDocument], list[ToolQuery]]:
    """Tools of four made-up words each; queries of a pair share neither words with its tools nor with other pairs."""
    rng = random.Random(SEED)
    syllables = [one + other for one in "bdfgklmnprstvz" for other in "aeiou"]

    def word() -> str:
        return "".join(rng.choice(syllables) for _ in range(3))

    words = [[word() for _ in range(4)] for _ in range(2 * PAIRS)]
    documents = [ToolDocument(w[0], f"{w[1]} {w[2]} {w[3]}", category=w[1]) for w in words]
    topics = [[word() for _ in range(3)] for _ in range(PAIRS)]
    queries = []
    for pair, topic in enumerate(topics):
        for _ in range(6):
            mixed = topic[:]
            rng.shuffle(mixed)
            tools = (documents[2 * pair].id, documents[2 * pair + 1].id)
            queries.append(ToolQuery(" ".join(mixed[:2]), tools))
    return documents, queries


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::toolscaler.codebook.CatalogueSizeWarning")
def test_co_used_tools_draw_together_and_others_do_not(make_tiny_tokenizer, make_tiny_model, tmp_path: Path) -> None:
    documents, queries = _catalogue()
    ids = [document.id for document in documents]
    tokenizer = make_tiny_tokenizer([d.to_text() for d in documents] + [q.text for q in queries], 500)
    common = {"output_dir": str(tmp_path), "disable_tqdm": True, "save_strategy": "no", "seed": SEED}
    without_validation = {"validation_share": 0.0, "load_best_model_at_end": False, "eval_strategy": "no"}

    # Round 0.
    compressor = GistForToolCompression.from_base_model(make_tiny_model("llama", tokenizer, seed=SEED), seed=SEED)
    settings = CompressionConfig(
        train_base=True, num_train_epochs=6, learning_rate=3e-3, **common, **without_validation
    )
    trainer = compression_trainer(compressor, tokenizer, documents, settings)
    trainer.train()
    compressor = finalize(trainer)
    gists = encode_documents(compressor, tokenizer, documents, show_progress=False)
    codebook = Codebook.fit(gists, ids, **FIT)
    tuned_tokenizer = ToolscalerTokenizer.from_tokenizer(tokenizer, codebook)
    model = initialize_code_embeddings(copy.deepcopy(compressor.backbone), tuned_tokenizer, gists)
    code_text = {name: tuned_tokenizer.tool_code_text(name) for name in ids}
    settings = RetrievalConfig(
        num_train_epochs=30,
        learning_rate=2e-3,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=1,
        **common,
    )
    retrieval = retrieval_trainer(model, tuned_tokenizer, retrieval_rows(queries, code_text), settings)
    retrieval.train()
    retrieval.model.save_pretrained(tmp_path / "tuned")

    # Round 1.
    settings = PostGuidedConfig(
        num_train_epochs=60,
        learning_rate=1e-3,
        rows_per_document=4,
        lora_r=8,
        **common,
        **without_validation,
    )
    guided = post_guided_trainer(
        GistForToolCompression.from_base_model(copy.deepcopy(compressor.backbone), seed=SEED),
        tokenizer,
        AutoModelForCausalLM.from_pretrained(tmp_path / "tuned"),
        tuned_tokenizer,
        documents,
        guiding_rows(tuned_tokenizer, documents, None, queries),
        settings,
        codebook_options=FIT,
    )
    guided.train()

    pairs = co_used_pairs([query.tools for query in queries], ids)
    assert len(pairs) == PAIRS
    before = pair_distances(codebook.codes, pairs)
    after = pair_distances(guided.bank.codebook.codes, pairs)
    assert after["co_used"] < before["co_used"] - 0.4
    assert after["random"] > before["random"] - 0.3
    assert after["co_used"] < after["random"] - 0.6
    points = guided.bank.cache.numpy().reshape(len(ids), -1)
    points = points - points.mean(axis=0)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosine = points @ points.T
    partners = cosine[pairs[:, 0], pairs[:, 1]]
    assert partners.mean() > 0.25
    assert (cosine.sum() - len(ids) - 2 * partners.sum()) / (len(ids) * (len(ids) - 2)) < 0.1
