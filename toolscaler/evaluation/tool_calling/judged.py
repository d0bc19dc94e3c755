"""Queries, answers and a judge in, pass rate (SoPR) and win rate (SoWR) with intervals and open counts out."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from toolscaler.errors import ConfigError, EvaluationError
from toolscaler.evaluation.retrieval import MetricValue
from toolscaler.evaluation.tool_calling.answers import AnswerRecord, answer_record
from toolscaler.evaluation.tool_calling.judge import LLMJudge, Verdict
from toolscaler.evaluation.tool_calling.ratios import mean_metric

logger = logging.getLogger(__name__)

#: How several samples of one question become a score: their mean, or the verdict that most of them give (of equally
#: frequent ones: half).
Decide = Literal["mean", "majority"]

_SOLVED = {"solved": 1.0, "unsure": 0.5, "unsolved": 0.0}
_FIRST_WINS = {"first": 1.0, "tie": 0.5, "second": 0.0}
_SECOND_WINS = {"first": 0.0, "tie": 0.5, "second": 1.0}


@dataclass(frozen=True, eq=False)
class JudgedRate:
    """A rate that a judge gave.

    Attributes:
        name: Name of the system.
        rate: Mean score of the queries that were judged, with its 95 % bootstrap interval.
        n: Number of queries that were asked for.
        judged: Number of those that ``rate`` is over: all but the excluded ones.
        missing: Queries without a prediction; they count as failures.
        excluded: Queries for which the judge gave no verdict. They are in no score; ``bounds`` says what they could
            change.
        verdicts: Verdict -> how often it was given, all samples counted.
        judge: The judge, its settings, and version and hash of the prompts.
        per_query: One record a query: ``id``, ``score`` (``None`` where excluded), ``decided`` (by the ``judge`` or by
            which rule), ``verdicts``, ``reasons``, ``error``.
        seed: Seed of the bootstrap.
        num_resamples: Resamples of the bootstrap.
    """

    name: str
    rate: MetricValue
    n: int
    missing: int
    verdicts: Mapping[str, int]
    judge: Mapping[str, Any]
    per_query: tuple[Mapping[str, Any], ...] = field(repr=False)
    seed: int = 0
    num_resamples: int = 2000

    @property
    def excluded(self) -> int:
        """Number of queries for which the judge gave no verdict."""
        return sum(record["score"] is None for record in self.per_query)

    @property
    def judged(self) -> int:
        """Number of queries that the rate is over."""
        return self.n - self.excluded

    @property
    def bounds(self) -> tuple[float, float]:
        """The rate if every excluded query were lost, and if every one were won."""
        total = sum(record["score"] or 0.0 for record in self.per_query)
        return total / self.n, (total + self.excluded) / self.n

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data, without the records of queries; an interval that does not exist is null."""
        low, high = (value if math.isfinite(value) else None for value in (self.rate.low, self.rate.high))
        return {
            "name": self.name,
            "rate": {"mean": self.rate.mean, "low": low, "high": high},
            "n": self.n,
            "judged": self.judged,
            "missing": self.missing,
            "excluded": self.excluded,
            "bounds": list(self.bounds),
            "verdicts": dict(self.verdicts),
            "judge": dict(self.judge),
            "seed": self.seed,
            "num_resamples": self.num_resamples,
        }


@dataclass(frozen=True, eq=False)
class PassRate(JudgedRate):
    """SoPR: the share of solvable queries that are judged solved (paper section 5.1), unsure ones counted half."""


@dataclass(frozen=True, eq=False)
class WinRate(JudgedRate):
    """SoWR: how often a system is preferred to a reference (paper section 5.1), ties counted half.

    Attributes:
        reference: Name of the reference.
        missing_references: Queries of which only the reference's answer is missing; they are won.
    """

    reference: str = "reference"
    missing_references: int = 0

    @property
    def outcomes(self) -> dict[str, int]:
        """Number of queries won, tied and lost."""
        scores = [record["score"] for record in self.per_query if record["score"] is not None]
        return {
            "win": sum(score > 0.5 for score in scores),
            "tie": sum(score == 0.5 for score in scores),
            "loss": sum(score < 0.5 for score in scores),
        }

    @property
    def order_agreement(self) -> float:
        """Share of judged pairs with the same score in both orders: how little the judge's taste depends on the order.

        NaN where no pair was judged.
        """
        both = [record["orders"] for record in self.per_query if record.get("orders")]
        return float(np.mean([first == second for first, second in both])) if both else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON data, without the records of queries; what does not exist is null."""
        agreement = self.order_agreement
        return {
            **super().to_dict(),
            "reference": self.reference,
            "missing_references": self.missing_references,
            "outcomes": self.outcomes,
            "order_agreement": None if math.isnan(agreement) else agreement,
        }


def judge_pass_rate(
    judge: LLMJudge,
    queries: Mapping[str, str],
    predictions: Mapping[str, Any],
    *,
    name: str = "toolscaler",
    decide: Decide = "mean",
    workers: int = 4,
    seed: int = 0,
    num_resamples: int = 2000,
    show_progress: bool = False,
) -> PassRate:
    """Measure SoPR.

    A missing prediction, an empty answer and giving up are failures, and the judge is not asked.

    Args:
        judge: The judge.
        queries: Id -> query, of every solvable query.
        predictions: Id -> what the system did, as in :func:`answer_record`.
        name: Name of the system.
        decide: How several samples of a query become its score.
        workers: Questions at a time.
        seed: Seed of the bootstrap.
        num_resamples: Resamples of the bootstrap.
        show_progress: Show a progress bar.

    Raises:
        ConfigError: A setting is not allowed.
        EvaluationError: There are no queries, a prediction belongs to none of them or is of no known form, or the judge
            gave no verdict on any query.
    """
    answers = _answers(queries, predictions, "predictions", decide, workers)

    def score(id: str) -> dict[str, Any]:
        answer = answers[id]
        if answer is None or not answer.answers:
            return _decided(id, 0.0, "missing" if answer is None else "no answer")
        verdicts = [judge.solved(queries[id], answer, sample) for sample in range(judge.samples)]
        return _record(id, _score(verdicts, _SOLVED, decide), verdicts)

    records = _all(score, list(queries), workers, f"SoPR: {name}" if show_progress else "")
    rate = _rate(records, seed, num_resamples)
    missing = sum(answer is None for answer in answers.values())
    told = judge.identity("solved")
    return PassRate(name, rate, len(records), missing, _counted(records), told, records, seed, num_resamples)


def judge_win_rate(
    judge: LLMJudge,
    queries: Mapping[str, str],
    predictions: Mapping[str, Any],
    references: Mapping[str, Any],
    *,
    name: str = "toolscaler",
    reference: str = "reference",
    decide: Decide = "mean",
    workers: int = 4,
    seed: int = 0,
    num_resamples: int = 2000,
    show_progress: bool = False,
) -> WinRate:
    """Measure SoWR: each pair is judged in both orders, and its score is the mean of the two.

    A missing prediction loses, also where the reference is missing too; against a missing reference an answer wins.
    Equal answers are a tie. In all three cases the judge is not asked.

    Args:
        judge: The judge.
        queries: Id -> query.
        predictions: Id -> what the system did, as in :func:`answer_record`.
        references: Id -> what the reference did.
        name: Name of the system.
        reference: Name of the reference.
        decide: How several samples of a query, in one order, become a score.
        workers: Questions at a time.
        seed: Seed of the bootstrap.
        num_resamples: Resamples of the bootstrap.
        show_progress: Show a progress bar.

    Raises:
        ConfigError: A setting is not allowed.
        EvaluationError: As :func:`judge_pass_rate`.
    """
    answers = _answers(queries, predictions, "predictions", decide, workers)
    others = _answers(queries, references, "references", decide, workers)

    def score(id: str) -> dict[str, Any]:
        mine, theirs = answers[id], others[id]
        if mine is None:
            return _decided(id, 0.0, "missing")
        if theirs is None:
            return _decided(id, 1.0, "missing reference")
        if mine == theirs:
            return _decided(id, 0.5, "equal")
        before = [judge.preferred(queries[id], mine, theirs, sample) for sample in range(judge.samples)]
        behind = [judge.preferred(queries[id], theirs, mine, sample) for sample in range(judge.samples)]
        orders = _score(before, _FIRST_WINS, decide), _score(behind, _SECOND_WINS, decide)
        both = None if None in orders else (orders[0], orders[1])
        mean = None if orders[0] is None or orders[1] is None else (orders[0] + orders[1]) / 2
        return {**_record(id, mean, [*before, *behind]), "orders": both}

    records = _all(score, list(queries), workers, f"SoWR: {name}" if show_progress else "")
    rate = _rate(records, seed, num_resamples)
    missing = sum(answer is None for answer in answers.values())
    alone = sum(record["decided"] == "missing reference" for record in records)
    told = judge.identity("preferred")
    given = (name, rate, len(records), missing, _counted(records), told, records, seed, num_resamples)
    return WinRate(*given, reference, alone)


def _answers(
    queries: Mapping[str, str], given: Mapping[str, Any], what: str, decide: str, workers: int
) -> dict[str, AnswerRecord | None]:
    if not queries:
        raise EvaluationError("queries: expected at least one, got none")
    if decide not in ("mean", "majority"):
        raise ConfigError("decide", decide, "'mean' or 'majority'")
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise ConfigError("workers", workers, "a whole number above zero")
    unknown = sorted(set(given) - set(queries))
    if unknown:
        raise EvaluationError(f"{what}: expected ids of queries, got {len(unknown)} others, such as {unknown[:3]}")
    return {id: answer_record(given.get(id)) for id in queries}


def _score(verdicts: Sequence[Verdict], worth: Mapping[str, float], decide: str) -> float | None:
    """Give the score of the samples that have a verdict; ``None`` where none has."""
    values = [verdict.value for verdict in verdicts if not verdict.error]
    if not values:
        return None
    if decide == "mean":
        return sum(worth[value] for value in values) / len(values)
    times = Counter(values).most_common()
    return worth[times[0][0]] if len(times) == 1 or times[0][1] > times[1][1] else 0.5


def _decided(id: str, score: float, why: str) -> dict[str, Any]:
    """Give the record of a query that needs no judge."""
    return {"id": id, "score": score, "decided": why, "verdicts": [], "reasons": [], "error": ""}


def _record(id: str, score: float | None, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {
        "id": id,
        "score": score,
        "decided": "judge",
        "verdicts": [verdict.value for verdict in verdicts],
        "reasons": [verdict.reason for verdict in verdicts],
        "cached": sum(verdict.cached for verdict in verdicts),
        "error": next((verdict.error for verdict in verdicts if verdict.error), ""),
    }


def _all(
    score: Callable[[str], dict[str, Any]], ids: Sequence[str], workers: int, title: str
) -> tuple[dict[str, Any], ...]:
    def alone(id: str) -> dict[str, Any]:
        try:
            return score(id)
        except Exception as error:  # one bad query fails alone
            logger.warning("query %s could not be judged: %s", id, error)
            return _record(id, None, [Verdict("", error=f"{type(error).__name__}: {error}")])

    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            return tuple(tqdm(pool.map(alone, ids), total=len(ids), desc=title, disable=not title))
        except BaseException:  # a user who interrupts waits for no more than the questions that are out
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _rate(records: Sequence[Mapping[str, Any]], seed: int, num_resamples: int) -> MetricValue:
    scores = [record["score"] for record in records if record["score"] is not None]
    if not scores:
        raise EvaluationError(f"the judge gave no verdict on any query; the first: {records[0]['error']:.300}")
    failed = len(records) - len(scores)
    if failed:
        logger.warning("the judge gave no verdict on %d of %d queries", failed, len(records))
    return mean_metric(scores, num_resamples=num_resamples, seed=seed)


def _counted(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    given = Counter(value for record in records for value in record["verdicts"] if value)
    by_rule = Counter(record["decided"] for record in records if record["decided"] != "judge")
    return {**dict(sorted(given.items())), **{f"({why})": count for why, count in sorted(by_rule.items())}}
