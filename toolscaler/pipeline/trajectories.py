"""The trajectory and agent stages: a model that calls tools, and the tasks that it really solves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from toolscaler._files import atomic_folder, write_json, write_text
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import FINISH_TOOL, Trajectory, finish_document
from toolscaler.errors import ConfigError
from toolscaler.pipeline.config import DataSection, RunConfig, build_section

if TYPE_CHECKING:
    from datasets import Dataset

    from toolscaler.agent.records import AgentTrajectory
    from toolscaler.evaluation.agents import AgentEvaluation
    from toolscaler.pipeline.stages import Run
    from toolscaler.tokenization import ToolscalerTokenizer

_EXAMPLES = 4


def with_finish_tool(documents: Sequence[ToolDocument]) -> list[ToolDocument]:
    """Give a catalogue with the tool that ends trajectories."""
    if any(document.id == FINISH_TOOL for document in documents):
        return list(documents)
    return [*documents, finish_document()]


def read_training_trajectories(
    section: DataSection, documents: Sequence[ToolDocument]
) -> tuple[list[Trajectory], dict[str, Any]]:
    """Read the trajectories that a run file names.

    Returns:
        The trajectories, and notes for the report.

    Raises:
        UnknownToolError: One calls a tool outside the catalogue, and ``unknown_tools`` is ``raise``.
        ConfigError: The starter's trajectories are asked for with another catalogue.
        DataError: The file is of no known format, or a row is damaged.
    """
    if section.trajectories == "starter":
        if section.tools != "starter":
            raise ConfigError(
                "data.trajectories", "starter", "a file: only the starter catalogue has trajectories here"
            )
        from toolscaler.starter import load_starter_trajectories

        every = load_starter_trajectories("train", variants=section.trajectory_variants)
        # A call that the tool's own schema forbids cannot be written under the schema.
        kept = [trajectory for trajectory in every if not trajectory.metadata.get("breaks_schema")]
        return kept, {"read": len(every), "calls_outside_their_schema": len(every) - len(kept)}
    from toolscaler.data import load_trajectories

    found = load_trajectories(
        str(section.trajectories), catalogue=documents, on_unknown=section.unknown_tools, on_error=section.on_error
    )
    report = found.report
    return list(found), {"read": report.read, "skipped": report.skipped, "unknown_tools": dict(report.unknown)}


def trajectory_texts(run: Run) -> list[str]:
    """Give the texts of the training trajectories, for the vocabulary of a base made from scratch."""
    if run.config.data.trajectories is None:
        return []
    from toolscaler.data import AgentProtocol, trajectory_turns

    documents = {document.id: document for document in run.documents}
    codes = dict.fromkeys(documents, "")
    protocol = build_section(AgentProtocol, run.config.trajectory.protocol, "trajectory.protocol")
    turns = [turn for item in run.trajectories() for turn in trajectory_turns(item, documents, codes, protocol)]
    # A system prompt or a documentation that comes a thousand times should count once.
    return list(dict.fromkeys(turn.text for turn in turns))


def retrieval_step_rows(run: Run, tokenizer: ToolscalerTokenizer) -> Dataset | None:
    """Give the first steps of the training trajectories as rows, where the retrieval stage takes them."""
    from toolscaler.data import AgentProtocol
    from toolscaler.training import first_step_rows

    if not run.config.retrieval.first_steps or run.config.data.trajectories is None:
        return None
    protocol = build_section(AgentProtocol, run.config.trajectory.protocol, "trajectory.protocol")
    longest = run.config.retrieval.first_step_tokens
    return first_step_rows(run.trajectories(), tokenizer, run.documents, max_length=longest, protocol=protocol).dataset


def check_agent_settings(config: RunConfig) -> None:
    """Check the sections of both stages before anything runs.

    Raises:
        ConfigError: A key is unknown or a value is not allowed.
    """
    from toolscaler.agent.config import AgentConfig
    from toolscaler.data import AgentProtocol
    from toolscaler.pipeline.stages import trainer_settings
    from toolscaler.training.trajectory import TrajectoryConfig

    build_section(AgentProtocol, config.trajectory.protocol, "trajectory.protocol")
    trainer_settings(TrajectoryConfig, config.trajectory.trainer, "trajectory.trainer", output_dir=config.output_dir)
    build_section(AgentConfig, config.agent.config, "agent.config")
    if config.agent.max_tasks is not None and config.agent.max_tasks < 1:
        raise ConfigError("agent.max_tasks", config.agent.max_tasks, "a whole number above zero, or nothing for all")


def trajectory_stage(run: Run) -> dict[str, Any]:
    """Train on trajectories from the retrieval stage's model (paper section 4.2)."""
    from transformers import AutoModelForCausalLM

    from toolscaler.data import AgentProtocol
    from toolscaler.pipeline.stages import hold_written_heads, last_values, trainer_settings, write_lines
    from toolscaler.tokenization import ToolscalerTokenizer
    from toolscaler.training.checkpoints import last_whole_checkpoint
    from toolscaler.training.trajectory import TrajectoryConfig, trajectory_trainer

    if run.config.data.trajectories is None:
        return {"left_out": "data.trajectories names none"}
    section, folder = run.config.trajectory, run.folder / "trajectory"
    settings = trainer_settings(
        TrajectoryConfig,
        {"seed": run.config.seed, **section.trainer},
        "trajectory.trainer",
        output_dir=str(folder / "checkpoints"),
    )
    protocol: AgentProtocol = build_section(AgentProtocol, section.protocol, "trajectory.protocol")
    source = run.folder / "model"
    tokenizer = ToolscalerTokenizer.from_pretrained(str(source))
    model = AutoModelForCausalLM.from_pretrained(source, **run.config.base.model_kwargs)
    hold_written_heads(run, model)
    trainer = trajectory_trainer(model, tokenizer, run.trajectories(), run.documents, settings, protocol=protocol)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder / "checkpoints"))
    write_json(folder / "history.json", trainer.state.log_history)
    report = {} if trainer.rows_report is None else asdict(trainer.rows_report)
    write_json(
        folder / "rows.json", {**report, "skipped": {str(k): why for k, why in report.get("skipped", {}).items()}}
    )
    trained: Any = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(trained, "merge_and_unload"):
        trained = trained.merge_and_unload()
    with atomic_folder(run.folder / "agent_model") as target:
        trained.save_pretrained(target)
        tokenizer.save_pretrained(target)
        protocol.save(target)
        write_lines(target / "tools.jsonl", [document.to_dict() for document in run.documents])
    counts: dict[str, Any] = {key: report[key] for key in ("rows", "tokens", "truncated") if key in report}
    return {**counts, "steps": trainer.state.global_step, **last_values(trainer.state.log_history)}


def agent_stage(run: Run) -> dict[str, Any]:
    """Let the trained agent work on held-out tasks with real tools (paper section 5).

    Writes ``agent/``: ``metrics.json``, ``table.md``, ``per_task.jsonl`` and ``examples.json``.
    """
    section = run.config.agent
    if run.config.data.trajectories is None:
        return {"left_out": "data.trajectories names none"}
    if run.config.data.tools != "starter":
        return {"left_out": "only the starter catalogue has tasks that can be run"}
    from toolscaler.agent.agent import ToolAgent
    from toolscaler.agent.code_planner import CodePlanner
    from toolscaler.agent.config import AgentConfig
    from toolscaler.agent.executors.starter import StarterExecutor
    from toolscaler.agent.free_planner import FreePlanner
    from toolscaler.evaluation.agents import evaluate_agent
    from toolscaler.starter import load_starter_tasks

    tasks = load_starter_tasks("test")
    if section.max_tasks is not None and section.max_tasks < len(tasks):
        step = len(tasks) / section.max_tasks
        tasks = [tasks[int(place * step)] for place in range(section.max_tasks)]
    settings = build_section(AgentConfig, section.config, "agent.config")
    planners = {"toolscaler": CodePlanner, **({"free decoding": FreePlanner} if section.free_decoding else {})}
    results = []
    with StarterExecutor() as executor:
        for name, kind in planners.items():
            planner = kind.from_pretrained(run.folder / "agent_model", **section.planner)
            agent = ToolAgent(planner, executor, config=settings)
            results.append(evaluate_agent(agent, tasks, name=name, seed=section.seed, show_progress=True))
    _write(run, results)
    ours = results[0]
    summary = {key: round(ours.metrics[key].mean, 4) for key in ("success", "right_tools", "right_arguments", "steps")}
    summary |= {"valid_json": round(ours.valid_json, 4), "illegal_calls": ours.illegal_calls, "tasks": ours.n}
    return summary | {f"{other.name} success": round(other.metrics["success"].mean, 4) for other in results[1:]}


def _write(run: Run, results: Sequence[AgentEvaluation]) -> None:
    lines = [
        json.dumps({"name": result.name, **record}, ensure_ascii=False)
        for result in results
        for record in result.per_task
    ]
    with atomic_folder(run.folder / "agent") as folder:
        write_json(folder / "metrics.json", [result.to_dict() for result in results])
        write_text(folder / "table.md", agent_table(results))
        write_text(folder / "per_task.jsonl", "\n".join(lines) + "\n")
        solved = [record for record in results[0].per_task if record["success"]]
        write_json(folder / "examples.json", [dict(record) for record in solved[:_EXAMPLES]])


def agent_table(results: Sequence[AgentEvaluation]) -> str:
    """Give the results of several agents on the same tasks as a Markdown table."""
    head = "| agent | success | right tools | right arguments | valid JSON | illegal calls | steps | tokens |\n"
    rows = [head, "|---|---:|---:|---:|---:|---:|---:|---:|\n"]
    for result in results:
        shares = [
            f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
            for value in (result.metrics[key] for key in ("success", "right_tools", "right_arguments"))
        ]
        cells = [result.name, *shares, f"{100 * result.valid_json:.1f}", f"{result.illegal_calls} of {result.calls}"]
        cells += [f"{result.metrics[key].mean:.1f}" for key in ("steps", "tokens")]
        rows.append(f"| {' | '.join(cells)} |\n")
    kinds = [f"{kind} {100 * share:.0f} % of {n}" for kind, (n, share) in results[0].by_kind.items()]
    note = f"\nn = {results[0].n} tasks; 95 % percentile bootstrap over tasks. {results[0].name} by kind: "
    return "".join(rows) + note + ", ".join(kinds) + ".\n"


def show_run(done: AgentTrajectory) -> str:
    """Give a run as text, a line a call."""
    lines = [f"? {done.query}"]
    for step in done.steps:
        for call in step.calls:
            if call.tool == FINISH_TOOL:
                continue
            arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
            mark = "!" if call.result.is_error else "="
            lines.append(f"  {call.code} {call.tool}({arguments}) {mark} {call.result.content[:120]}")
    said = done.answer if done.finished else f"({done.outcome})"
    return "\n".join([*lines, f"  -> {said}"])
