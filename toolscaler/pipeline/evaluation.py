"""The evaluate stage: the trained retriever and the baselines on the held-out queries, with everything written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler._files import atomic_folder, write_json, write_text
from toolscaler.errors import ConfigError

if TYPE_CHECKING:
    from toolscaler.data.documents import ToolDocument
    from toolscaler.data.queries import ToolQuery
    from toolscaler.evaluation.retrieval import EvaluationResult, Retriever
    from toolscaler.pipeline.stages import Run
    from toolscaler.tokenization import ToolscalerTokenizer

_SENTENCE_PREFIX = "sentence-transformers:"
_EXAMPLES = 8


def evaluate_stage(run: Run) -> dict[str, Any]:
    """Measure the model and each baseline on the same held-out queries (paper section 5.1).

    Writes ``evaluation/``: ``metrics.json``, ``table.md``, ``per_query.jsonl`` and ``examples.json``. The model's name
    in them is that of its tokenization strategy.

    Args:
        run: A run whose retrieval stage is done.

    Returns:
        The main numbers: NDCG at every cut-off and completeness at the largest, and each baseline's NDCG at the first.

    Raises:
        ConfigError: A baseline is unknown or named twice, or a number is out of range.
        EvaluationError: There are no held-out queries, or some have no labels.
    """
    from toolscaler.decoding import GenerativeRetriever
    from toolscaler.evaluation.retrieval import ToolRetrievalEvaluator

    section = run.config.evaluation
    _check_settings(section.ks, section.num_beams, section.batch_size, section.baselines)
    queries = run.queries("test")
    evaluator = ToolRetrievalEvaluator(queries, section.ks, seed=section.seed, groups=_groups(run, queries))
    # Baselines first: they take seconds, and a missing package should show before the model's minutes.
    others = [
        evaluator(make_baseline(name, run.documents), name=_shown(name), show_progress=True)
        for name in section.baselines
    ]
    retriever = GenerativeRetriever.from_pretrained(str(run.folder / "model"))
    ours = evaluator(
        retriever,
        name=run.config.tokenization.strategy,
        num_beams=section.num_beams,
        batch_size=section.batch_size,
        scores=section.scores,
        show_progress=True,
    )
    _write(run, [ours, *others], evaluator.queries, retriever.tokenizer)
    first = f"ndcg@{evaluator.ks[0]}"
    summary = {f"ndcg@{k}": ours.metrics[f"ndcg@{k}"].mean for k in evaluator.ks}
    summary[f"completeness@{ours.depth}"] = ours.metrics[f"completeness@{ours.depth}"].mean
    summary.update({f"{other.name} {first}": other.metrics[first].mean for other in others})
    return {key: round(value, 4) for key, value in summary.items()} | {"queries": ours.n}


def _groups(run: Run, queries: Sequence[ToolQuery]) -> dict[str, Any]:
    """Break down by category, by tools seen in training, and by the number of relevant tools."""
    from toolscaler.evaluation.breakdown import standard_groups

    if not all(query.tools for query in queries):
        return {}  # the evaluator says what is wrong with them
    trained = (run.folder / "data" / "train.jsonl").is_file()
    seen = {tool for query in run.queries("train") for tool in query.tools} if trained else None
    return dict(standard_groups(queries, documents=run.documents, seen=seen))


def make_baseline(name: str, documents: Sequence[ToolDocument]) -> Retriever:
    """Make a baseline from its name in a run file.

    Args:
        name: ``bm25``, ``lsa`` or ``sentence-transformers:MODEL``.
        documents: The catalogue.

    Raises:
        ConfigError: The name is unknown.
        MissingDependencyError: Its package is not installed.
    """
    from toolscaler.evaluation.baselines import BM25Retriever, EmbeddingRetriever

    _check_baseline(name)
    if name == "bm25":
        return BM25Retriever(documents)
    if name == "lsa":
        return EmbeddingRetriever(documents, "lsa")
    return EmbeddingRetriever(documents, name.removeprefix(_SENTENCE_PREFIX), show_progress=True)


def _shown(name: str) -> str:
    """Shorten the folder of a local model to its last two parts: results should not tell where somebody keeps it."""
    folder = Path(name.removeprefix(_SENTENCE_PREFIX))
    return _SENTENCE_PREFIX + "/".join(folder.parts[-2:]) if folder.is_absolute() else name


def _check_settings(ks: Sequence[int], num_beams: int, batch_size: int, baselines: Sequence[str]) -> None:
    """Check before the model is loaded what would fail after minutes.

    Raises:
        ConfigError: A value is out of range.
    """
    if not ks or min(ks) < 1:
        raise ConfigError("evaluation.ks", list(ks), "whole numbers above zero, at least one")
    for key, value in (("num_beams", num_beams), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"evaluation.{key}", value, "a whole number above zero")
    for name in baselines:
        _check_baseline(name)
    if len(set(baselines)) < len(baselines):
        raise ConfigError("evaluation.baselines", list(baselines), "each baseline once")


def _check_baseline(name: str) -> None:
    if name not in ("bm25", "lsa") and (not name.startswith(_SENTENCE_PREFIX) or name == _SENTENCE_PREFIX):
        raise ConfigError("evaluation.baselines", name, f"'bm25', 'lsa' or '{_SENTENCE_PREFIX}MODEL'")


def _write(
    run: Run, results: list[EvaluationResult], queries: Sequence[ToolQuery], tokenizer: ToolscalerTokenizer
) -> None:
    from toolscaler.evaluation.files import breakdown_tables, comparison_rows, query_lines
    from toolscaler.evaluation.retrieval import headline_metrics, results_table

    ours, others = results[0], results[1:]
    columns = headline_metrics(ours)
    comparisons = comparison_rows(ours, others, columns)
    facts = {
        "n": ours.n,
        "catalogue_size": len(run.documents),
        "num_beams": max(run.config.evaluation.num_beams, ours.depth),
        "scores": run.config.evaluation.scores,
        "ks": sorted(set(run.config.evaluation.ks)),
        "seed": ours.seed,
        "num_resamples": ours.num_resamples,
        "confidence": ours.confidence,
        "queries_sha256": ours.queries_sha256,
    }
    notes = {"catalogue": f"{facts['catalogue_size']} tools", "beams": facts["num_beams"]}
    tables = [results_table(results, ours.name if len(results) > 1 else None, notes=notes)]
    tables += [
        f"\nQueries with {'one relevant tool' if kind == 'single' else 'several relevant tools'} "
        f"(n = {ours.counts[kind]}), {columns[0]}: "
        + ", ".join(f"{result.name} {100 * result.by_labels[kind][columns[0]].mean:.2f}" for result in results)
        + ".\n"
        for kind in ours.by_labels
    ]
    tables += breakdown_tables(results, columns[0])
    with atomic_folder(run.folder / "evaluation") as folder:
        write_json(
            folder / "metrics.json",
            {**facts, "results": [result.to_dict() for result in results], "comparisons": comparisons},
        )
        write_text(folder / "table.md", "".join(tables))
        write_text(folder / "per_query.jsonl", "".join(query_lines(results, queries)))
        write_json(
            folder / "examples.json",
            {"tools": example_tools(run.documents, tokenizer), "queries": example_queries(ours, queries)},
        )


def example_tools(documents: Sequence[ToolDocument], tokenizer: ToolscalerTokenizer) -> list[dict[str, str]]:
    """Give some tools of two categories with their codes, so that a reader sees what a shared first code means.

    The two categories are those in which most tools share one first code; each gives its tools that share most.

    Returns:
        At most eight of ``{"name", "category", "codes"}``, sorted by category and code.
    """
    groups: dict[str, dict[int, list[str]]] = {}
    for document in documents:
        first = tokenizer.tool_index[document.id][0]
        groups.setdefault(document.category, {}).setdefault(first, []).append(document.id)
    ordered = {category: _largest_first(group) for category, group in groups.items()}
    chosen = sorted(ordered, key=lambda category: (-len(ordered[category][0]), category))[:2]
    examples = []
    for category in sorted(chosen):
        names = [name for members in ordered[category] for name in members][: _EXAMPLES // len(chosen)]
        for name in sorted(names, key=lambda name: tuple(tokenizer.tool_index[name])):
            examples.append({"name": name, "category": category, "codes": tokenizer.tool_code_text(name)})
    return examples


def _largest_first(group: Mapping[int, list[str]]) -> list[list[str]]:
    return [group[code] for code in sorted(group, key=lambda code: (-len(group[code]), code))]


def example_queries(result: EvaluationResult, queries: Sequence[ToolQuery]) -> list[dict[str, Any]]:
    """Give every n-th query with the tool that was found first; evenly spread, so that nobody picked them.

    Returns:
        At most eight of ``{"query", "found", "relevant", "hit"}``; ``found`` is ``None`` where nothing was found.
    """
    count = min(_EXAMPLES, len(queries))
    examples = []
    for row in (number * len(queries) // count for number in range(count)):
        ranking, relevant = result.rankings[row], queries[row].tools
        found = ranking[0].name if ranking else None
        entry = {"query": queries[row].text, "found": found, "relevant": list(relevant), "hit": found in relevant}
        examples.append(entry)
    return examples
