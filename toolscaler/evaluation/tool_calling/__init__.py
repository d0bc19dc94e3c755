"""Tool calls: predictions and references in, scores with intervals out; by comparison, or by a judge."""

from __future__ import annotations

from typing import Any

from toolscaler._lazy import lazy_attribute, lazy_names

# Public name -> the module that defines it. Nothing is imported before it is asked for (PEP 562).
_PUBLIC: dict[str, str] = {
    "AnswerRecord": "toolscaler.evaluation.tool_calling.answers",
    "AstVerdict": "toolscaler.evaluation.tool_calling.ast_match",
    "KindScore": "toolscaler.evaluation.tool_calling.evaluation",
    "LLMJudge": "toolscaler.evaluation.tool_calling.judge",
    "PassRate": "toolscaler.evaluation.tool_calling.judged",
    "PredictedCalls": "toolscaler.evaluation.tool_calling.predictions",
    "TOOL_CALL_KINDS": "toolscaler.evaluation.tool_calling.tasks",
    "ToolCallEvaluation": "toolscaler.evaluation.tool_calling.evaluation",
    "ToolCallRun": "toolscaler.evaluation.tool_calling.running",
    "ToolCallTask": "toolscaler.evaluation.tool_calling.tasks",
    "ToolCallTasks": "toolscaler.evaluation.tool_calling.tasks",
    "Verdict": "toolscaler.evaluation.tool_calling.judge",
    "WinRate": "toolscaler.evaluation.tool_calling.judged",
    "agent_runner": "toolscaler.evaluation.tool_calling.running",
    "answer_record": "toolscaler.evaluation.tool_calling.answers",
    "ast_match": "toolscaler.evaluation.tool_calling.ast_match",
    "chat_runner": "toolscaler.evaluation.tool_calling.running",
    "convert_stabletoolbench_answer": "toolscaler.evaluation.tool_calling.stabletoolbench",
    "evaluate_tool_calls": "toolscaler.evaluation.tool_calling.evaluation",
    "judge_pass_rate": "toolscaler.evaluation.tool_calling.judged",
    "judge_win_rate": "toolscaler.evaluation.tool_calling.judged",
    "load_tool_call_tasks": "toolscaler.evaluation.tool_calling.loading",
    "read_prediction": "toolscaler.evaluation.tool_calling.predictions",
    "read_predictions": "toolscaler.evaluation.tool_calling.predictions",
    "read_stabletoolbench_answers": "toolscaler.evaluation.tool_calling.stabletoolbench",
    "run_tool_call_tasks": "toolscaler.evaluation.tool_calling.running",
    "stabletoolbench_answer": "toolscaler.evaluation.tool_calling.stabletoolbench",
    "tool_call_table": "toolscaler.evaluation.tool_calling.evaluation",
    "write_converted_answers": "toolscaler.evaluation.tool_calling.stabletoolbench",
    "write_predictions": "toolscaler.evaluation.tool_calling.predictions",
    "write_stabletoolbench_answers": "toolscaler.evaluation.tool_calling.stabletoolbench",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return lazy_names(__name__, _PUBLIC)
