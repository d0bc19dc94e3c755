"""Contract: a bi-encoder learns the pairs it is given, no relevant text is ever a negative, and a run goes on."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.data import ToolDocument, ToolQuery
from toolscaler.decoding import Ranking, RetrievedTool
from toolscaler.errors import ArtifactError, ConfigError, TrainingError, UnknownToolError
from toolscaler.evaluation.baselines import (
    BM25Retriever,
    EmbeddingRetriever,
    ToolRetrieverConfig,
    document_text,
    load_tool_retriever,
    train_tool_retriever,
)
from toolscaler.evaluation.baselines.pairs import (
    ConflictFreeBatches,
    TrainingPairs,
    training_pairs,
    with_hard_negatives,
)

# Queries share no word with the documents: what is found was learned.
ASKED = ["apple", "river", "stone", "cloud", "lamp", "chair", "horse", "violin"]
NAMED = ["alpha", "beta", "gamma", "delta", "kappa", "sigma", "omega", "theta"]
DOCUMENTS = [ToolDocument(name=name, description=f"{name} tool") for name in NAMED]
FRAMES = ["please give me {}", "{} now", "the {} of today", "{} and {}"]
QUERIES = [
    ToolQuery(frame.format(word, word), (name,)) for word, name in zip(ASKED, NAMED, strict=True) for frame in FRAMES
]
TESTS = [ToolQuery(f"today the {word} please", (name,)) for word, name in zip(ASKED, NAMED, strict=True)]
CONFIG = ToolRetrieverConfig(num_epochs=12, batch_size=8, learning_rate=5e-3, save_steps=20, seed=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny BERT from scratch, in a folder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = sorted({word for query in QUERIES for word in query.text.split()} | set(NAMED) | {"tool", "query", ":"})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    BertTokenizer(vocab={word: row for row, word in enumerate(vocabulary)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def _hits(retriever, queries=TESTS):
    found = retriever.retrieve([query.text for query in queries], 1)
    return sum(ranking[0].name in query.tools for query, ranking in zip(queries, found, strict=True))


def test_it_learns_what_words_do_not_say(base, tmp_path):
    assert all(ranking == [] for ranking in BM25Retriever(DOCUMENTS).retrieve([query.text for query in TESTS], 3))
    assert _hits(EmbeddingRetriever(DOCUMENTS, str(base))) <= 3  # the premise: untrained it guesses
    trained = train_tool_retriever(base, DOCUMENTS, QUERIES, CONFIG, output_dir=tmp_path / "run")
    assert isinstance(trained, EmbeddingRetriever)
    assert _hits(trained) >= 6
    loaded = load_tool_retriever(tmp_path / "run", DOCUMENTS)
    np.testing.assert_allclose(loaded.embeddings, trained.embeddings, atol=1e-6)
    assert _hits(loaded) == _hits(trained)
    # Another catalogue, with a tool added after training.
    more = load_tool_retriever(tmp_path / "run", [*DOCUMENTS[:2], ToolDocument(name="new")])
    assert len(more.embeddings) == 3
    record = json.loads((tmp_path / "run" / "model" / "tool_retriever.json").read_text())
    assert record["pairs"] == len(QUERIES)
    assert record["training"]["steps"] == 12 * len(QUERIES) // 8
    assert record["training"]["examples"] == 12 * len(QUERIES)
    # What is finished is not trained again; other data are refused.
    again = train_tool_retriever(base, DOCUMENTS, QUERIES, CONFIG, output_dir=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(again.embeddings, loaded.embeddings)
    with pytest.raises(TrainingError, match="another data_sha256"):
        train_tool_retriever(
            base, DOCUMENTS, QUERIES[:31] + TESTS[:1], CONFIG, output_dir=tmp_path / "run", resume=True
        )
    other = ToolRetrieverConfig(seed=9)
    with pytest.raises(TrainingError, match="another config"):
        train_tool_retriever(base, DOCUMENTS, QUERIES, other, output_dir=tmp_path / "run", resume=True)
    with pytest.raises(TrainingError, match="resume=True"):
        train_tool_retriever(base, DOCUMENTS, QUERIES, CONFIG, output_dir=tmp_path / "run")


def test_seeds_and_resuming(base, tmp_path):
    config = ToolRetrieverConfig(max_steps=8, batch_size=8, learning_rate=1e-3, save_steps=2, seed=5)
    whole = train_tool_retriever(base, DOCUMENTS, QUERIES, config, output_dir=tmp_path / "a")
    # A kill after step 6, in the middle of the next checkpoint.
    shutil.rmtree(tmp_path / "a" / "model")
    (tmp_path / "a" / "checkpoints" / "checkpoint-8" / "trainer_state.json").write_text("{")
    resumed = train_tool_retriever(base, DOCUMENTS, QUERIES, config, output_dir=tmp_path / "a", resume=True)
    np.testing.assert_allclose(resumed.embeddings, whole.embeddings, atol=1e-5)
    same = train_tool_retriever(base, DOCUMENTS, QUERIES, config)
    np.testing.assert_allclose(same.embeddings, whole.embeddings, atol=1e-6)
    other = train_tool_retriever(base, DOCUMENTS, QUERIES, ToolRetrieverConfig(**{**config.__dict__, "seed": 6}))
    assert np.abs(other.embeddings - whole.embeddings).max() > 1e-3


@pytest.mark.parametrize("kind", ["bm25", "self"])
def test_hard_negatives(base, kind):
    config = ToolRetrieverConfig(
        num_epochs=6, batch_size=4, learning_rate=5e-3, hard_negatives=kind, num_negatives=2, query_prefix="query : "
    )
    trained = train_tool_retriever(base, DOCUMENTS, QUERIES, config)
    assert trained.query_prefix == "query : "
    assert _hits(trained) >= 6


def test_a_causal_model_as_base(make_tiny_model, make_tiny_tokenizer, tmp_path):
    """The base of the generative model is one for the bi-encoder too: the same weights, the same budget."""
    tokenizer = make_tiny_tokenizer()
    make_tiny_model("llama", tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    config = ToolRetrieverConfig(num_epochs=10, batch_size=8, learning_rate=5e-3)
    trained = train_tool_retriever(tmp_path / "base", DOCUMENTS, QUERIES, config, output_dir=tmp_path / "run")
    assert trained.embeddings.shape == (8, 32)
    assert _hits(trained, QUERIES) > 16
    loaded = load_tool_retriever(tmp_path / "run", DOCUMENTS)
    np.testing.assert_allclose(loaded.embeddings, trained.embeddings, atol=1e-6)


def test_bad_bases(base, tmp_path):
    for wrong in (tmp_path / "nothing", 3):
        with pytest.raises(ConfigError, match="base"):
            train_tool_retriever(wrong, DOCUMENTS, QUERIES)
    with pytest.raises(ArtifactError):
        load_tool_retriever(tmp_path, DOCUMENTS)
    (tmp_path / "model").mkdir()
    for text, words in (('{"format_version": 7}', "version 1, got 7"), ('{"format_version": 1}', "expected a config")):
        (tmp_path / "model" / "tool_retriever.json").write_text(text)
        with pytest.raises(ArtifactError, match=words):
            load_tool_retriever(tmp_path, DOCUMENTS)


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 1), ("num_epochs", -1), ("max_steps", 0), ("hard_negatives", "all"), ("learning_rate", "x")],
    ids=str,
)
def test_settings_out_of_range(key, value):
    with pytest.raises(ConfigError, match=key):
        ToolRetrieverConfig(**{key: value})


def test_pairs_share_labels_and_texts():
    twins = [ToolDocument(name="a", id="1"), ToolDocument(name="a", id="2"), ToolDocument(name="b")]
    queries = [ToolQuery("x", ("1",)), ToolQuery("x", ("b",)), ToolQuery("y", ("2", "1")), ToolQuery("z")]
    pairs = training_pairs(twins, [document_text(document) for document in twins], queries)
    assert pairs.texts == ["a", "b"]
    assert list(zip(pairs.anchors, pairs.positives.tolist(), strict=True)) == [("x", 0), ("x", 1), ("y", 0)]
    assert pairs.labels == [{0, 1}, {0, 1}, {0}]
    assert pairs.columns() == {"anchor": ["x", "x", "y"], "positive": ["a", "b", "a"]}
    with pytest.raises(UnknownToolError, match="'c'"):
        training_pairs(twins, ["a", "a", "b"], [ToolQuery("x", ("c",))])
    with pytest.raises(TrainingError, match="0 pairs"):
        training_pairs(twins, ["a", "a", "b"], [ToolQuery("x")])
    with pytest.raises(TrainingError, match="1 texts"):
        training_pairs(twins, ["a", "a", "a"], queries)


class _InOrder:
    """Ranks all texts by number."""

    def retrieve(self, queries, top_k, *, tools=None):
        return [Ranking(RetrievedTool(str(row), -float(row)) for row in range(min(top_k, 3))) for _ in queries]


def test_hard_negatives_are_never_relevant():
    documents = [ToolDocument(name=str(row)) for row in range(6)]
    queries = [ToolQuery("q", ("0", "2")), ToolQuery("r", ("5",))]
    plain = training_pairs(documents, [document.name for document in documents], queries)
    hard = with_hard_negatives(plain, _InOrder(), 2, depth=2, seed=3)
    assert hard.negatives.shape == (3, 2)
    for anchor, negatives in zip(hard.anchors, hard.negatives.tolist(), strict=True):
        assert len(set(negatives)) == 2
        if anchor == "q":  # 1 was ranked; one more is random
            assert 1 in negatives
            assert not {0, 2} & set(negatives)
        else:
            assert set(negatives) == {0, 1}
    assert list(hard.columns()) == ["anchor", "positive", "negative_1", "negative_2"]
    np.testing.assert_array_equal(with_hard_negatives(plain, _InOrder(), 2, depth=2, seed=3).negatives, hard.negatives)
    with pytest.raises(ConfigError, match="negatives_depth"):
        with_hard_negatives(plain, _InOrder(), 3, depth=2)
    with pytest.raises(TrainingError, match="leaves 4"):
        with_hard_negatives(plain, _InOrder(), 5)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sets(st.integers(0, 9), min_size=1, max_size=3), st.integers(0, 9)), min_size=1, max_size=40),
    st.integers(2, 8),
    st.integers(0, 3),
)
def test_no_batch_holds_a_relevant_text_as_a_negative(rows, batch_size, epoch):
    spread = [
        (number, labels, positive, negative) for number, (labels, negative) in enumerate(rows) for positive in labels
    ]
    spread = [row for row in spread if row[3] not in row[1]]
    if not spread:
        return
    pairs = TrainingPairs(
        [str(number) for number, *_ in spread],
        [str(row) for row in range(10)],
        np.array([row[2] for row in spread]),
        np.array([[row[3]] for row in spread]),
        [frozenset(row[1]) for row in spread],
    )
    batches = ConflictFreeBatches(pairs, batch_size, seed=1)
    batches.set_epoch(epoch)
    seen = list(batches)
    assert seen == list(batches)  # an epoch is the same each time it is asked for
    assert len(seen) <= len(batches)
    flat = [row for batch in seen for row in batch]
    assert len(set(flat)) == len(flat)
    if len(seen) < len(batches):
        assert len(flat) == len(pairs)
    for batch in seen:
        assert 0 < len(batch) <= batch_size
        for one in batch:
            for other in batch:
                if one != other:
                    shown = {int(pairs.positives[other]), *pairs.negatives[other].tolist()}
                    assert not shown & pairs.labels[one]


def test_an_epoch_without_conflicts_has_every_row_once():
    count = 50
    pairs = TrainingPairs(
        [str(row) for row in range(count)],
        [str(row) for row in range(count)],
        np.arange(count),
        np.zeros((count, 0), dtype=np.int64),
        [frozenset([row]) for row in range(count)],
    )
    batches = ConflictFreeBatches(pairs, 8)
    first = list(batches)
    assert [len(batch) for batch in first] == [8] * 6 + [2]
    assert sorted(row for batch in first for row in batch) == list(range(count))
    batches.set_epoch(1)
    assert list(batches) != first
