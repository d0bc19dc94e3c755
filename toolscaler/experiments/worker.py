"""One job: its folder goes in, the job's output and what is to be recorded of it come out.

``python -m toolscaler.experiments.worker jobs/NAME`` runs a job in a process of its own, so that its peak memory is
its own and a crash ends nothing else. The current folder is the experiment's.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler._files import atomic_folder, read_json, write_json, write_text
from toolscaler.errors import ConfigError
from toolscaler.experiments.datasets import DatasetFolder, make_dataset
from toolscaler.experiments.jobs import Job, job_name
from toolscaler.experiments.specs import DatasetSpec
from toolscaler.experiments.systems import JobContext, find_system, load_system
from toolscaler.pipeline.config import build_section

if TYPE_CHECKING:
    from toolscaler.data.queries import ToolQuery
    from toolscaler.evaluation.retrieval import EvaluationResult

#: Files of a job's folder.
JOB_FILE, OUTCOME_FILE, RECORD_FILE, FAILURE_FILE, LOG_FILE, OUTPUT = (
    *("job.json", "outcome.json", "record.json", "failure.json", "log.txt", "out"),
)
_SCORE_DIGITS = 6
_WATCH_SECONDS = 1.0


def read_job(folder: Path) -> Job:
    """Read a job from its folder."""
    return Job(**read_json(folder / JOB_FILE, what="a job"))


def output_of(kind: str, mark: str) -> Path:
    """Give the output folder of a job, relative to the experiment's folder."""
    return Path("jobs") / job_name(kind, mark) / OUTPUT


def execute(folder: Path) -> dict[str, Any]:
    """Do a job.

    Args:
        folder: The job's folder, relative to the current one.

    Returns:
        What the record says of it: ``facts``, ``seconds``, ``cpu_seconds``, ``device``, ``threads``,
        ``peak_rss_bytes``, ``peak_cuda_bytes``.
    """
    job, started, busy = read_job(folder), time.monotonic(), time.process_time()
    facts = _WORK[job.kind](job, folder)
    seconds, cpu = time.monotonic() - started, time.process_time() - busy
    outcome = {"facts": facts, "seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3), **machine()}
    write_json(folder / OUTCOME_FILE, outcome)
    return outcome


def machine() -> dict[str, Any]:
    """Say on what this process computed, without loading torch for it."""
    torch: Any = sys.modules.get("torch")
    found = {"peak_rss_bytes": own_peak_rss_bytes(), "peak_cuda_bytes": 0, "device": "cpu"}
    if torch is None:
        return {**found, "threads": os.cpu_count()}
    if torch.cuda.is_available():
        found["device"] = f"cuda: {torch.cuda.get_device_name()} x {torch.cuda.device_count()}"
        found["peak_cuda_bytes"] = int(torch.cuda.max_memory_allocated())
    return {**found, "threads": torch.get_num_threads()}


def own_peak_rss_bytes() -> int:
    """Give the largest resident memory of this process so far; 0 where the system does not say."""
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _data(job: Job, folder: Path) -> dict[str, Any]:
    plain = dict(read_json(folder / "dataset.json", what="the specification of a data set"))
    spec = build_section(DatasetSpec, plain, "dataset")
    summary = make_dataset(spec, Path(job.places["data_root"]), float(job.spec["share"]), folder / OUTPUT)
    return {key: summary[key] for key in ("tools", "queries", "train", "validation", "tests")}


def _context(job: Job, folder: Path, spec: Mapping[str, Any], needs: Mapping[str, Path]) -> JobContext:
    evaluation = job.spec.get("evaluation", {})
    return JobContext(folder / OUTPUT, DatasetFolder(needs["data"]), spec, job.places, needs, evaluation)


def _needs(job: Job) -> dict[str, Path]:
    """Give the output folders of the jobs that came first; a role is the kind of job, after the part that needs it."""
    return {role: output_of(role.rpartition(".")[2], mark) for role, mark in job.needs.items()}


def _prepare(job: Job, folder: Path) -> dict[str, Any]:
    from toolscaler.experiments.trained import prepare

    return prepare(_context(job, folder, job.spec, _needs(job)), str(job.spec["until"]))


def _train(job: Job, folder: Path) -> dict[str, Any]:
    kind = find_system(str(job.spec["kind"]))
    if kind.train is None:
        raise ConfigError("kind", kind.name, "a kind of system that is trained")
    return dict(kind.train(_context(job, folder, job.spec, _needs(job))))


def _evaluate(job: Job, folder: Path) -> dict[str, Any]:
    from toolscaler.evaluation.retrieval import ToolRetrievalEvaluator

    context = _context(job, folder, job.spec["system"], _needs(job))
    loaded = load_system(context)
    settings, data = job.spec["evaluation"], context.data
    trained = {tool for query in data.queries("train") for tool in query.tools}
    results: dict[str, Any] = {}
    lines: list[str] = []
    seconds = 0.0
    for name in data.test_names:
        queries = data.test_set(name)
        evaluator = ToolRetrievalEvaluator(
            queries, settings["ks"], seed=settings["seed"], num_resamples=settings["resamples"]
        )
        allowed = data.domain(name) if job.spec["setting"] == "in_domain" else None
        started = time.monotonic()
        result = evaluator(loaded.retriever, name=str(context.spec["kind"]), tools=allowed, **loaded.options)
        seconds += time.monotonic() - started
        results[name] = {
            **result.to_dict(),
            "catalogue_size": len(data.documents) if allowed is None else len(allowed),
        }
        lines += query_lines(name, result, queries, trained)
    with atomic_folder(folder / OUTPUT) as target:
        write_json(target / "result.json", {"setting": job.spec["setting"], "tests": results})
        write_text(target / "per_query.jsonl", "".join(lines))
    n = sum(entry["n"] for entry in results.values())
    return {
        **loaded.facts,
        "queries": n,
        "evaluation_seconds": round(seconds, 3),
        "seconds_per_query": round(seconds / n, 6),
        **{f"{name} {metric}": round(entry["metrics"][metric]["mean"], 4) for name, entry in results.items()
           for metric in (f"ndcg@{min(settings['ks'])}",)},
    }  # fmt: skip


def query_lines(test: str, result: EvaluationResult, queries: Sequence[ToolQuery], trained: set[str]) -> list[str]:
    """Write a line a query: what was asked, what was found, every metric; enough for any test or break-down later."""
    lines = []
    for row, query in enumerate(queries):
        entry = {
            "test": test,
            "id": query.id,
            "query": query.text,
            "relevant": list(query.tools),
            "unseen": [tool for tool in query.tools if tool not in trained],
            "found": [[tool.name, round(float(tool.score), _SCORE_DIGITS)] for tool in result.rankings[row]],
            "metrics": {key: float(values[row]) for key, values in result.per_query.items()},
        }
        lines.append(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
    return lines


def _answer(job: Job, folder: Path) -> dict[str, Any]:
    from toolscaler.experiments.calling import answer_queries

    context = _context(job, folder, job.spec["system"], _needs(job))
    return answer_queries(context, str(job.spec["setting"]), job.spec["calling"], folder / OUTPUT)


def _judge(job: Job, folder: Path) -> dict[str, Any]:
    from toolscaler.experiments.calling import judge_answers

    return judge_answers(job.spec, job.places, _needs(job), folder / OUTPUT)


_WORK = {
    "data": _data,
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "answer": _answer,
    "judge": _judge,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the job in the folder that the command line names."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) != 1:
        raise ConfigError("worker", words, "the folder of one job")
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    execute(Path(words[0]))


def _end_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, however that ended; another run takes the job then."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
