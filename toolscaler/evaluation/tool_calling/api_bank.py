"""API-Bank's test steps and tasks: a dialogue so far, or a requirement, with the calls that come next."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from toolscaler.data.bundles.base import find_file, read_objects
from toolscaler.data.dialogues.loading import load_trajectories
from toolscaler.data.documents import ToolDocument
from toolscaler.data.schema import parameters_schema, returns_schema
from toolscaler.data.trajectories import ToolCall
from toolscaler.errors import ConfigError, DataError
from toolscaler.evaluation.tool_calling.tasks import ToolCallTask, ToolCallTasks

_STEPS = {"level-1": "test-data/level-1-api.json", "level-2": "test-data/level-2-api.json"}
_TASKS = {"level-3": "test-data/level-3.json"}
_DESCRIPTIONS = "API descriptions:"
_ASKS = re.compile(r"\s*Generate API Request:\s*\Z")
_FOUND = re.compile(r"'name': '(\w+)'")
_SEARCHER = "ToolSearcher"


def load_api_bank_tasks(folder: Path, *, levels: Iterable[str] | None = None) -> ToolCallTasks:
    """Load API-Bank's test data.

    A step of levels 1 and 2 asks for the one call that comes next in a dialogue; its tools are those that are described
    or were found in the dialogue. A task of level 3 asks for a whole sequence of calls. Groups are the levels; steps
    that search for a tool stand apart (``level-2-search``), since the words of a search are free.

    Args:
        folder: Holds ``test-data``.
        levels: Some of ``level-1``, ``level-2`` and ``level-3``; ``None``: all.

    Raises:
        ConfigError: An unknown level.
        DataError: A file is missing or cannot be read.
    """
    known = (*_STEPS, *_TASKS)
    chosen = known if levels is None else ((levels,) if isinstance(levels, str) else tuple(levels))
    for level in chosen:
        if level not in known:
            raise ConfigError("levels", level, f"one of {', '.join(known)}")
    rows = {level: read_objects(find_file(folder, file)) for level, file in {**_STEPS, **_TASKS}.items()}
    # Every level's descriptions are read: a dialogue of level 2 shows some tools only in the words of a result.
    documents: dict[str, ToolDocument] = {}
    counts = {"other documents of a known name": 0, "tools without documentation": 0}
    for level, part in rows.items():
        for row in part:
            for data in _described(row, level):
                document = _document(data)
                before = documents.setdefault(document.name, document)
                counts["other documents of a known name"] += before != document
    tasks = []
    for level in chosen:
        for number, row in enumerate(rows[level]):
            task = _task(row, number) if level in _TASKS else _step(row, level, number, documents)
            for call in task.calls:
                if call.tool not in documents:
                    counts["tools without documentation"] += 1
                    documents[call.tool] = ToolDocument(call.tool)
            tasks.append(task)
    return ToolCallTasks("api-bank", "api-bank", list(documents.values()), tasks, counts)


def _described(row: Mapping[str, Any], level: str) -> Iterator[Mapping[str, Any]]:
    """Yield the descriptions of tools that a row has."""
    if level in _STEPS:
        lines = str(row.get("instruction", "")).partition(_DESCRIPTIONS)[2].splitlines()
        texts = [line for line in lines if line.strip()]
        for text in texts:
            try:
                yield json.loads(text)
            except ValueError as error:
                raise DataError(f"{level}: expected a description as JSON, got {text!r:.120}") from error
        return
    for item in row.get("apis", ()):
        found = (item.get("output") or {}).get("output") if item.get("api_name") == _SEARCHER else None
        for data in found if isinstance(found, list) else [found]:
            if isinstance(data, Mapping) and "name" in data:
                yield data


def _document(data: Mapping[str, Any]) -> ToolDocument:
    return ToolDocument(
        str(data["name"]),
        str(data.get("description") or ""),
        parameters=parameters_schema(_object(data.get("input_parameters"))),
        returns=returns_schema(_object(data.get("output_parameters"))),
    )


def _object(properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties or {}}


def _step(row: Mapping[str, Any], level: str, number: int, documents: Mapping[str, ToolDocument]) -> ToolCallTask:
    plan = load_trajectories([row], "api-bank")[0]
    calls = tuple(ToolCall(call.tool, call.arguments) for call in plan.messages[-1].tool_calls)
    offered = [data["name"] for data in _described(row, level)]
    offered += [name for name in _FOUND.findall(row["input"]) if name in documents]
    offered += [call.tool for call in calls if call.tool in documents]
    searches = level != "level-1" and any(call.tool == _SEARCHER for call in calls)
    return ToolCallTask(
        f"{level}-{number}",
        _ASKS.sub("", row["input"]),
        calls,
        tools=tuple(dict.fromkeys(offered)),
        group=f"{level}-search" if searches else level,
    )


def _task(row: Mapping[str, Any], number: int) -> ToolCallTask:
    calls = tuple(ToolCall(item["api_name"], item.get("input") or {}) for item in row["apis"])
    return ToolCallTask(f"level-3-{number}", row["requirement"].strip(), calls, group="level-3")
