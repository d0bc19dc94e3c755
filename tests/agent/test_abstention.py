"""Contract: the lowest margin that keeps precision, exactly; margins are those that the agent will see."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toolscaler.agent.abstention import (
    ABSTENTION_FILE,
    AbstentionThreshold,
    calibrate_abstention,
    calibrate_agent,
    collect_margins,
)
from toolscaler.agent.agent import ToolAgent
from toolscaler.agent.code_planner import CodePlanner
from toolscaler.agent.executors import PythonExecutor
from toolscaler.agent.planning import PlanRequest
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.trajectories import FINISH_TOOL, TrajectoryMessage, finish_document
from toolscaler.decoding import GenerativeRetriever
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.errors import ArtifactError, CalibrationError, ConfigError, DataError
from toolscaler.tokenization import ToolscalerTokenizer

pytestmark = pytest.mark.filterwarnings("ignore:only .* queries reach the threshold")

PAIRS = st.lists(st.tuples(st.integers(0, 6).map(float) | st.just(math.inf), st.booleans()), min_size=1, max_size=40)
TARGETS = st.fractions(min_value=0, max_value=1, max_denominator=20).filter(bool)


def brute_force(pairs, target):
    """Every margin as threshold, counted by hand, in whole numbers."""
    best = None
    for threshold in {margin for margin, _ in pairs}:
        kept = [right for margin, right in pairs if margin >= threshold]
        if sum(kept) * target.denominator >= len(kept) * target.numerator and (best is None or threshold < best[0]):
            best = (threshold, sum(kept), len(kept))
    return best


@given(PAIRS, TARGETS)
@settings(max_examples=200, deadline=None)
def test_the_threshold_is_that_of_brute_force(pairs, target):
    expected = brute_force(pairs, target)
    margins, correct = zip(*pairs, strict=True)
    if expected is None:
        with pytest.raises(CalibrationError):
            calibrate_abstention(margins, correct, target_precision=float(target), num_resamples=100)
        return
    found = calibrate_abstention(margins, correct, target_precision=float(target), num_resamples=100)
    threshold, right, kept = expected
    assert (found.threshold, found.n) == (threshold, len(pairs))
    assert found.precision == pytest.approx(right / kept)
    assert found.coverage == pytest.approx(kept / len(pairs))
    assert found.low <= found.high
    assert float(found) == threshold


@given(PAIRS, TARGETS, TARGETS)
@settings(max_examples=100, deadline=None)
def test_the_threshold_never_falls_when_the_target_rises(pairs, one, other):
    low, high = sorted((one, other))
    assume(brute_force(pairs, high) is not None)
    margins, correct = zip(*pairs, strict=True)
    first, second = (
        calibrate_abstention(margins, correct, target_precision=float(target), num_resamples=100)
        for target in (low, high)
    )
    assert first.threshold <= second.threshold
    assert first.coverage >= second.coverage


def test_by_hand():
    margins = [5, 4, 3, 2, 1, 1]
    correct = [1, 1, 0, 1, 1, 0]
    found = calibrate_abstention(margins, correct, target_precision=0.75)
    # From 5 down: 1/1, 2/2, 2/3, 3/4, and both queries at 1 together 4/6.
    assert (found.threshold, found.precision, found.coverage) == (2.0, 0.75, 4 / 6)
    assert calibrate_abstention(margins, correct, target_precision=1.0).threshold == 4.0
    with pytest.raises(CalibrationError, match=r"best is 0\.5") as error:
        calibrate_abstention([2, 1], [False, True], target_precision=0.9)
    again = pickle.loads(pickle.dumps(error.value))
    assert (again.target, again.best, again.n, str(again)) == (0.9, 0.5, 2, str(error.value))


def test_the_interval_is_that_of_drawing_queries():
    rng = np.random.default_rng(0)
    margins = rng.exponential(size=400)
    correct = rng.random(400) < 1 - np.exp(-3 * margins)
    found = calibrate_abstention(margins, correct, target_precision=0.9, num_resamples=4000)
    assert found.low < found.precision < found.high
    shares = []
    for _ in range(4000):  # slow twin: the queries themselves, with replacement
        drawn = rng.integers(0, 400, 400)
        kept = margins[drawn] >= found.threshold
        shares.append(correct[drawn][kept].mean())
    low, high = np.quantile(shares, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.008)
    assert calibrate_abstention(margins, correct, target_precision=0.9, num_resamples=4000) == found


def test_few_queries_are_told():
    with pytest.warns(UserWarning, match="only 3 of 3"):
        calibrate_abstention([1, 2, 3], [True] * 3)


@pytest.mark.parametrize(
    ("margins", "correct", "options", "error"),
    [
        ([], [], {}, DataError),
        ([1, 2], [True], {}, DataError),
        ([math.nan], [True], {}, DataError),
        ([-math.inf], [True], {}, DataError),
        (["x"], [True], {}, DataError),
        ([1.0], [0.5], {}, DataError),
        ([[1.0]], [[True]], {}, DataError),
        ([1.0], [True], {"target_precision": 0}, ConfigError),
        ([1.0], [True], {"target_precision": 1.1}, ConfigError),
        ([1.0], [True], {"confidence": 1}, ConfigError),
        ([1.0], [True], {"num_resamples": 5}, ConfigError),
    ],
    ids=str,
)
def test_what_does_not_fit(margins, correct, options, error):
    with pytest.raises(error):
        calibrate_abstention(margins, correct, **options)


NAMES = ["convert", "week_day", "count", "roll", FINISH_TOOL]
DOCUMENTS = [*(ToolDocument(name, f"Do {name}.") for name in NAMES[:-1]), finish_document()]


@pytest.fixture(scope="module")
def planner(make_tiny_tokenizer, make_tiny_model):
    codes = np.stack(np.unravel_index([3, 11, 17, 20, 30], (4, 3, 3)), 1)
    tokenizer = ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(), codes=codes, tool_ids=NAMES, code_sizes=(4, 3, 3)
    )
    model = make_tiny_model("llama", tokenizer, seed=2)
    model.config.max_position_embeddings = 2048
    initialize_code_embeddings(model, tokenizer, init="random")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(6.0)
    return CodePlanner(model, tokenizer, max_thought_tokens=6, max_argument_tokens=20)


def test_margins_of_a_planner_are_those_of_its_plans(planner):
    queries = [ToolQuery(f"How many feet are {number} metres?", ("count",)) for number in range(4)]
    found = collect_margins(planner, queries, documents=DOCUMENTS)
    assert planner.abstain_below is None  # as it was
    expected = []
    for query in queries:
        documents = {document.id: document for document in DOCUMENTS}
        request = PlanRequest((TrajectoryMessage("user", query.text),), tuple(documents), documents, max_tokens=5000)
        plans = planner.plan(request)
        while True:
            try:
                next(plans)
            except StopIteration as end:
                call = end.value.calls[0]
                break
        if call.tool != FINISH_TOOL:
            expected.append((call.margin, call.tool == "count"))
    assert list(found.margins) == pytest.approx([margin for margin, _ in expected], abs=1e-4)
    assert list(found.correct) == [right for _, right in expected]
    assert found.skipped == 4 - len(expected)
    only = collect_margins(planner, queries[:1], documents=DOCUMENTS, tools=["count"])
    assert len(only.margins) + only.skipped == 1


def test_margins_of_a_retriever(planner):
    retriever = GenerativeRetriever(planner.model, planner.tokenizer)
    queries = [ToolQuery("How many feet?", ("count", "roll")), ToolQuery("Roll!", ())]
    allowed = NAMES[:-1]
    found = collect_margins(retriever, queries, tools=allowed)
    scores = retriever.score([query.text for query in queries], allowed)
    for place, query in enumerate(queries):
        best = np.argsort(-scores[place])
        assert found.margins[place] == pytest.approx(scores[place, best[0]] - scores[place, best[1]], abs=1e-4)
        assert found.correct[place] == (allowed[best[0]] in query.tools)
    assert collect_margins(retriever, queries[:1], tools=["roll"]).margins.tolist() == [math.inf]
    for options in ({"queries": []}, {"queries": queries, "documents": ()}):
        with pytest.raises(DataError):
            collect_margins(planner, **options)


@pytest.fixture(scope="module")
def folder(planner, tmp_path_factory):
    """The folder of a trained agent, as a run leaves it."""
    made = tmp_path_factory.mktemp("run") / "agent_model"
    planner.model.save_pretrained(made)
    planner.tokenizer.save_pretrained(made)
    planner.protocol.save(made)
    lines = [json.dumps(document.to_dict()) for document in DOCUMENTS]
    (made / "tools.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return made


def test_a_calibrated_agent_abstains_wherever_it_is_loaded(planner, folder):
    first = {query: plan_of(planner, query) for query in (f"How many {thing}?" for thing in "abcdefghij")}
    chosen = {query: plan for query, plan in first.items() if plan.calls[0].tool != FINISH_TOOL}
    assert len(chosen) >= 3
    # The surest choice is right, every other one is wrong: some of them since no tool is.
    best = max(chosen, key=lambda query: chosen[query].calls[0].margin)
    queries = [ToolQuery(best, (chosen[best].calls[0].tool,))]
    no_tool = [query for query in first if query != best]
    options = {"max_thought_tokens": 6, "max_argument_tokens": 20, "abstain_below": 1e9}
    options = {"no_tool_queries": no_tool, "target_precision": 1.0, "planner_options": options}
    found = calibrate_agent(folder, queries, **options)
    assert found.n == len(chosen)
    assert (found.precision, found.coverage) == (1.0, 1 / len(chosen))
    assert AbstentionThreshold.load(folder) == found
    loaded = CodePlanner.from_pretrained(folder, max_thought_tokens=6)
    assert loaded.abstain_below == found.threshold
    assert plan_of(loaded, best).kind == "calls"
    assert {plan_of(loaded, query).kind for query in chosen if query != best} == {"abstain"}
    # The agent of the command line is this one.
    with PythonExecutor([count]) as executor:
        agent = ToolAgent.from_pretrained(folder, executor)
        assert agent.planner.abstain_below == found.threshold
        assert (
            ToolAgent.from_pretrained(folder, executor, planner_options={"abstain_below": None}).planner.abstain_below
            is None
        )
    # Calibrated again it does not see the threshold that is there.
    assert calibrate_agent(folder, queries, **options) == found
    # Without wrong choices everything is kept; what cannot be reached changes nothing on the disk.
    right = [ToolQuery(query, (plan.calls[0].tool,)) for query, plan in chosen.items()]
    lower = calibrate_agent(folder, right, **{**options, "no_tool_queries": ()}, save=False)
    assert lower.coverage == 1.0
    with pytest.raises(CalibrationError):
        calibrate_agent(folder, [], **options)
    assert AbstentionThreshold.load(folder) == found
    (folder / ABSTENTION_FILE).unlink()


def count(text: str) -> int:
    """Count."""
    return len(text)


def plan_of(planner, query):
    documents = {document.id: document for document in DOCUMENTS}
    request = PlanRequest((TrajectoryMessage("user", query),), tuple(documents), documents, max_tokens=5000)
    plans = planner.plan(request)
    while True:
        try:
            next(plans)
        except StopIteration as end:
            return end.value


def test_a_planner_is_calibrated_without_a_folder(planner):
    queries = [ToolQuery(f"How many feet are {number} metres?", ("count",)) for number in range(4)]
    margins = collect_margins(planner, queries, documents=DOCUMENTS)
    if margins.correct.any():
        found = calibrate_agent(planner, queries, documents=DOCUMENTS, target_precision=0.01, save=False)
        assert found.n == len(margins.margins)
    with pytest.raises(ConfigError, match="save"):
        calibrate_agent(planner, queries, documents=DOCUMENTS)
    for options in ({"documents": None}, {"documents": ()}, {"queries": []}):
        with pytest.raises(DataError):
            calibrate_agent(planner, **{"queries": queries, "documents": DOCUMENTS, "save": False, **options})


def test_a_threshold_on_disk(tmp_path):
    for threshold in (0.25, math.inf):
        made = AbstentionThreshold(threshold, 1.0, math.nan, 1.0, 0.5, 8, 0.9)
        made.save(tmp_path)
        found = AbstentionThreshold.load(tmp_path)
        assert (found.threshold, found.n, found.confidence) == (threshold, 8, 0.95)
        assert isinstance(found.n, int)
        assert math.isnan(found.low)
    good = json.loads((tmp_path / ABSTENTION_FILE).read_text())
    broken = ({}, [], {**good, "n": None}, {**good, "more": 1}, {**good, "threshold": "nan"}, {**good, "n": True})
    for wrong in broken:
        (tmp_path / ABSTENTION_FILE).write_text(json.dumps(wrong))
        with pytest.raises(ArtifactError):
            AbstentionThreshold.load(tmp_path)
    with pytest.raises(ArtifactError):
        AbstentionThreshold.load(tmp_path / "nowhere")
