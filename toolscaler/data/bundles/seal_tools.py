"""Seal-Tools: generated tools of many fields, and queries that call one or several of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from toolscaler.data.bundles.base import ToolBundle, find_file, read_objects
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.schema import parameters_schema
from toolscaler.errors import DataError

_SPLITS = {"train": "train", "dev": "dev", "test_in_domain": "test"}
_REFERENCE = re.compile(r"API_call_\d+")


def load_seal_tools(folder: Path) -> ToolBundle:
    """Load Seal-Tools.

    Splits are ``dev`` and ``test``, and ``train`` where ``train.jsonl`` is there. Tools stand in call order. Metadata:
    ``calling``, ``level`` (``easy``: one call, or ``difficult``) and ``dependent`` (a call uses the result of another).

    Args:
        folder: Holds ``tool.jsonl``, ``dev.jsonl`` and ``test_in_domain.jsonl``.

    Raises:
        DataError: A file is missing or cannot be read.
    """
    documents = [_document(row) for row in read_objects(find_file(folder, "tool.jsonl"), "api_name")]
    queries: list[ToolQuery] = []
    for name, split in _SPLITS.items():
        try:
            path = find_file(folder, f"{name}.jsonl")
        except DataError:
            if split == "train":  # upstream has it, many copies do not
                continue
            raise
        queries += [_query(row, split) for row in read_objects(path, "id", "query", "calling")]
    dependent = sum(bool(query.metadata["dependent"]) for query in queries)
    return ToolBundle("seal-tools", documents, queries, {"dependent queries": dependent})


def _document(row: dict[str, Any]) -> ToolDocument:
    responses = row.get("responses")
    return ToolDocument(
        name=row["api_name"],
        description=row.get("api_description") or "",
        category=row.get("field") or "",
        parameters=parameters_schema(_object(row.get("parameters")), row.get("required")),
        returns=parameters_schema(_object(responses)) if responses else None,
    )


def _object(properties: dict[str, Any] | None) -> dict[str, Any]:
    """Give the object schema of named values; said outright, since some tools have an argument ``properties``."""
    return {"type": "object", "properties": properties or {}}


def _query(row: dict[str, Any], split: str) -> ToolQuery:
    calls = row["calling"]
    values = [value for call in calls for value in call.get("parameters", {}).values()]
    level = next((word for word in ("easy", "difficult") if f"-{word}-" in row["id"]), "")
    return ToolQuery(
        text=row["query"].strip(),
        tools=tuple(call["api"] for call in calls),
        id=row["id"],
        split=split,
        metadata={"calling": calls, "level": level, "dependent": any(map(_is_reference, values))},
    )


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and _REFERENCE.match(value.strip()) is not None
