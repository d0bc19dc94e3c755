"""Data sets of dialogues as retrieval: the tools that are offered are the catalogue, a first request is a query."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from toolscaler.data.bundles.base import ToolBundle, find_file, read_objects, unique_documents
from toolscaler.data.dialogues import load_trajectories
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.schema import check_arguments_schema, parameters_schema
from toolscaler.data.sources.base import expect_mapping
from toolscaler.data.trajectories import FINISH_TOOL, Trajectory
from toolscaler.errors import DataError

_TOOLRL = "rlla_sft.json"
_GLAIVE = ("glaive_toolcall_en_demo.json", "reason_tool_use_demo_50.jsonl")
# A tool of ToolRL's prompt; its parameters are JSON that follows.
_LISTED = re.compile(r"^\d+\. Name: (.*?)\nDescription: (.*?)\nParameters: ", re.MULTILINE | re.DOTALL)
_SETTLED = ("dialogues without a call dropped", "labels not offered dropped", "queries without labels dropped")


def load_toolrl(folder: Path) -> ToolBundle:
    """Load ToolRL's supervised rows.

    A query is what the user has said up to the first call; its tools are those called until the user speaks again,
    where the row's own prompt offers them. Names stand for other tools in other rows: those get a suffix
    (``search#1a2b3c4d``). The split is ``train``, as upstream uses these rows.

    Args:
        folder: Holds ``rlla_sft.json``.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    path = find_file(folder, _TOOLRL)
    offered = [_listed_tools(row["instruction"], path) for row in read_objects(path, "instruction", "input", "output")]
    return _bundle("toolrl", [(offered, load_trajectories(path, "toolrl"))])


def load_glaive(folder: Path) -> ToolBundle:
    """Load the glaive dialogues of LLaMA-Factory's examples.

    Queries as :func:`load_toolrl`. Dialogues that need no tool are dropped and counted. Dialogues word the schema of
    one function in many ways, so functions of one name are one tool, as it stands first.

    Args:
        folder: Holds ``glaive_toolcall_en_demo.json`` and ``reason_tool_use_demo_50.jsonl``.

    Raises:
        DataError: A file is missing or cannot be read.
    """
    parts: list[tuple[list[list[ToolDocument]], Sequence[Trajectory]]] = []
    for name in _GLAIVE:
        path = find_file(folder, name)
        offered = [list(_functions(row["tools"], path)) for row in read_objects(path, "tools")]
        parts.append((offered, load_trajectories(path, "glaive")))
    return _bundle("glaive-toolcall", parts, one_a_name=True)


def _bundle(
    name: str, parts: Iterable[tuple[list[list[ToolDocument]], Sequence[Trajectory]]], *, one_a_name: bool = False
) -> ToolBundle:
    rows = [row for offered, trajectories in parts for row in zip(offered, trajectories, strict=True)]
    first: dict[str, ToolDocument] = {}
    for offered, _ in rows:
        for place, document in enumerate(offered):
            known = first.setdefault(document.name, document)
            offered[place] = known if one_a_name else document
    documents, final, merged = unique_documents(document for offered, _ in rows for document in offered)
    counts = dict.fromkeys(_SETTLED, 0)
    queries: list[ToolQuery] = []
    for number, (offered, trajectory) in enumerate(rows):
        text, called = _first_request(trajectory)
        if not called:
            counts["dialogues without a call dropped"] += 1
            continue
        ids = {document.name: final[document.content_hash] for document in offered}
        tools = tuple(ids[tool] for tool in called if tool in ids)
        counts["labels not offered dropped"] += len(called) - len(tools)
        if not tools:
            counts["queries without labels dropped"] += 1
            continue
        queries.append(ToolQuery(text, tools, f"{name}/{number}", "train"))
    return ToolBundle(name, documents, queries, {**counts, **merged})


def _first_request(trajectory: Trajectory) -> tuple[str, list[str]]:
    """Give what the user says up to the first call, and the tools called until the user speaks again."""
    said: list[str] = []
    called: dict[str, None] = {}
    for message in trajectory.messages:
        if message.role == "user":
            if called:
                break
            said.append(message.content.strip())
        called.update((call.tool, None) for call in message.tool_calls if call.tool != FINISH_TOOL)
    return "\n".join(said), list(called)


def _listed_tools(text: str, path: Path) -> list[ToolDocument]:
    """Read the tools that a prompt of ToolRL lists."""
    found = []
    for match in _LISTED.finditer(text):
        try:
            parameters, _ = json.JSONDecoder().raw_decode(text, match.end())
        except ValueError as error:
            raise DataError(f"{match.group(1)!r}: expected parameters as JSON ({error})", path=path) from error
        found.append(_document(match.group(1), match.group(2), _object(parameters)))
    return found


def _functions(text: str, path: Path) -> Iterator[ToolDocument]:
    """Read function schemas, plain or as OpenAI wraps them, from JSON text."""
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(f"expected functions as JSON, got {text!r:.80} ({error})", path=path) from error
    for row in rows:
        function = expect_mapping(row.get("function", row))
        yield _document(function["name"], function.get("description") or "", function.get("parameters"))


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    """Give the object schema of named values; said outright, since a tool may have an argument ``properties``."""
    return {"type": "object", "properties": properties}


def _document(name: str, description: str, parameters: Any) -> ToolDocument:
    schema = parameters_schema(parameters)
    check_arguments_schema(schema)
    return ToolDocument(name.strip(), description.strip(), parameters=schema)
