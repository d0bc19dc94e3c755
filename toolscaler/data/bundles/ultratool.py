"""UltraTool: real-world tasks with plans, each in English and in Chinese."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from toolscaler.data.bundles.base import ToolBundle, find_file, read_objects
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.schema import parameters_schema
from toolscaler.errors import ConfigError

_FOLDERS = {"en": "English-dataset", "zh": "Chinese-dataset"}
_CALL = re.compile(r"\s*([\w.-]+)\s*\(")


def load_ultratool(folder: Path, *, language: Literal["en", "zh"] = "en") -> ToolBundle:
    """Load UltraTool.

    Queries have the split ``test``, upstream's name of the file; tools stand in the order of the plan's calls.
    Metadata: ``domain`` and ``plan``.

    Args:
        folder: Holds ``English-dataset`` and ``Chinese-dataset``, each with ``tools.jsonl`` and ``test.json``.
        language: Language of queries and documents; tool names are the same in both.

    Raises:
        ConfigError: An unknown language.
        DataError: A file is missing or cannot be read.
    """
    if language not in _FOLDERS:
        raise ConfigError("language", language, "'en' or 'zh'")
    part = _FOLDERS[language]
    tools = read_objects(find_file(folder, f"{part}/tools.jsonl"), "name")
    documents = [
        ToolDocument(
            name=tool["name"],
            description=tool.get("description") or "",
            parameters=parameters_schema(tool.get("arguments")),
            returns=parameters_schema(tool["results"]) if tool.get("results") else None,
        )
        for tool in tools
    ]
    rows = read_objects(find_file(folder, f"{part}/test.json"), "question", "tools", "plan")
    queries = [
        ToolQuery(
            text=row["question"].strip(),
            tools=_in_call_order(row),
            id=str(number),
            split="test",
            metadata={"domain": row.get("domain", ""), "plan": row["plan"]},
        )
        for number, row in enumerate(rows)
    ]
    stripped = sum(row["question"] != row["question"].strip() for row in rows)
    return ToolBundle("ultratool", documents, queries, {"rows": len(rows), "queries with blanks stripped": stripped})


def _in_call_order(row: dict[str, Any]) -> tuple[str, ...]:
    """Give the relevant tools, those that the plan calls first, in its order; a step without a tool calls none."""
    relevant = [tool["name"] for tool in row["tools"]]
    called = [match.group(1) for step in row["plan"] if (match := _CALL.match(str(step.get("tool"))))]
    return tuple(dict.fromkeys([*(name for name in called if name in relevant), *relevant]))
