"""Tool calling (paper Tables 2, 4, 8, 11): agents work on the test queries, and a judge reads what they answered."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from toolscaler._files import atomic_folder, write_json, write_text
from toolscaler.data.queries import ToolQuery
from toolscaler.data.trajectories import FINISH_TOOL
from toolscaler.errors import ConfigError, EvaluationError
from toolscaler.experiments.datasets import DatasetFolder
from toolscaler.experiments.systems import JobContext, find_system
from toolscaler.pipeline.config import build_section

if TYPE_CHECKING:
    from toolscaler.agent.agent import ToolAgent
    from toolscaler.agent.executors.base import ToolExecutor
    from toolscaler.agent.records import AgentTrajectory
    from toolscaler.evaluation.tool_calling import AnswerRecord, LLMJudge

logger = logging.getLogger(__name__)

_ANSWERS = "answers.jsonl"


@contextlib.contextmanager
def executor_for(context: JobContext, kind: str) -> Iterator[ToolExecutor]:
    """Open what runs the tools.

    Args:
        context: The job; ``places`` has ``server`` and ``server_key_env``.
        kind: ``stabletoolbench``, ``starter`` or ``recording``.

    Raises:
        ConfigError: The kind is unknown.
    """
    documents = [document for document in context.data.documents if document.id != FINISH_TOOL]
    if kind == "stabletoolbench":
        from toolscaler.agent.executors import StableToolBenchExecutor

        key = os.environ.get(context.places["server_key_env"], "")
        with StableToolBenchExecutor(documents, context.places["server"], key=key) as executor:
            yield executor
    elif kind == "starter":
        from toolscaler.agent.executors.starter import StarterExecutor

        with StarterExecutor() as starter:
            yield starter
    elif kind == "recording":
        from toolscaler.agent.executors.recording import RecordingExecutor

        with RecordingExecutor(documents) as recording:
            yield recording
    else:
        raise ConfigError("calling.executor", kind, "'stabletoolbench', 'starter' or 'recording'")


def answer_queries(context: JobContext, setting: str, calling: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Let a system's agent work on every test query.

    Args:
        context: The job.
        setting: ``given``: only the query's own tools may be called; ``retrieval``: any tool of the catalogue.
        calling: ``executor``, ``agent`` and ``top_k``.
        folder: Receives ``answers.jsonl``: a line a query. A query at which the agent fails has no answer and its
            error.

    Returns:
        Facts for the record.
    """
    from toolscaler.agent.agent import ToolAgent
    from toolscaler.agent.config import AgentConfig

    kind = find_system(str(context.spec["kind"]))
    if kind.planner is None:
        raise ConfigError("kind", kind.name, "a kind of system that calls tools")
    config = build_section(AgentConfig, calling["agent"], "calling.agent")
    lines: list[dict[str, Any]] = []
    with executor_for(context, str(calling["executor"])) as executor:
        agent = ToolAgent(kind.planner(context, setting, executor), executor, config=config)
        for test in context.data.test_names:
            for row, query in enumerate(tqdm(context.data.test_set(test), desc=f"answer: {test}")):
                lines.append({"test": test, "row": row, **_answered(agent, query, setting)})
    with atomic_folder(folder) as target:
        write_text(target / _ANSWERS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return {
        "queries": len(lines),
        "failed_queries": sum(bool(line["error"]) for line in lines),
        **{
            f"mean_{key}": round(sum(line[key] for line in lines) / len(lines), 4)
            for key in ("calls", "illegal_calls", "tokens", "seconds")
        },
    }


def _answered(agent: ToolAgent, query: ToolQuery, setting: str) -> dict[str, Any]:
    from toolscaler.evaluation.tool_calling import answer_record

    empty = {"answer": None, "outcome": "error", "calls": 0, "illegal_calls": 0, "tokens": 0, "seconds": 0.0}
    told = {"id": query.id, "query": query.text, "relevant": list(query.tools), "error": ""}
    try:
        done: AgentTrajectory = agent.run(query.text, candidate_tools=query.tools if setting == "given" else None)
    except Exception as error:  # one bad query fails alone, and counts as a failure
        logger.warning("no answer to %r: %s", query.text[:80], error)
        return {**told, **empty, "error": f"{type(error).__name__}: {error}"}
    record = answer_record(done)
    calls = [call for call in done.calls if call.tool != FINISH_TOOL]
    return {
        **told,
        "answer": None if record is None else asdict(record),
        "outcome": done.outcome,
        "calls": len(calls),
        "illegal_calls": sum(call.result.error_type in ("unknown_tool", "refused") for call in calls),
        "tokens": done.tokens,
        "seconds": round(done.seconds, 4),
    }


def read_answers(folder: Path) -> dict[str, dict[str, AnswerRecord | None]]:
    """Read the answers of a job: test set -> number of the query as text -> answer."""
    from toolscaler.evaluation.tool_calling import AnswerRecord
    from toolscaler.evaluation.tool_calling.answers import AnswerStep

    found: dict[str, dict[str, AnswerRecord | None]] = {}
    with (folder / _ANSWERS).open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            plain = entry["answer"]
            record = None
            if plain is not None:
                steps = tuple(AnswerStep(**step) for step in plain["steps"])
                record = AnswerRecord(**{**plain, "steps": steps})
            found.setdefault(entry["test"], {})[str(entry["row"])] = record
    return found


def judge_answers(
    spec: Mapping[str, Any], places: Mapping[str, str], needs: Mapping[str, Path], folder: Path
) -> dict[str, Any]:
    """Judge the answers of a job: SoPR, and SoWR where there is a reference.

    Verdicts are kept in the experiment's ``cache/verdicts``, so that a broken-off job asks only for what is missing.

    Args:
        spec: ``judge``, ``seed`` and ``resamples``.
        places: Where the judge is.
        needs: ``data``, ``answer`` and perhaps ``reference.answer``.
        folder: Receives ``result.json`` and ``per_query.jsonl``.

    Returns:
        Facts for the record.

    Raises:
        EvaluationError: The judge gave no verdict on some query: the mean of the others would be of other queries than
            the other systems'. The next run asks for these alone.
    """
    from toolscaler.evaluation.tool_calling import LLMJudge
    from toolscaler.experiments.chat import key_from

    data, answers = DatasetFolder(needs["data"]), read_answers(needs["answer"])
    references = read_answers(needs["reference.answer"]) if "reference.answer" in needs else {}
    told = spec["judge"]
    results: dict[str, Any] = {}
    lines: list[str] = []
    with LLMJudge(
        places["base_url"],
        told["model"],
        api_key=key_from(places["api_key_env"]),
        options=told["options"] or None,
        samples=told["samples"],
        cache=folder.parents[2] / "cache" / "verdicts",
    ) as judge:
        for test in data.test_names:
            queries = data.test_set(test)
            rates = _rates(judge, queries, answers[test], references.get(test), spec)
            results[test] = {
                "n": len(queries),
                "catalogue_size": len(data.documents),
                "metrics": {key: rate.to_dict()["rate"] for key, rate in rates.items()},
                "rates": {key: rate.to_dict() for key, rate in rates.items()},
            }
            lines += _lines(test, queries, rates)
    with atomic_folder(folder) as target:
        write_json(target / "result.json", {"setting": spec["setting"], "tests": results})
        write_text(target / "per_query.jsonl", "".join(lines))
    facts = {
        f"{test} {key}": value["mean"] for test, entry in results.items() for key, value in entry["metrics"].items()
    }
    return {"queries": sum(entry["n"] for entry in results.values()), "judge": told["model"], **facts}


def _rates(
    judge: LLMJudge,
    queries: Sequence[ToolQuery],
    answers: Mapping[str, AnswerRecord | None],
    references: Mapping[str, AnswerRecord | None] | None,
    spec: Mapping[str, Any],
) -> dict[str, Any]:
    from toolscaler.evaluation.tool_calling import judge_pass_rate, judge_win_rate

    texts = {str(row): query.text for row, query in enumerate(queries)}
    options = {"seed": spec["seed"], "num_resamples": spec["resamples"]}
    rates: dict[str, Any] = {"sopr": judge_pass_rate(judge, texts, answers, **options)}
    if references is not None:
        rates["sowr"] = judge_win_rate(judge, texts, answers, references, **options)
    for key, rate in rates.items():
        if rate.excluded:
            error = next(record["error"] for record in rate.per_query if record["score"] is None)
            raise EvaluationError(
                f"{key}: the judge gave no verdict on {rate.excluded} of {rate.n} queries (the first: {error}); run "
                "the experiment again, which asks for these alone"
            )
    return rates


def _lines(test: str, queries: Sequence[ToolQuery], rates: Mapping[str, Any]) -> list[str]:
    lines = []
    for row, query in enumerate(queries):
        judged = {key: rate.per_query[row] for key, rate in rates.items()}
        entry = {
            "test": test,
            "id": query.id,
            "query": query.text,
            "relevant": list(query.tools),
            "metrics": {key: float(record["score"]) for key, record in judged.items()},
            "judged": {key: dict(record) for key, record in judged.items()},
        }
        lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    return lines
