"""Draft and verify, and the fusion of rankings, each against its formula written out over brute-force scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.data import ToolDocument
from toolscaler.decoding import (
    FusionRetriever,
    GenerativeRetriever,
    HybridRetriever,
    Ranking,
    RetrievedTool,
    Retriever,
    reciprocal_rank_fusion,
)
from toolscaler.errors import (
    ConfigError,
    DecodingError,
    EmptyCatalogueError,
    EvaluationError,
    RetrievalError,
    UnknownToolError,
)
from toolscaler.evaluation import BM25Retriever, EmbeddingRetriever

QUERIES = ["Count the words in this text.", "How many feet are twelve metres?", "the first of May", "mined block"]
TOOLS = [f"tool_{k}" for k in range(12)]
NEW = ["new_0", "new_1"]


class Letters:
    """An encoder that needs no download."""

    def encode(self, texts):
        return [[text.lower().count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]


@pytest.fixture(scope="module")
def model(make_tokenizer, make_model):
    tokenizer = make_tokenizer()
    return GenerativeRetriever(make_model(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def draft():
    rng = np.random.default_rng(3)
    words = ["count", "word", "text", "foot", "metre", "first", "may", "block", "mine", "day", "week", "length"]
    return EmbeddingRetriever(
        [ToolDocument(name=name, description=" ".join(rng.choice(words, 4))) for name in [*TOOLS, *NEW]], Letters()
    )


def _z(values):
    values = np.array(values)
    return (values - values.mean()) / values.std() if values.std() > 0 else values * 0.0


def _soft(values):
    raised = np.exp(np.array(values) - np.max(values))
    return raised / raised.sum()


def _names(rankings):
    return [[tool.name for tool in ranking] for ranking in rankings]


def test_every_retriever_has_the_one_protocol(model, draft):
    for retriever in (model, draft, HybridRetriever(draft, model), FusionRetriever([draft, model])):
        assert isinstance(retriever, Retriever)
        found = retriever.retrieve(QUERIES[:2], 3, tools=iter(TOOLS[:5]))
        assert all(isinstance(ranking, Ranking) and len(ranking) == 3 for ranking in found)
        assert {name for names in _names(found) for name in names} <= set(TOOLS[:5])
    assert not isinstance(object(), Retriever)


def test_verify_is_the_draft_in_the_order_of_the_models_scores(model, draft):
    hybrid = HybridRetriever(draft, model, draft_k=5)
    found = hybrid.retrieve(QUERIES, 5, tools=TOOLS)
    for query, ranking in zip(QUERIES, found, strict=True):
        names = [tool.name for tool in draft.retrieve(query, 5, tools=TOOLS)[0]]
        scores = dict(zip(names, model.score(query, names)[0], strict=True))
        assert [tool.name for tool in ranking] == sorted(names, key=lambda name: -scores[name])
        for tool in ranking:
            assert tool.score == pytest.approx(scores[tool.name], abs=1e-4)
            assert tool.codes == model.tokenizer.tool_index[tool.name]
    # The premise: the draft alone ranks otherwise.
    assert _names(found) != _names(draft.retrieve(QUERIES, 5, tools=TOOLS))
    assert _names(hybrid.retrieve(QUERIES[0], 2, tools=TOOLS)) == [_names(found)[0][:2]]
    # More asked for than drafted by default: the draft goes as deep.
    assert len(HybridRetriever(draft, model, draft_k=2).retrieve(QUERIES[0], 7, tools=TOOLS)[0]) == 7


def test_drafting_everything_is_the_generative_retriever(model, draft):
    whole = HybridRetriever(draft, model, draft_k=12).retrieve(QUERIES, 12, tools=TOOLS)
    exact = model.retrieve(QUERIES, 12, num_beams=12)
    assert _names(whole) == _names(exact)


@pytest.mark.parametrize("normalise", ["softmax", "zscore"])
@pytest.mark.parametrize("unseen", [(), NEW], ids=["all-known", "two-added"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_fuse_is_its_formula(model, draft, normalise, unseen, alpha):
    hybrid = HybridRetriever(
        draft,
        model,
        draft_k=9,
        mode="fuse",
        alpha=alpha,
        normalise=normalise,
        temperature=0.7,
        unseen=unseen,
        hold_unseen=False,
    )
    tools = [*TOOLS, *unseen]
    for query, ranking in zip(QUERIES, hybrid.retrieve(QUERIES, 9, tools=tools), strict=True):
        drafted = draft.retrieve(query, 9, tools=tools)[0]
        names = [tool.name for tool in drafted]
        known = [place for place, name in enumerate(names) if name not in unseen]
        z = _z([tool.score for tool in drafted])
        share = _soft(z / 0.7)
        scores = model.score(query, [names[place] for place in known])[0]
        if normalise == "zscore":
            expected = z.copy()
            expected[known] = alpha * _z(scores) + (1 - alpha) * z[known]
        else:
            expected = np.log(share)
            rest = share[known].sum()
            expected[known] = np.log(np.maximum(alpha * rest * _soft(scores) + (1 - alpha) * share[known], 1e-300))
        by_name = dict(zip(names, expected, strict=True))
        assert [tool.score for tool in ranking] == pytest.approx(sorted(expected, reverse=True), abs=1e-3)
        for tool in ranking:
            assert tool.score == pytest.approx(by_name[tool.name], abs=1e-3)
        if alpha == 0:
            assert [tool.name for tool in ranking] == names


def test_added_tools_take_their_probability_from_the_draft(model, draft):
    hybrid = HybridRetriever(draft, model, draft_k=14, unseen=NEW, hold_unseen=False, temperature=0.5)
    for query, ranking in zip(QUERIES, hybrid.retrieve(QUERIES, 14), strict=True):
        drafted = draft.retrieve(query, 14)[0]
        share = dict(zip(_names([drafted])[0], _soft(_z([tool.score for tool in drafted]) / 0.5), strict=True))
        own = dict(zip(TOOLS, model.score(query, TOOLS)[0], strict=True))
        rest = 1 - share["new_0"] - share["new_1"]
        for tool in ranking:
            expected = math.log(share[tool.name]) if tool.name in NEW else math.log(rest) + own[tool.name]
            assert tool.score == pytest.approx(expected, abs=1e-4)
            assert bool(tool.codes) == (tool.name not in NEW)
        assert [tool.score for tool in ranking] == sorted([tool.score for tool in ranking], reverse=True)


def test_codes_of_an_added_tool_are_not_searched(model, draft):
    # tool_3 has codes, but was added after training: it is scored by the draft alone, and the union skips it.
    hybrid = HybridRetriever(draft, model, draft_k=3, union_k=12, num_beams=12, unseen=["tool_3", *NEW])
    for ranking, drafted in zip(hybrid.retrieve(QUERIES, 14), draft.retrieve(QUERIES, 14), strict=True):
        names = {tool.name for tool in ranking}
        first = {tool.name for tool in drafted[:14]}
        assert names <= first
        assert set(TOOLS) - {"tool_3"} <= names
    only = HybridRetriever(draft, model, draft_k=1, union_k=3, unseen=["tool_3", *NEW])
    assert _names(only.retrieve(QUERIES[:1], 1, tools=["tool_3", "new_0"])) == [
        [draft.retrieve(QUERIES[0], 1, tools=["tool_3", "new_0"])[0][0].name]
    ]


def test_union_adds_what_the_draft_missed(model, draft):
    plain = HybridRetriever(draft, model, draft_k=1)
    union = HybridRetriever(draft, model, draft_k=1, union_k=4, num_beams=12)
    best = model.retrieve(QUERIES, 4, num_beams=12, tools=TOOLS)
    for one, both, own, first in zip(
        plain.retrieve(QUERIES, 1, tools=TOOLS),
        union.retrieve(QUERIES, 5, tools=TOOLS),
        best,
        draft.retrieve(QUERIES, 5, tools=TOOLS),
        strict=True,
    ):
        assert one[0].name == first[0].name
        assert {tool.name for tool in both} >= {tool.name for tool in own}
        assert both[0].name == own[0].name
        assert both[0].score == pytest.approx(own[0].score, abs=1e-4)


def test_a_lexical_draft_that_finds_nothing(model):
    draft = BM25Retriever([ToolDocument(name=name, description="alpha beta") for name in TOOLS])
    assert HybridRetriever(draft, model).retrieve(["zebra", "alpha"], 2)[0] == []
    union = HybridRetriever(draft, model, union_k=2).retrieve(["zebra"], 2)
    assert _names(union) == _names(model.retrieve(["zebra"], 2))


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(8)), st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_held_tools_stand_no_lower_than_in_the_draft(by_score, by_draft, added):
    from toolscaler.decoding.hybrid import _held

    order = [str(item) for item in by_score]
    ranks = {str(item): rank for rank, item in enumerate(by_draft) if item in added}
    held = _held(order, ranks)
    assert sorted(held) == sorted(order)
    assert held[0] == order[0]
    assert [name for name in held[1:] if name not in ranks] == [name for name in order[1:] if name not in ranks]
    for name, rank in ranks.items():
        assert held.index(name) <= max(rank, 1) or held.index(name) <= rank + 1
    if not added:
        assert held == order


def test_holding_keeps_scores_in_order(model, draft):
    held = HybridRetriever(draft, model, draft_k=14, unseen=NEW).retrieve(QUERIES, 14)
    free = HybridRetriever(draft, model, draft_k=14, unseen=NEW, hold_unseen=False).retrieve(QUERIES, 14)
    for ranking, other, drafted in zip(held, free, draft.retrieve(QUERIES, 14), strict=True):
        scores = [tool.score for tool in ranking]
        assert scores == sorted(scores, reverse=True)
        assert ranking[0].name == other[0].name
        places, before = _names([ranking])[0], _names([drafted])[0]
        assert all(places.index(name) <= before.index(name) + 1 for name in NEW)


class Fixed:
    """A draft with given scores for every query."""

    def __init__(self, scores):
        self.scores = scores

    def retrieve(self, queries, top_k, *, tools=None):
        names = sorted(self.scores, key=lambda name: -self.scores[name])[:top_k]
        return [Ranking(RetrievedTool(name, self.scores[name]) for name in names) for _ in queries]


def test_calibration_bounds_what_known_tools_lose(model):
    scores = {"new_0": 3.0, "tool_4": 2.0, "tool_5": 1.5, "tool_6": 1.0, "tool_7": 0.0}
    hybrid = HybridRetriever(Fixed(scores), model, unseen=NEW, temperature=0.1)
    queries = [*QUERIES, "metres", "a text"]
    known = [model.retrieve(query, 1, tools=list(scores)[1:], num_beams=4)[0][0] for query in queries]
    labels = [[tool.name] for tool in known]
    # By hand: new_0 comes first where log d > log(1 - d) + g.
    drafted = _z(list(scores.values()))

    def lost(temperature):
        share = _soft(drafted / temperature)[0]
        return np.mean([math.log(share) > math.log1p(-share) + tool.score for tool in known])

    assert lost(0.1) == 1.0  # the premise: new_0 takes every first place
    for tool in known:  # make the model sure, as a trained one is: the bound depends on its probabilities
        assert tool.score < 0
    # An untrained model is as unsure as a flat draft: no temperature is enough, but a weight is.
    assert lost(100.0) > 0
    assert hybrid.calibrate(queries, labels, max_loss=0) == 0.1
    share = _soft(drafted / 0.1)[0]

    def lost_with(weight):
        return np.mean([math.log(weight * share) > math.log1p(-weight * share) + tool.score for tool in known])

    assert lost_with(hybrid.unseen_weight) == 0 < lost_with(hybrid.unseen_weight * 1.26)
    assert [tool.name for tool, *_ in hybrid.retrieve(queries, 3)] == [tool.name for tool in known]
    assert hybrid.calibrate(queries, labels, max_loss=1) == 0.1
    assert hybrid.unseen_weight == 1.0
    # Labels that the model does not find cannot be lost, nor those that are the added tool.
    assert hybrid.calibrate(queries, [["tool_11"]] * 6, max_loss=0) == 0.1
    assert hybrid.calibrate(queries, [["new_0", *row] for row in labels], max_loss=0) == 0.1
    for keys, words in (({"max_loss": 2}, "max_loss"), ({"max_loss": math.nan}, "max_loss")):
        with pytest.raises(ConfigError, match=words):
            hybrid.calibrate(queries, labels, **keys)
    with pytest.raises(DecodingError, match="got 6 and 1"):
        hybrid.calibrate(queries, labels[:1])
    with pytest.raises(ConfigError, match="no temperature"):
        HybridRetriever(Fixed(scores), model, mode="fuse", normalise="zscore").calibrate(queries, labels)


def test_calibration_takes_the_smallest_temperature_that_keeps_the_bound(model, monkeypatch):
    scores = {"new_0": 3.0, "tool_4": 2.0, "tool_5": 1.5, "tool_6": 1.0, "tool_7": 0.0}
    hybrid = HybridRetriever(Fixed(scores), model, unseen=NEW)
    sure = {0: -0.05, 1: -0.3, 2: -0.9, 3: -2.0}  # a trained model's log-probabilities

    def answers(texts, top_k, *, tools, num_beams, batch_size):
        return [Ranking([RetrievedTool("tool_5", sure[int(text)]), RetrievedTool("tool_4", -299.0)]) for text in texts]

    monkeypatch.setattr(model, "retrieve", answers)
    drafted = _z(list(scores.values()))

    def lost(temperature):
        share = _soft(drafted / temperature)[0]
        return sum(math.log(share) > math.log1p(-share) + value for value in sure.values()) / 4

    assert hybrid.calibrate(list("0123"), [["tool_5"]] * 4, max_loss=0) == 1.0  # no temperature holds the one of -2.0
    assert hybrid.unseen_weight < 1.0
    sure[3] = -200.0
    with pytest.raises(DecodingError, match=r"it loses 0\.25"):  # and this one no weight
        hybrid.calibrate(list("0123"), [["tool_5"]] * 4, max_loss=0)
    sure[3] = -2.0
    for bound in (0.25, 0.5, 0.75):
        found = hybrid.calibrate(list("0123"), [["tool_5"]] * 4, max_loss=bound)
        assert lost(found) <= bound < lost(found / 1.13)


def test_a_strange_tool_is_an_error(model, draft):
    with pytest.raises(DecodingError, match=r"'new_[01]', which the model has no codes for"):
        HybridRetriever(draft, model, draft_k=14).retrieve(QUERIES, 3)


def test_limits_of_the_request(model, draft):
    hybrid = HybridRetriever(draft, model, unseen=NEW)
    assert hybrid.retrieve([], 3) == []
    with pytest.raises(UnknownToolError):
        hybrid.retrieve("x", tools=["nothing"])
    with pytest.raises(EmptyCatalogueError):
        hybrid.retrieve("x", tools=[])
    with pytest.raises(ConfigError, match="top_k"):
        hybrid.retrieve("x", 0)
    with pytest.raises(DecodingError, match="query 1: expected text"):
        hybrid.retrieve(["x", 3], 1)
    with pytest.raises(DecodingError, match="collection of tool ids"):
        hybrid.retrieve("x", tools="tool_1")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("draft_k", 0),
        ("mode", "guess"),
        ("unseen_weight", 0),
        ("unseen_weight", 1.5),
        ("alpha", 1.5),
        ("normalise", "max"),
        ("temperature", 0.0),
        ("union_k", -1),
        ("unseen", "tool_1"),
        ("batch_size", 0),
    ],
    ids=str,
)
def test_settings_out_of_range(model, draft, key, value):
    with pytest.raises(ConfigError, match=key):
        HybridRetriever(draft, model, **{key: value})
    with pytest.raises(ConfigError, match="draft"):
        HybridRetriever(object(), model)


def test_failed_queries_keep_the_others(make_tokenizer, make_model, draft):
    tokenizer = make_tokenizer()
    broken = GenerativeRetriever(make_model(tokenizer), tokenizer)
    poison = tokenizer.encode_retrieval_prompt("zzz")
    clean = {token for query in QUERIES for token in tokenizer.encode_retrieval_prompt(query)}
    token = next(token for token in poison if token not in clean)
    with torch.no_grad():
        broken.model.get_input_embeddings().weight[token] = math.nan
    hybrid = HybridRetriever(draft, broken, draft_k=3, union_k=2)
    with pytest.raises(RetrievalError) as caught:
        hybrid.retrieve([QUERIES[0], "zzz", QUERIES[1]], 3, tools=TOOLS)
    assert list(caught.value.failures) == [1]
    assert caught.value.results[1] is None
    good = hybrid.retrieve([QUERIES[0], QUERIES[1]], 3, tools=TOOLS)
    assert _names([caught.value.results[0], caught.value.results[2]]) == _names(good)


_RANKING = st.lists(st.sampled_from("abcdefgh"), max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.lists(_RANKING, min_size=1, max_size=4), st.sampled_from([0.5, 1.0, 60.0]), st.data())
def test_reciprocal_rank_fusion_is_its_formula(names, k, data):
    weights = data.draw(
        st.none() | st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=len(names), max_size=len(names))
    )
    fused = reciprocal_rank_fusion(
        [[RetrievedTool(name, -float(place)) for place, name in enumerate(row)] for row in names], k, weights=weights
    )
    expected: dict[str, float] = {}
    for row, weight in zip(names, weights or [1.0] * len(names), strict=True):
        row = list(dict.fromkeys(row))
        for name in row:
            expected[name] = expected.get(name, 0.0) + weight / (k + row.index(name) + 1)
    assert [tool.name for tool in fused] == sorted(expected, key=lambda name: -expected[name])
    assert {tool.name: tool.score for tool in fused} == pytest.approx(expected)


def test_fusion_by_hand():
    one = [RetrievedTool("a", 3.0), RetrievedTool("b", 2.0, (1, 2)), RetrievedTool("c", 1.0)]
    two = [RetrievedTool("b", 0.9), RetrievedTool("d", 0.8, (4, 5))]
    fused = reciprocal_rank_fusion([one, two], 60, top_k=3)
    assert [(tool.name, tool.codes) for tool in fused] == [("b", (1, 2)), ("a", ()), ("d", (4, 5))]
    assert [tool.score for tool in fused] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])
    # A tie goes to what is read first, and scores of the rankings count for nothing.
    assert _names([reciprocal_rank_fusion([two[:1], one[:1]])]) == [["b", "a"]]
    assert reciprocal_rank_fusion([]) == []
    for weights in ([1.0], [0.0, 0.0], [1.0, -1.0], [1.0, math.nan]):
        with pytest.raises(ConfigError, match="weights"):
            reciprocal_rank_fusion([one, two], weights=weights)
    with pytest.raises(ConfigError, match="k"):
        reciprocal_rank_fusion([one], -1)


def test_fusion_of_retrievers(model, draft):
    fusion = FusionRetriever([draft, model], k=10, weights=[2.0, 1.0], depth=4)
    found = fusion.retrieve(QUERIES, 3, tools=TOOLS)
    columns = zip(draft.retrieve(QUERIES, 4, tools=TOOLS), model.retrieve(QUERIES, 4, tools=TOOLS), strict=True)
    assert found == [reciprocal_rank_fusion(row, 10, weights=[2.0, 1.0])[:3] for row in columns]
    assert len(fusion.retrieve(QUERIES[0], 9, tools=TOOLS)[0]) == 9  # deeper than `depth` where more is asked for
    assert fusion.retrieve([]) == []
    for retrievers in ([], [draft, object()]):
        with pytest.raises(ConfigError, match="retrievers"):
            FusionRetriever(retrievers)
    with pytest.raises(ConfigError, match="depth"):
        FusionRetriever([draft], depth=0)
    with pytest.raises(EvaluationError, match="documents"):
        FusionRetriever([BM25Retriever([ToolDocument(name="a"), ToolDocument(name="a")])])


def test_fusion_wants_a_ranking_a_query():
    silent = type("Silent", (), {"retrieve": lambda self, queries, top_k, *, tools=None: []})()
    with pytest.raises(DecodingError, match="Silent gave 0"):
        FusionRetriever([silent]).retrieve(["a", "b"], 2)


def test_tools_that_share_codes_share_a_score(make_tokenizer, make_model):
    tokenizer = make_tokenizer(40, shared=True, sizes=(2, 2, 2))
    shared = GenerativeRetriever(make_model(tokenizer), tokenizer)
    names = [f"tool_{place}" for place in (31, 4, 17, 8, 25, 2, 39, 11, 20, 5, 14, 36)]
    codes = [tokenizer.tool_index[name] for name in names]
    assert len(set(codes)) < len(codes)  # the premise
    drafted = Fixed({name: -float(place) for place, name in enumerate(names)})
    ranking = HybridRetriever(drafted, shared, draft_k=12).retrieve(QUERIES[0], 12)[0]
    scores = dict(zip(names, shared.score(QUERIES[0], names)[0], strict=True))
    assert sorted(_names([ranking])[0]) == sorted(names)
    for tool in ranking:
        assert tool.score == pytest.approx(scores[tool.name], abs=1e-4)
    for one, two in itertools.pairwise(ranking):
        if one.codes == two.codes:  # of equal scores the draft's order counts
            assert one.score == two.score
            assert names.index(one.name) < names.index(two.name)
