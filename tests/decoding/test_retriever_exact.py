"""Contract: a certified ranking is the true one, ``exact`` certifies all, and what is reused is never to be seen."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolscaler import CodeTrie, GenerativeRetriever, ToolscalerTokenizer
from toolscaler.decoding import Ranking, request
from toolscaler.decoding.engine import SearchEngine
from toolscaler.decoding.model_adapter import ModelAdapter
from toolscaler.errors import ConfigError, DecodingError, EmptyCatalogueError, RetrievalError, UnknownToolError

QUERIES = ["How many feet are twelve metres?", "Count", "Which day of the week was the first of May?", ""]
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer(40, seed=1)


@pytest.fixture(scope="module")
def model(make_model, tokenizer):
    return make_model(tokenizer, seed=1)


@pytest.fixture(scope="module")
def retriever(model, tokenizer):
    return GenerativeRetriever(model, tokenizer)


@pytest.fixture(scope="module")
def truth(retriever, tokenizer):
    """Log-probability of every tool for each query, by one plain forward each: (query, scores) -> {name: score}."""

    @torch.no_grad()
    def score(query: str, scores: str) -> dict[str, float]:
        prompt = tokenizer.encode_retrieval_prompt(query)
        found = {}
        for name in tokenizer.tool_names:
            codes = tokenizer.encode_tool(name)
            rows = retriever.model(torch.tensor([[*prompt, *codes]])).logits[0, len(prompt) - 1 :].double()
            if scores == "full":
                ids = [*codes, tokenizer.eos_token_id]
                found[name] = float(sum(row.log_softmax(0)[token] for row, token in zip(rows, ids, strict=True)))
                continue
            found[name], start = 0.0, tokenizer.first_code_id
            for row, token, size in zip(rows, codes, tokenizer.code_sizes, strict=False):
                found[name] += float(row[start : start + size].log_softmax(0)[token - start])
                start += size
        return found

    return {(query, scores): score(query, scores) for query in QUERIES for scores in ("full", "group")}


def best(expected: dict[str, float], names, count: int) -> list[float]:
    return sorted((expected[name] for name in names), reverse=True)[:count]


# Certificates


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    allowed=st.sets(st.sampled_from([f"tool_{k}" for k in range(40)]), min_size=1),
    top_k=st.integers(1, 8),
    beams=st.integers(1, 12),
    scores=st.sampled_from(["full", "group"]),
)
def test_certified_means_true(retriever, truth, allowed, top_k, beams, scores):
    found = retriever.retrieve(QUERIES, top_k, tools=allowed, num_beams=beams, scores=scores)
    exact = retriever.retrieve(QUERIES, top_k, tools=allowed, num_beams=beams, scores=scores, exact=True)
    for query, ranking, sure in zip(QUERIES, found, exact, strict=True):
        expected = best(truth[query, scores], allowed, top_k)
        if ranking.certified:
            assert [tool.score for tool in ranking] == pytest.approx(expected, abs=TOLERANCE)
        if max(beams, top_k) >= len(allowed):
            assert ranking.certified
        assert sure.certified
        assert [tool.score for tool in sure] == pytest.approx(expected, abs=TOLERANCE)
        assert all(tool.score == pytest.approx(truth[query, scores][tool.name], abs=TOLERANCE) for tool in sure)


def test_narrow_searches_miss_tools_and_do_not_certify(retriever, truth):
    """Premise of the test above."""
    found = retriever.retrieve(QUERIES, 2, num_beams=2)
    right = [
        [tool.score for tool in row]
        == pytest.approx(best(truth[query, "full"], truth[query, "full"], 2), abs=TOLERANCE)
        for query, row in zip(QUERIES, found, strict=True)
    ]
    assert not all(right)
    assert not any(row.certified for row, fine in zip(found, right, strict=True) if not fine)
    certified = [row.certified for row in retriever.retrieve(QUERIES, 1, num_beams=6, scores="group")]
    assert 0 < sum(certified) < len(QUERIES)


@pytest.mark.parametrize("widest", [1, 8])
def test_beyond_the_widest_search_all_tools_are_scored(retriever, truth, monkeypatch, widest):
    monkeypatch.setattr(request, "_WIDEST", widest)
    scored = []
    score = SearchEngine.score
    monkeypatch.setattr(SearchEngine, "score", lambda *given, **more: (scored.append(1), score(*given, **more))[1])
    found = retriever.retrieve(QUERIES, 2, num_beams=2, exact=True)
    assert scored
    for query, ranking in zip(QUERIES, found, strict=True):
        expected = best(truth[query, "full"], truth[query, "full"], 2)
        assert [tool.score for tool in ranking] == pytest.approx(expected, abs=TOLERANCE)
        assert ranking.certified


def test_only_open_queries_are_searched_again(retriever, monkeypatch):
    narrow = retriever.retrieve(QUERIES, 1, num_beams=6, scores="group")
    left = sum(not row.certified for row in narrow)
    assert 0 < left < len(QUERIES)  # premise
    sizes = []
    search = SearchEngine.search
    monkeypatch.setattr(
        SearchEngine, "search", lambda *given, **more: (sizes.append(len(given[1])), search(*given, **more))[1]
    )
    retriever.retrieve(QUERIES, 1, num_beams=6, scores="group", exact=True)
    assert sizes[:2] == [len(QUERIES), left]


def test_a_ranking_is_a_list_that_keeps_its_certificate(retriever):
    (ranking,) = retriever.retrieve("Count", num_beams=40)
    assert isinstance(ranking, Ranking)
    assert ranking == list(ranking)
    assert ranking.certified
    copy = pickle.loads(pickle.dumps(ranking))
    assert copy == ranking
    assert copy.certified
    assert not Ranking(ranking).certified


# Scores of given tools


@pytest.mark.parametrize("scores", ["full", "group"])
def test_score_equals_plain_forwards(retriever, truth, tokenizer, scores):
    got = retriever.score(QUERIES, scores=scores, batch_size=3)
    expected = np.array([[truth[query, scores][name] for name in tokenizer.tool_names] for query in QUERIES])
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, atol=TOLERANCE)
    names = ["tool_7", "tool_30", "tool_7", "tool_2"]
    columns = [tokenizer.tool_names.index(name) for name in names]
    for form in (names, tuple(names), iter(names)):
        np.testing.assert_allclose(retriever.score(QUERIES, form, scores=scores), expected[:, columns], atol=TOLERANCE)
    part = retriever.trie.subset(tools=names)
    columns = [tokenizer.tool_names.index(name) for name in part.tool_ids]
    np.testing.assert_allclose(retriever.score(QUERIES[1], part, scores=scores), expected[1:2, columns], atol=TOLERANCE)
    assert retriever.score([], names).shape == (0, 4)


def test_score_refuses_what_retrieve_refuses(retriever):
    for options, error in (
        ({"tools": ["tol_2"]}, UnknownToolError),
        ({"tools": []}, EmptyCatalogueError),
        ({"tools": "tool_2"}, DecodingError),
        ({"tools": [3]}, DecodingError),
        ({"tools": None, "scores": "children"}, ConfigError),
        ({"tools": None, "batch_size": 0}, ConfigError),
    ):
        with pytest.raises(error):
            retriever.score(QUERIES, **options)


# A trie for each query, batches


def test_a_trie_for_each_query(retriever):
    names = [[f"tool_{(7 * k + j) % 40}" for j in range(3 + 9 * (k % 2))] for k in range(len(QUERIES))]
    tries = [retriever.trie.subset(tools=row) for row in names]
    tries[3] = retriever.trie
    for scores in ("full", "group"):
        found = retriever.retrieve(QUERIES, 4, tools=tries, scores=scores, num_beams=6)
        alone = [
            retriever.retrieve(query, 4, tools=trie, scores=scores, num_beams=6)[0]
            for query, trie in zip(QUERIES, tries, strict=True)
        ]
        for row, expected, trie in zip(found, alone, tries, strict=True):
            assert [tool.name for tool in row] == [tool.name for tool in expected]
            assert [tool.score for tool in row] == pytest.approx([tool.score for tool in expected], abs=TOLERANCE)
            assert {tool.name for tool in row} <= set(trie.tool_ids)
    with pytest.raises(DecodingError, match="one trie for each of 4 queries, got 2"):
        retriever.retrieve(QUERIES, tools=tries[:2])
    for mixed in ([*tries[:3], None], [*tries[:3], "tool_1"]):  # nothing never means everything
        with pytest.raises(DecodingError, match="a list of both"):
            retriever.retrieve(QUERIES, tools=mixed)
    with pytest.raises(DecodingError, match="make it again"):
        retriever.retrieve(QUERIES, tools=[*tries[:3], CodeTrie.from_token_sequences([[1, 2, 3]], ["tool_2"])])


def test_batches_of_any_budget_give_the_same(retriever, monkeypatch):
    expected = retriever.retrieve(QUERIES, 8)
    sizes = []
    search = SearchEngine.search
    monkeypatch.setattr(
        SearchEngine, "search", lambda *given, **more: (sizes.append(len(given[1])), search(*given, **more))[1]
    )
    for tokens in (1, 90, 10**6):
        sizes.clear()
        found = retriever.retrieve(QUERIES, 8, max_batch_tokens=tokens)
        assert {1: len(sizes) == 4, 90: 1 < len(sizes) < 4, 10**6: len(sizes) == 1}[tokens]
        for row, other in zip(found, expected, strict=True):
            assert [tool.name for tool in row] == [tool.name for tool in other]
            assert [tool.score for tool in row] == pytest.approx([tool.score for tool in other], abs=TOLERANCE)


def test_one_bad_query_does_not_lose_the_others(make_model, tokenizer):
    model = make_model(tokenizer, seed=1)
    retriever = GenerativeRetriever(model, tokenizer)
    expected = retriever.retrieve(QUERIES)
    rare = next(
        token
        for token in tokenizer.encode_retrieval_prompt(QUERIES[2])
        if all(token not in tokenizer.encode_retrieval_prompt(query) for query in (*QUERIES[:2], QUERIES[3]))
    )
    with torch.no_grad():
        model.get_input_embeddings().weight[rare] = torch.nan
    for call in (retriever.retrieve, lambda queries: retriever.retrieve(queries, exact=True), retriever.score):
        with pytest.raises(
            RetrievalError, match="1 of 4 queries failed, the first is query 2: expected finite"
        ) as caught:
            call(QUERIES)
        assert list(caught.value.failures) == [2]
        assert isinstance(caught.value.failures[2], DecodingError)
        assert [result is None for result in caught.value.results] == [False, False, True, False]
        again = pickle.loads(pickle.dumps(caught.value))
        assert str(again) == str(caught.value)
        with pytest.raises(RetrievalError):
            call(QUERIES[2])
    with pytest.raises(RetrievalError) as caught:
        retriever.retrieve(QUERIES)
    for row in (0, 1, 3):
        assert [tool.name for tool in caught.value.results[row]] == [tool.name for tool in expected[row]]


# What all prompts begin with


HEAD = "You choose tools. Think of lengths, dates, words and blocks; name the one tool that helps most. Query: "


@pytest.fixture
def headed(make_tiny_tokenizer, make_model):
    """A retriever whose prompts have a long head, a new model, and the number of columns of each forward."""
    tokenizer = ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(),
        codes=np.stack(np.unravel_index(np.arange(0, 24, 2), (2, 3, 4)), 1),
        tool_ids=[f"tool_{k}" for k in range(12)],
        code_sizes=(2, 3, 4),
        retrieval_template=HEAD + "{query}\n",
    )
    model = make_model(tokenizer)
    retriever = GenerativeRetriever(model, tokenizer)
    read = []

    def note(_, args, given):
        read.append(given["input_ids"].shape[1])

    retriever.retrieve("warm up")  # the self-check's forwards
    model.model.register_forward_pre_hook(note, with_kwargs=True)
    retriever._own_engine = None
    return retriever, read


def fresh(retriever: GenerativeRetriever, query: str) -> Ranking:
    (ranking,) = GenerativeRetriever(retriever.model, retriever.tokenizer).retrieve(query, 12)
    return ranking


def assert_same(one: Ranking, other: Ranking) -> None:
    assert {tool.name for tool in one} == {tool.name for tool in other}
    scores = {tool.name: tool.score for tool in other}
    assert all(tool.score == pytest.approx(scores[tool.name], abs=TOLERANCE) for tool in one)


def test_a_shared_beginning_is_read_once(headed):
    retriever, read = headed
    head = len(retriever.tokenizer.encode_retrieval_prompt(""))
    queries = ["How many feet are twelve metres?", *QUERIES[1:], *(f"query {k}" for k in range(5))]
    found = retriever.retrieve(queries, 12, batch_size=4)
    assert read[0] > head // 2  # premise: the head alone
    assert max(read[1:]) < head
    for query, ranking in zip(queries, found, strict=True):
        assert_same(ranking, fresh(retriever, query))


def test_a_beginning_is_remembered_from_call_to_call(headed):
    retriever, read = headed
    queries = ["Count the words", "Which day?", "Metres to feet", "Fetch the last block"]
    first = []
    for query in queries:
        read.clear()
        (found,) = retriever.retrieve(query, 12)
        first.append(read[0])
        assert_same(found, fresh(retriever, query))
    # First call: the whole prompt. Second: what both begin with, apart. In the end the rest alone.
    head = len(retriever.tokenizer.encode_retrieval_prompt("")) - 3
    assert first[0] > head
    assert first[1] >= 16
    assert first[-1] < head // 2


@pytest.mark.parametrize("change", ["optimizer", "data", "one row", "adapter"])
def test_a_changed_model_reads_anew(headed, change):
    retriever, _ = headed
    model, tokenizer = retriever.model, retriever.tokenizer
    for query in ("Count", "Which day?", "Count"):
        before = retriever.retrieve(query, 12)[0]
    if change == "optimizer":
        model.train()
        ids = torch.tensor([tokenizer.encode_retrieval_prompt("Count")])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        model.eval()
    elif change == "data":  # counts no version
        for parameter in model.parameters():
            parameter.data.mul_(1.1)
    elif change == "one row":
        model.get_input_embeddings().weight.data[tokenizer.encode_retrieval_prompt("x")[3]] += 1
    else:
        peft = pytest.importorskip("peft")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        retriever = GenerativeRetriever(wrapped.eval(), tokenizer)
        for query in ("Count", "Which day?", "Count"):
            (adapted,) = retriever.retrieve(query, 12)
        with wrapped.disable_adapter():
            (plain,) = retriever.retrieve("Count", 12)
        assert_same(plain, before)
        assert [tool.score for tool in adapted] != pytest.approx([tool.score for tool in before], abs=1e-3)
        return
    (after,) = retriever.retrieve("Count", 12)
    assert [tool.score for tool in after] != pytest.approx([tool.score for tool in before], abs=1e-3)
    assert_same(after, fresh(retriever, "Count"))


def test_inference_mode_and_plain_mode_take_turns(headed):
    retriever, _ = headed
    expected = fresh(retriever, "Count")
    for query in ("Which day?", "Count", "Metres", "Count"):
        with torch.inference_mode():
            (inside,) = retriever.retrieve(query, 12)
        (outside,) = retriever.retrieve(query, 12)
        assert_same(inside, outside)
    assert_same(inside, expected)


def test_a_model_in_training_remembers_nothing(headed, monkeypatch):
    retriever, _ = headed
    reads = []
    read_prefix = ModelAdapter.read_prefix
    monkeypatch.setattr(ModelAdapter, "read_prefix", lambda *given: (reads.append(1), read_prefix(*given))[1])
    retriever.model.train()
    for query in ("Count", "Which day?", "Metres to feet"):
        retriever.retrieve(query)
    assert retriever._engine()._prefixes._entries == {}
    retriever.model.eval()
    for k in range(12):
        retriever.retrieve([f"{k} {word}" for word in ("one", "two", "three")])
    assert len(retriever._engine()._prefixes._entries) <= 4
