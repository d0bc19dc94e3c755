"""Tables of systems: every number recomputed, and bold only where the tests say so."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from toolscaler.data import ToolQuery
from toolscaler.decoding import RetrievedTool
from toolscaler.errors import ConfigError, EvaluationError
from toolscaler.evaluation import (
    ToolRetrievalEvaluator,
    bootstrap_intervals,
    cluster_bootstrap_interval,
    compare_systems,
    holm_adjust,
    paired_bootstrap_interval,
    paired_randomization_test,
)


def _values(seed=0, n=80):
    """Three systems, two metrics: ``good`` far ahead on ``hit``, the other two alike."""
    rng = np.random.default_rng(seed)
    ease = rng.random(n)
    return {
        "good": {"hit": (ease < 0.9).astype(float), "mrr": np.clip(ease + 0.05 * rng.normal(size=n), 0, 1)},
        "fair": {"hit": (ease < 0.55).astype(float), "mrr": np.clip(ease + 0.05 * rng.normal(size=n), 0, 1)},
        "alike": {"hit": rng.permutation(ease < 0.5).astype(float), "mrr": 0.3 * ease},
    }


def test_every_number_is_that_of_the_single_functions():
    values = _values()
    table = compare_systems(values, "fair", num_resamples=400, seed=3)
    raw = {}
    for system, columns in values.items():
        for metric, numbers in columns.items():
            cell = table.value(system, metric)
            assert (cell.n, cell.runs) == (80, 1)
            assert cell.mean == pytest.approx(numbers.mean(), abs=1e-12)
            expected = bootstrap_intervals(numbers, num_resamples=400, seed=3)
            np.testing.assert_allclose((cell.low, cell.high), expected, atol=1e-12)
            if system == "fair":
                assert (cell.difference, cell.p_value, cell.p_holm) == (None, None, None)
                continue
            other = values["fair"][metric]
            np.testing.assert_allclose(
                (cell.difference, cell.difference_low, cell.difference_high),
                paired_bootstrap_interval(numbers, other, num_resamples=400, seed=3),
                atol=1e-12,
            )
            assert cell.p_value == paired_randomization_test(numbers, other, seed=3)
            raw[system, metric] = cell.p_value
    adjusted = dict(zip(raw, holm_adjust(list(raw.values())), strict=True))
    assert {key: table.value(*key).p_holm for key in raw} == pytest.approx(adjusted)


def _marks(values, table, alpha=0.05):
    """Slow twin: the best of each column against every other, adjusted over the table."""
    tests = {}
    for metric in table.metrics:
        best = max(values, key=lambda name: values[name][metric].mean())
        for other in values:
            if other != best:
                p = paired_randomization_test(values[best][metric], values[other][metric], seed=table.seed)
                tests[best, other, metric] = p
    adjusted = dict(zip(tests, holm_adjust(list(tests.values())), strict=True))
    marks = {}
    for metric in table.metrics:
        best = next(key[0] for key in tests if key[2] == metric)
        tied = {key[1] for key in tests if key[2] == metric and adjusted[key] >= alpha}
        for name in values:
            marks[name, metric] = ("tied" if tied else "best") if name == best else "tied" if name in tied else ""
    return marks


@pytest.mark.parametrize("seed", range(4))
def test_marks_against_a_slow_twin(seed):
    values = _values(seed)
    table = compare_systems(values, num_resamples=100)
    assert {(cell.system, cell.metric): cell.mark for cell in table.values} == _marks(values, table)


def test_best_only_where_it_is_separable_from_all():
    table = compare_systems(_values(), num_resamples=100)
    assert [table.value(name, "hit").mark for name in table.systems] == ["best", "", ""]
    assert [table.value(name, "mrr").mark for name in table.systems] == ["tied", "tied", ""]
    # Ahead by one query of eighty: the higher mean alone makes nobody the best.
    one, two = np.ones(80), np.ones(80)
    two[0] = 0.0
    assert {cell.mark for cell in compare_systems({"one": one, "two": two}).values} == {"tied"}
    assert {cell.mark for cell in compare_systems({"one": one, "two": one}).values} == {"tied"}
    assert compare_systems({"alone": one}).value("alone", "value").mark == ""


def test_holm_makes_a_large_table_more_careful():
    """A difference that is significant alone is not among many columns of noise."""
    rng = np.random.default_rng(1)
    first, second = np.array([1.0] * 9 + [0.0] * 40), np.array([0.0] * 7 + [1.0] * 2 + [0.0] * 40)
    second[48] = 0.0
    alone = compare_systems({"a": {"x": first}, "b": {"x": second}}, "b")
    assert alone.value("a", "x").p_value == alone.value("a", "x").p_holm < 0.05
    assert alone.value("a", "x").mark == "best"
    noise = {name: {f"noise {row}": rng.random(49) for row in range(8)} for name in "ab"}
    many = compare_systems({"a": {"x": first, **noise["a"]}, "b": {"x": second, **noise["b"]}}, "b")
    assert many.value("a", "x").p_value == alone.value("a", "x").p_value
    assert many.value("a", "x").p_holm > 0.05
    assert many.value("a", "x").mark == "tied"


def test_no_differences_rarely_make_a_best():
    """Five systems that are the same but for noise: whichever is ahead is hardly ever called the best."""
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(60):
        table = compare_systems({f"s{row}": rng.random(30) for row in range(5)}, num_resamples=100, test_resamples=400)
        found += any(cell.mark == "best" for cell in table.values)
    assert found <= 3


def test_runs_are_drawn_and_averaged():
    rng = np.random.default_rng(4)
    ease = rng.random(60)
    ours = np.clip(ease + 0.3 + 0.05 * rng.normal(size=(3, 60)), 0, 1)
    theirs = np.clip(ease, 0, 1)
    table = compare_systems({"ours": ours, "bm25": theirs}, "bm25", num_resamples=300, seed=5)
    cell = table.value("ours", "value")
    assert (cell.n, cell.runs, table.value("bm25", "value").runs) == (60, 3, 1)
    np.testing.assert_allclose(
        (cell.mean, cell.low, cell.high), cluster_bootstrap_interval(ours, num_resamples=300, seed=5), atol=1e-12
    )
    np.testing.assert_allclose(
        (cell.difference, cell.difference_low, cell.difference_high),
        cluster_bootstrap_interval(ours, theirs, num_resamples=300, seed=5),
        atol=1e-12,
    )
    assert cell.p_value == paired_randomization_test(ours.mean(axis=0), theirs, seed=5)
    assert cell.mark == "best"
    text = table.to_markdown()
    assert "| system | n | runs | value |" in text
    assert "runs and queries (crossed)" in text


def test_a_lead_that_one_run_alone_makes_is_no_lead():
    """Queries agree that the mean of the runs is ahead; the runs do not."""
    rng = np.random.default_rng(5)
    theirs = rng.random(200)
    ours = theirs + np.array([[0.5], [-0.05], [-0.05]]) + 0.01 * rng.normal(size=(3, 200))
    table = compare_systems({"ours": ours, "theirs": theirs}, "theirs")
    cell = table.value("ours", "value")
    assert cell.p_holm < 0.001
    assert cell.difference_low < 0 < cell.difference
    assert {value.mark for value in table.values} == {"tied"}


def test_nested_runs_may_have_queries_of_their_own():
    rng = np.random.default_rng(6)
    theirs = [rng.random(n) for n in (20, 30, 25)]
    ours = [run + 0.2 for run in theirs]
    table = compare_systems({"ours": ours, "theirs": theirs}, "theirs", design="nested", num_resamples=200)
    cell = table.value("ours", "value")
    assert (cell.n, cell.runs) == (75, 3)
    assert cell.mean == pytest.approx(np.mean([run.mean() for run in ours]))
    assert (cell.difference_low, cell.difference_high) == pytest.approx((0.2, 0.2))
    with pytest.raises(EvaluationError, match="nested"):
        compare_systems({"ours": ours, "theirs": theirs})


def test_metrics_may_have_other_queries_and_systems_may_lack_one():
    rng = np.random.default_rng(7)
    values = {
        "a": {"ToolE hit": rng.random(40), "UltraTool hit": rng.random(25)},
        "b": {"ToolE hit": rng.random(40)},
        "c": {"UltraTool hit": rng.random(25)},
    }
    table = compare_systems(values, "b", num_resamples=100)
    assert table.value("b", "UltraTool hit") is None
    assert table.value("c", "UltraTool hit").p_value is None  # the baseline has no such value
    text = table.to_markdown()
    assert "| system | ToolE hit (n = 40) | UltraTool hit (n = 25) |" in text
    assert "–: not measured" in text
    assert text.splitlines()[3].endswith("| – |")


def test_markdown_and_csv(tmp_path):
    values = _values()
    facts = {"good": {"catalogue": 46984, "beams": 10, "seed": 0}, "fair": {"catalogue": 46984}}
    table = compare_systems(values, "fair", facts=facts, num_resamples=200)
    lines = table.to_markdown().splitlines()
    assert lines[0] == "| system | n | catalogue | beams | seed | hit | mrr |"
    assert lines[1] == "|---|---:|---:|---:|---:|---:|---:|"
    cell = table.value("good", "hit")
    hit = f"**{100 * cell.mean:.2f}** [{100 * cell.low:.2f}, {100 * cell.high:.2f}]"
    assert lines[2].startswith(f"| good | 80 | 46984 | 10 | 0 | {hit} | ")
    assert lines[2].endswith("] † |")
    assert lines[3].startswith("| fair | 80 | 46984 | – | – | ")
    assert lines[4].startswith("| alike | 80 | – | – | – | ")
    assert lines[6] == "| system | metric | difference to fair | p | p (Holm) |"
    ends = f"[{100 * cell.difference_low:+.2f}, {100 * cell.difference_high:+.2f}]"
    assert lines[8] == f"| good | hit | {100 * cell.difference:+.2f} {ends} | < 0.001 | < 0.001 |"
    assert len(lines) == 14
    for part in ("95 %", "200 draws", "Holm over the 4 comparisons with fair", "10000 patterns", "seed 0", "bold", "†"):
        assert part in lines[13]
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert len(rows) == 6
    assert float(rows[0]["mean"]) == cell.mean
    assert float(rows[0]["p_holm"]) == cell.p_holm
    assert (rows[0]["baseline"], rows[0]["catalogue"], rows[0]["mark"]) == ("fair", "46984", "best")
    assert (rows[2]["system"], rows[2]["difference"], rows[2]["beams"]) == ("fair", "", "")
    assert [path.name for path in table.save(tmp_path, "table-1")] == ["table-1.md", "table-1.csv"]
    assert (tmp_path / "table-1.md").read_text(encoding="utf-8") == table.to_markdown()
    assert (tmp_path / "table-1.csv").read_text(encoding="utf-8") == table.to_csv()
    data = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert data["values"][0]["mean"] == cell.mean
    assert (data["baseline"], data["facts"]["good"]["beams"]) == ("fair", 10)


def test_without_a_baseline_there_are_no_differences_and_pipes_do_no_harm():
    text = compare_systems({"a|b": np.ones(4), "c": np.zeros(4)}).to_markdown(scale=1.0, digits=1)
    assert "| a\\|b | 4 | 1.0 [1.0, 1.0] † |" in text
    assert "difference" not in text.split("intervals:")[0]


class Shuffled:
    def __init__(self, seed):
        self.seed = seed

    def retrieve(self, queries, top_k, *, tools=None):
        rng = np.random.default_rng(self.seed)
        return [
            [RetrievedTool(name, -float(row)) for row, name in enumerate(rng.permutation(list("abcdef")))]
            for _ in queries
        ]


def test_evaluation_results_go_in_as_they_are():
    queries = [ToolQuery(f"query {row}", ("a",) if row % 2 else ("b", "c")) for row in range(20)]
    evaluator = ToolRetrievalEvaluator(queries, (1, 3), num_resamples=100)
    runs, other = [evaluator(Shuffled(seed)) for seed in (0, 1)], evaluator(Shuffled(2))
    table = compare_systems({"ours": runs, "other": other}, "other")
    assert table.metrics == ("ndcg@1", "ndcg@3", "recall@3", "completeness@3")
    assert table.value("ours", "ndcg@3").mean == pytest.approx(
        np.mean([run.metrics["ndcg@3"].mean for run in runs]), abs=1e-12
    )
    single = compare_systems({"ours": runs[0], "other": other}, "other", metrics=["mrr@3"])
    found = runs[0].compare(other, "mrr@3")
    cell = single.value("ours", "mrr@3")
    assert (cell.difference, cell.p_value) == pytest.approx((found.difference, found.p_value))
    elsewhere = ToolRetrievalEvaluator(queries[::-1], (1, 3), num_resamples=100)(Shuffled(0))
    for results in ({"ours": runs, "other": elsewhere}, {"ours": [runs[0], elsewhere]}):
        with pytest.raises(EvaluationError, match="other queries"):
            compare_systems(results)
    both = {"ours": [runs[0], elsewhere], "other": [other, elsewhere]}
    assert compare_systems(both, design="nested").value("ours", "ndcg@1").n == 40
    with pytest.raises(EvaluationError, match="other queries"):
        compare_systems({"ours": [runs[0], elsewhere], "other": [elsewhere, other]}, design="nested")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: compare_systems({}), EvaluationError, "got none"),
        (lambda: compare_systems({"a": [1.0]}, "b"), EvaluationError, "baseline.*'b'"),
        (lambda: compare_systems({"a": [1.0], "b": [1.0, 0.0]}), EvaluationError, "value: .*same queries"),
        (lambda: compare_systems({"a": {"x": [np.nan]}}), EvaluationError, "a, x: .*finite"),
        (lambda: compare_systems({"a": {"x": []}}), EvaluationError, "a, x"),
        (lambda: compare_systems({"a": {}}), EvaluationError, "metrics"),
        (lambda: compare_systems({"a": {"x": [1.0]}, "b": {}}), EvaluationError, "b: expected values"),
        (lambda: compare_systems({"a": {"x": [1.0]}}, metrics=["y"]), EvaluationError, "'y'"),
        (lambda: compare_systems({"a": {"x": [1.0]}}, metrics="x"), ConfigError, "metrics"),
        (lambda: compare_systems({"a": [1.0]}, facts={"b": {}}), EvaluationError, "facts.*'b'"),
        (lambda: compare_systems({"a": [1.0]}, design="both"), ConfigError, "design"),
        (lambda: compare_systems({"a": [1.0]}, num_resamples=3), EvaluationError, "num_resamples"),
        (lambda: compare_systems({"a": [1.0]}, confidence=1.0), EvaluationError, "confidence"),
        (lambda: compare_systems({"a": [1.0]}).value("b", "value"), EvaluationError, "system.*'b'"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
