"""The command ``toolscaler evaluate``: a model or a TREC run and labelled queries in, an evaluation out."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler.errors import ConfigError, EvaluationError

if TYPE_CHECKING:
    from toolscaler.data.documents import ToolDocument
    from toolscaler.data.queries import ToolQuery
    from toolscaler.evaluation.retrieval import EvaluationResult

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to a parser."""
    parser.add_argument("run", help="run folder, model folder or Hub id; or the file of a TREC run")
    parser.add_argument("--queries", help="labelled queries in any format the library reads")
    parser.add_argument("--qrels", help="labels of a TREC run, instead of queries")
    parser.add_argument("--ks", nargs="+", type=int, default=[1, 3, 5])
    parser.add_argument("--num_beams", type=int)
    parser.add_argument("--documents", help="the catalogue, for a break-down by category (default: the model's)")
    parser.add_argument("--seen", help="training queries, for a break-down by seen tools (default: the run's own)")
    parser.add_argument(
        "--tags", nargs="+", default=[], metavar="KEY", help="break down by these properties of queries"
    )
    parser.add_argument("--compare", nargs="+", default=[], metavar="FILE", help="TREC runs of other systems")
    parser.add_argument("--output_dir", help="write metrics.json, table.md and per_query.jsonl here")
    parser.add_argument("--trec", action="store_true", help="also write qrels.txt and a TREC run of each system")
    parser.add_argument("--plots", action="store_true", help="also draw the model's calibration")


def evaluate(arguments: argparse.Namespace) -> EvaluationResult:
    """Do what the arguments say.

    Args:
        arguments: Parsed by a parser that :func:`add_arguments` has seen.

    Returns:
        The result of the model or run.

    Raises:
        ConfigError: Arguments do not fit together.
        ToolscalerError: A file or folder cannot be used.
    """
    from toolscaler.evaluation.breakdown import standard_groups
    from toolscaler.evaluation.files import write_evaluation
    from toolscaler.evaluation.retrieval import ToolRetrievalEvaluator

    is_file = Path(arguments.run).is_file()
    _check(arguments, is_file)
    queries, ids = _labels(arguments)
    documents = _documents(arguments, is_file)
    groups = standard_groups(queries, documents=documents, seen=_seen(arguments, is_file), tags=arguments.tags)
    evaluator = ToolRetrievalEvaluator(queries, tuple(arguments.ks), groups=groups)
    notes: dict[str, Any] = {} if documents is None else {"catalogue": f"{len(documents)} tools"}
    if is_file:
        result = evaluator.score(_rankings(arguments.run, arguments, ids), name=Path(arguments.run).stem)
    else:
        from toolscaler.decoding import GenerativeRetriever

        retriever = GenerativeRetriever.from_pretrained(str(model_folder(arguments.run)))
        result = evaluator(retriever, name="toolscaler", num_beams=arguments.num_beams)
        if arguments.num_beams is not None:
            notes["beams"] = max(arguments.num_beams, evaluator.depth)
    if arguments.output_dir is not None:
        others = [evaluator.score(_rankings(path, arguments, ids), name=Path(path).stem) for path in arguments.compare]
        write_evaluation(
            arguments.output_dir,
            [result, *others],
            evaluator.queries,
            notes=notes,
            confidence=None if is_file or 1 not in evaluator.ks else "probability",
            trec=arguments.trec,
            plots=arguments.plots,
        )
    return result


def model_folder(run: str) -> Path | str:
    """Give the model folder of a run folder; anything else is a model folder or Hub id itself."""
    inside = Path(run) / "model"
    return inside if inside.is_dir() else run


def _check(arguments: argparse.Namespace, is_file: bool) -> None:
    if (arguments.queries is None) == (arguments.qrels is None):
        raise ConfigError("--queries, --qrels", None, "one of the two")
    if arguments.qrels is not None and not is_file:
        raise ConfigError("--qrels", arguments.qrels, "--queries: a model needs the queries' texts")
    written = {"--trec": arguments.trec, "--plots": arguments.plots, "--compare": arguments.compare}
    for key, value in written.items():
        if value and arguments.output_dir is None:
            raise ConfigError(key, value, "--output_dir too: what it asks for is written there")
    if arguments.plots and is_file:
        raise ConfigError("--plots", True, "a model: the scores of a TREC run are no probabilities")
    if arguments.plots and 1 not in arguments.ks:
        raise ConfigError("--plots", arguments.ks, "1 among --ks: calibration is that of the first tool")


def _labels(arguments: argparse.Namespace) -> tuple[list[ToolQuery], list[str]]:
    """Give the labelled queries and their ids in TREC files."""
    from toolscaler.data import ToolQuery, load_tool_queries
    from toolscaler.evaluation.trec import read_trec_qrels, trec_query_ids

    if arguments.qrels is None:
        queries = list(load_tool_queries(arguments.queries))
        return queries, trec_query_ids(queries)
    labels = read_trec_qrels(arguments.qrels)
    ids = [name for name, tools in labels.items() if tools]
    if len(ids) < len(labels):
        logger.warning("%d of %d queries have no relevant tool and are left out", len(labels) - len(ids), len(labels))
    if not ids:
        raise EvaluationError(f"{arguments.qrels}: expected relevant tools, every query has none")
    return [ToolQuery(name, labels[name], id=name) for name in ids], ids


def _rankings(path: str, arguments: argparse.Namespace, ids: Sequence[str]) -> list[Any]:
    from toolscaler.evaluation.trec import read_trec_qrels, read_trec_run, run_rankings

    run = read_trec_run(path)
    if arguments.qrels is not None:  # queries without relevant tools may be in the run
        bare = {name for name, tools in read_trec_qrels(arguments.qrels).items() if not tools}
        run = {name: ranking for name, ranking in run.items() if name not in bare}
    found = run_rankings(run, ids)
    missing = sum(name not in run for name in ids)
    if missing:
        logger.warning("%s: %d of %d queries are not in the run and count as misses", path, missing, len(ids))
    return found


def _documents(arguments: argparse.Namespace, is_file: bool) -> list[ToolDocument] | None:
    from toolscaler.data import load_tool_documents

    own = Path(model_folder(arguments.run)) / "tools.jsonl"
    path = arguments.documents or (own if not is_file and own.is_file() else None)
    return None if path is None else list(load_tool_documents(path))


def _seen(arguments: argparse.Namespace, is_file: bool) -> set[str] | None:
    from toolscaler.data import load_tool_queries

    own = Path(arguments.run) / "data" / "train.jsonl"
    path = arguments.seen or (own if not is_file and own.is_file() else None)
    return None if path is None else {tool for query in load_tool_queries(path) for tool in query.tools}
