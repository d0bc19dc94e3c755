"""Held-out queries in, the score margin under which an agent should rather call no tool out."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from toolscaler._files import read_json, write_json
from toolscaler.agent.planning import Plan, Planner, PlanRequest
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.trajectories import FINISH_TOOL, TrajectoryMessage, finish_document
from toolscaler.errors import ArtifactError, CalibrationError, ConfigError, DataError

if TYPE_CHECKING:
    from toolscaler.agent.chat_planner import ToolRanker

logger = logging.getLogger(__name__)

#: File of a model folder that holds its threshold.
ABSTENTION_FILE = "abstention.json"

#: Under this many queries above the threshold its precision says little.
_FEW = 30
_RESAMPLES = 2000


@dataclass(frozen=True)
class AbstentionThreshold:
    """A threshold, and what it did on the queries it was chosen on.

    Attributes:
        threshold: Margin from which a tool is called; give it to :class:`~toolscaler.agent.CodePlanner` as
            ``abstain_below``.
        precision: Share of right tools among the queries whose margin reaches it.
        low: Lower end of the precision's bootstrap interval.
        high: Upper end.
        coverage: Share of the queries whose margin reaches it.
        n: Queries in all.
        target_precision: What was asked for.
        confidence: Coverage of the interval.
    """

    threshold: float
    precision: float
    low: float
    high: float
    coverage: float
    n: int
    target_precision: float
    confidence: float = 0.95

    def __float__(self) -> float:
        return self.threshold

    def save(self, folder: str | Path) -> None:
        """Write :data:`ABSTENTION_FILE` into a model folder: a planner that is loaded from there takes it."""
        values = {key: value if math.isfinite(value) else str(value) for key, value in vars(self).items()}
        write_json(Path(folder) / ABSTENTION_FILE, values)

    @classmethod
    def load(cls, folder: str | Path) -> AbstentionThreshold:
        """Read :data:`ABSTENTION_FILE` from a model folder.

        Raises:
            ArtifactError: The file is missing or damaged.
        """
        path = Path(folder) / ABSTENTION_FILE
        data = read_json(path)
        known = {item.name for item in fields(cls)}
        if not isinstance(data, dict) or set(data) != known:
            raise ArtifactError(f"expected a JSON object with the keys {sorted(known)}", path=path)
        try:
            values: dict[str, Any] = {key: float(value) for key, value in data.items() if not isinstance(value, bool)}
            values["n"] = int(values["n"])
            found = cls(**values)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise ArtifactError(f"expected numbers, got {str(data)[:200]}", path=path) from error
        if math.isnan(found.threshold):
            raise ArtifactError("expected a threshold that is a number", path=path)
        return found


@dataclass(frozen=True, eq=False)
class HeldOutMargins:
    """Margins of held-out queries.

    Attributes:
        margins: float64 (n,): log-probability of the best tool less that of the runner-up; infinite without one.
        correct: bool (n,): whether the best tool is a relevant one.
        skipped: Queries for which the model chose :data:`~toolscaler.data.FINISH_TOOL`, or found nothing: there is no
            tool to abstain from.
    """

    margins: np.ndarray
    correct: np.ndarray
    skipped: int = 0


def calibrate_abstention(
    margins: Any,
    correct: Any,
    *,
    target_precision: float = 0.9,
    confidence: float = 0.95,
    num_resamples: int = _RESAMPLES,
    seed: int = 0,
) -> AbstentionThreshold:
    """Find the lowest margin from which on the chosen tool is right often enough.

    1. Only margins that came up can be thresholds; queries with equal margins stand or fall together.
    2. Of those at which precision reaches the target, the lowest one covers most queries. It never falls when the
       target rises.
    3. The interval draws queries anew while the threshold stays (percentile bootstrap). The threshold was chosen on
       the same queries, which flatters it: queries of their own tell the truth.

    Args:
        margins: (n,): margins of held-out queries, at least one; positive infinity is one.
        correct: (n,): whether the chosen tool is right.
        target_precision: Least share of right tools among the calls, above 0 and at most 1.
        confidence: Coverage of the interval, between 0 and 1.
        num_resamples: Resamples of the bootstrap, at least 100.
        seed: Seed of the resamples.

    Raises:
        CalibrationError: No threshold reaches the target; the error has the best precision that one reaches.
        DataError: The arrays are empty, of different lengths, or hold something else than numbers and truth values.
        ConfigError: A setting is out of range.
    """
    values, right = _checked(margins, correct)
    _check_settings(target_precision, confidence, num_resamples)
    n = len(values)
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(right[order])
    ranked = values[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last query of each margin
    precision = hits[ends] / (ends + 1)
    # A precision such as 9/10 must reach the target 0.9, whatever the rounding of the two.
    reached = np.flatnonzero(precision >= target_precision - 1e-12)
    if not len(reached):
        raise CalibrationError(target_precision, float(precision.max()), n)
    end = int(ends[reached[-1]])
    kept, good = end + 1, int(hits[end])
    if kept < _FEW:
        warnings.warn(
            f"only {kept} of {n} queries reach the threshold; its precision is known roughly", UserWarning, stacklevel=2
        )
    # Each query is kept and right, kept and wrong, or dropped: drawing n of them is one draw of three counts.
    counts = np.random.default_rng(seed).multinomial(n, [good / n, (kept - good) / n, 1 - kept / n], num_resamples)
    drawn = counts[:, 0] + counts[:, 1]
    shares = counts[drawn > 0, 0] / drawn[drawn > 0]
    tail = (1 - confidence) / 2
    low, high = np.quantile(shares, [tail, 1 - tail]) if len(shares) else (math.nan, math.nan)
    return AbstentionThreshold(
        float(ranked[end]), good / kept, float(low), float(high), kept / n, n, target_precision, confidence
    )


def calibrate_agent(
    model: str | Path | Planner,
    queries: Iterable[ToolQuery],
    *,
    no_tool_queries: Iterable[str | ToolQuery] = (),
    documents: Iterable[ToolDocument] | None = None,
    target_precision: float = 0.9,
    confidence: float = 0.95,
    seed: int = 0,
    save: bool = True,
    device: Any = None,
    planner_options: Mapping[str, Any] | None = None,
    show_progress: bool = False,
) -> AbstentionThreshold:
    """Find the margin under which a trained agent should call no tool, and save it beside the model.

    The agent chooses a tool for each query, as it would in a run; :func:`calibrate_abstention` then finds the
    threshold. From then on whoever loads the folder (:meth:`~toolscaler.agent.ToolAgent.from_pretrained`,
    ``toolscaler agent``) abstains by it.

    Args:
        model: Folder of a trained agent, or a planner.
        queries: Labelled validation queries, which the model was not trained on.
        no_tool_queries: Queries for which no tool is right; a threshold that was calibrated without any says little
            about those. Where the agent itself chooses Finish there is nothing to abstain from, and they do not count.
        documents: The catalogue; default: the folder's ``tools.jsonl``.
        target_precision: Least share of right tools among the calls, above 0 and at most 1.
        confidence: Coverage of the interval, between 0 and 1.
        seed: Seed of the resamples.
        save: Write the threshold into the folder.
        device: Where to load the model; as in :meth:`toolscaler.GenerativeRetriever.from_pretrained`.
        planner_options: More arguments of :class:`~toolscaler.agent.CodePlanner`: those that the agent will run with.
        show_progress: Show a progress bar.

    Raises:
        CalibrationError: No threshold reaches the target: abstention cannot make this agent so precise. Nothing is
            saved, and a threshold that was saved before stays.
        DataError: There are no queries, or no documents.
        ConfigError: A setting is out of range, or a planner is to be saved, which has no folder.
        ArtifactError: The folder is incomplete.
    """
    from toolscaler.data.sources.loading import load_tool_documents

    _check_settings(target_precision, confidence, _RESAMPLES)
    planner, folder = (model, None) if isinstance(model, Planner) else (None, Path(model))
    if folder is None and save:
        raise ConfigError("calibrate_agent.save", save, "False with a planner, or the folder of a model")
    if documents is None:
        if folder is None or not (folder / "tools.jsonl").is_file():
            raise DataError("documents: expected those of the catalogue, or a model folder with tools.jsonl")
        documents = load_tool_documents(folder / "tools.jsonl")
    rows = [*queries, *(ToolQuery(query) if isinstance(query, str) else query for query in no_tool_queries)]
    if planner is None:
        from toolscaler.agent.code_planner import CodePlanner

        planner = CodePlanner.from_pretrained(
            str(folder), device=device, **{**(planner_options or {}), "abstain_below": None}
        )
    found = collect_margins(planner, rows, documents=documents, show_progress=show_progress)
    if not len(found.margins):
        raise DataError(f"queries: the agent chose a tool for none of {len(rows)}; there is nothing to calibrate on")
    threshold = calibrate_abstention(
        found.margins, found.correct, target_precision=target_precision, confidence=confidence, seed=seed
    )
    if folder is not None and save:
        threshold.save(folder)
    return threshold


def collect_margins(
    source: Planner | ToolRanker,
    queries: Iterable[ToolQuery],
    *,
    documents: Iterable[ToolDocument] = (),
    tools: Iterable[str] | None = None,
    show_progress: bool = False,
) -> HeldOutMargins:
    """Let a model choose a tool for each held-out query, and note how clear the choice was and whether it was right.

    Calibrate with what will run: a planner thinks before it chooses, a retriever does not, and their margins differ.

    Args:
        source: A :class:`~toolscaler.agent.CodePlanner`, or a retriever whose scores are log-probabilities
            (:class:`toolscaler.GenerativeRetriever`).
        queries: Queries that the model was not trained on, with every relevant tool. One without relevant tools counts
            as wrong, whatever tool is chosen: it is what abstention is for.
        documents: Documents of the catalogue; needed by a planner.
        tools: Ids of the allowed tools; default: those of ``documents``, or the retriever's whole catalogue.
        show_progress: Show a progress bar.

    Raises:
        DataError: There are no queries, or a planner has no documents.
        EmptyCatalogueError: No tool is allowed.
        UnknownToolError: A tool is unknown.
    """
    rows = list(queries)
    if not rows:
        raise DataError("queries: expected at least one, got none")
    allowed = None if tools is None else list(dict.fromkeys(tools))
    progress = tqdm(rows, desc="margins", disable=not show_progress)
    if isinstance(source, Planner):
        chooser = _Chooser(source, documents, allowed)
        rankings = [chooser.ranking(query.text) for query in progress]
    else:
        rankings = [_retrieved(source, query.text, allowed) for query in progress]
    margins, correct = [], []
    for query, ranking in zip(rows, rankings, strict=True):
        if ranking and ranking[0][0] != FINISH_TOOL:
            margins.append(ranking[0][1] - ranking[1][1] if len(ranking) > 1 else math.inf)
            correct.append(ranking[0][0] in query.tools)
    skipped = len(rows) - len(margins)
    if skipped:
        logger.info("for %d of %d queries no tool was chosen; they are left out", skipped, len(rows))
    return HeldOutMargins(np.asarray(margins, dtype=np.float64), np.asarray(correct, dtype=bool), skipped)


class _Chooser:
    """The first choice of a planner, without the arguments of the call."""

    def __init__(self, planner: Planner, documents: Iterable[ToolDocument], allowed: Sequence[str] | None) -> None:
        known = {document.id: document for document in documents}
        if not known:
            raise DataError("documents: a planner needs those of the catalogue, got none")
        known.setdefault(FINISH_TOOL, finish_document())
        self._documents = known
        self._tools = tuple(known) if allowed is None else tuple(dict.fromkeys((*allowed, FINISH_TOOL)))
        if hasattr(planner, "abstain_below"):  # one that always abstains stops when it has ranked the tools
            planner = copy.copy(planner)
            planner.abstain_below = math.inf
        self._planner = planner

    def ranking(self, query: str) -> tuple[tuple[str, float], ...]:
        """Give the tools that the planner considers first, best first, with their scores."""
        message = TrajectoryMessage("user", query)
        steps = self._planner.plan(PlanRequest((message,), self._tools, self._documents, max_tokens=1 << 16))
        while True:
            try:
                next(steps)
            except StopIteration as end:
                plan: Plan = end.value
                return plan.candidates


def _retrieved(ranker: ToolRanker, query: str, allowed: list[str] | None) -> tuple[tuple[str, float], ...]:
    (ranking,) = ranker.retrieve([query], 2, tools=allowed)
    return tuple((found.name, float(found.score)) for found in ranking)


def _checked(margins: Any, correct: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        values = np.asarray(margins, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"margins: expected numbers, got {margins!r:.80}") from None
    right = np.asarray(correct)
    if values.ndim != 1 or not len(values) or right.shape != values.shape:
        raise DataError(f"expected as many margins as truth values, at least one; got {values.shape} and {right.shape}")
    if np.isnan(values).any() or np.isneginf(values).any():
        raise DataError("margins: expected numbers above minus infinity")
    if right.dtype != bool and not np.isin(right, [0, 1]).all():
        raise DataError(f"correct: expected truth values, got {right.dtype}")
    return values, right.astype(bool)


def _check_settings(target_precision: float, confidence: float, num_resamples: int) -> None:
    if isinstance(target_precision, bool) or not 0 < target_precision <= 1:
        raise ConfigError("calibrate_abstention.target_precision", target_precision, "a number above 0, at most 1")
    if not 0 < confidence < 1:
        raise ConfigError("calibrate_abstention.confidence", confidence, "a number between 0 and 1")
    if not isinstance(num_resamples, int) or isinstance(num_resamples, bool) or num_resamples < 100:
        raise ConfigError("calibrate_abstention.num_resamples", num_resamples, "a whole number from 100")
