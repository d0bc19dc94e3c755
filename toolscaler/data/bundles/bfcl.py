"""Berkeley Function-Calling Leaderboard, version 4: functions, and queries that one of them answers, or none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from toolscaler.data.bundles.base import ToolBundle, find_file, read_objects, unique_documents
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.schema import normalize_schema
from toolscaler.errors import ConfigError, DataError

_ANSWERED = (
    *("simple_python", "simple_java", "simple_javascript", "multiple", "parallel"),
    *("live_simple", "live_multiple", "live_parallel"),
)
_IRRELEVANT = ("irrelevance", "live_irrelevance")
#: Rows in which some function must be called, but upstream does not say which.
_UNLABELLED = ("live_relevance",)
_MULTI_TURN = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param")
_CATEGORIES = (*_ANSWERED, *_IRRELEVANT, *_UNLABELLED)
# File of function documents -> class whose methods they are, the tools' provider.
_CLASSES = {
    "gorilla_file_system": "GorillaFileSystem",
    "math_api": "MathAPI",
    "message_api": "MessageAPI",
    "posting_api": "TwitterAPI",
    "ticket_api": "TicketAPI",
    "trading_bot": "TradingBot",
    "travel_booking": "TravelAPI",
    "vehicle_control": "VehicleControlAPI",
}
_MORE_DOCUMENTS = "function_docs_parallel_multiple.json"
_CALL = re.compile(r"\s*([\w.]+)\s*\(")


def load_bfcl(folder: Path, *, categories: Iterable[str] | None = None, multi_turn: bool = False) -> ToolBundle:
    """Load BFCL.

    A tool's identity is its name and document: functions of one name with several documents get ids with a suffix
    (``search#1a2b3c4d``), as long as several of them are loaded. Splits are the categories; the queries of both
    irrelevance categories have no tools and the split ``irrelevance``. Metadata: ``category``, and ``system`` where the
    row has a system message. The text of a query is what the user says, turns joined by line breaks.

    Args:
        folder: ``bfcl_eval/data`` of the repository, with ``possible_answer`` and ``multi_turn_func_doc``.
        categories: Single-turn categories; ``None``: all.
        multi_turn: Whether to add the multi-turn queries (all user turns as one text, every called function a label)
            and the documents of their functions.

    Raises:
        ConfigError: An unknown category.
        DataError: A file is missing or cannot be read.
    """
    chosen = _CATEGORIES if categories is None else tuple(categories)
    for category in chosen:
        if category not in _CATEGORIES:
            raise ConfigError("categories", category, f"one of {', '.join(_CATEGORIES)}")
    rows = {
        name: read_objects(find_file(folder, f"BFCL_v4_{name}.json"), "id", "question", "function") for name in chosen
    }
    offered = [_document(data) for part in rows.values() for row in part for data in row["function"]]
    if categories is None:
        offered += [_document(data) for data in read_objects(find_file(folder, _MORE_DOCUMENTS), "name")]
    methods = _methods(folder) if multi_turn else {}
    documents, final, counts = unique_documents([*offered, *methods.values()])
    queries: list[ToolQuery] = []
    counts["queries without labels dropped"] = 0
    for category, part in rows.items():
        if category in _UNLABELLED:
            counts["queries without labels dropped"] += len(part)
        else:
            queries += _single_turn(folder, category, part, final)
    if multi_turn:
        ids = {name: final[document.content_hash] for name, document in methods.items()}
        for category in _MULTI_TURN:
            queries += _multi_turn_queries(folder, category, ids)
    notes = ("live_relevance says that a function must be called, not which: its queries are dropped",)
    return ToolBundle("bfcl", documents, queries, counts, notes if "live_relevance" in chosen else ())


def _document(data: dict[str, Any], provider: str = "") -> ToolDocument:
    response = data.get("response")
    return ToolDocument(
        name=data["name"],
        description=data.get("description") or "",
        provider=provider,
        parameters=normalize_schema(data.get("parameters")),
        returns=normalize_schema(response) if response else None,
    )


def _single_turn(folder: Path, category: str, rows: list[dict[str, Any]], final: dict[str, str]) -> list[ToolQuery]:
    answers = {} if category in _IRRELEVANT else _answers(folder, category)
    queries = []
    for row in rows:
        offered: dict[str, str] = {}
        for data in row["function"]:
            offered.setdefault(data["name"], final[_document(data).content_hash])
        labels: list[str] = []
        if category not in _IRRELEVANT:
            if row["id"] not in answers:
                raise DataError(
                    f"expected an answer for {row['id']!r}, found none", path=_answer_file(folder, category)
                )
            called = [name for call in answers[row["id"]] for name in call]
            unknown = [name for name in called if name not in offered]
            if unknown:
                raise DataError(
                    f"{category}: expected the answer of {row['id']!r} to call {list(offered)}, got {unknown}"
                )
            labels = [offered[name] for name in called]
        split = "irrelevance" if category in _IRRELEVANT else category
        queries.append(_query(row, tuple(labels), split, category))
    return queries


def _query(row: dict[str, Any], labels: tuple[str, ...], split: str, category: str) -> ToolQuery:
    messages = [message for turn in row["question"] for message in turn]
    system = "\n".join(message["content"] for message in messages if message["role"] == "system")
    text = "\n".join(message["content"] for message in messages if message["role"] == "user").strip()
    metadata = {"category": category, **({"system": system} if system else {})}
    return ToolQuery(text, labels, row["id"], split, metadata)


def _answer_file(folder: Path, category: str) -> Path:
    return find_file(folder, f"possible_answer/BFCL_v4_{category}.json")


def _answers(folder: Path, category: str) -> dict[str, Any]:
    return {
        row["id"]: row["ground_truth"] for row in read_objects(_answer_file(folder, category), "id", "ground_truth")
    }


def _methods(folder: Path) -> dict[str, ToolDocument]:
    """Give the documents of the multi-turn functions by name, which is unique among them."""
    methods: dict[str, ToolDocument] = {}
    for file, provider in _CLASSES.items():
        path = find_file(folder, f"multi_turn_func_doc/{file}.json")
        for data in read_objects(path, "name"):
            if data["name"] in methods:
                raise DataError(f"expected each function once, got {data['name']!r} twice", path=path)
            methods[data["name"]] = _document(data, provider)
    return methods


def _multi_turn_queries(folder: Path, category: str, ids: dict[str, str]) -> list[ToolQuery]:
    answers = _answers(folder, category)
    queries = []
    for row in read_objects(find_file(folder, f"BFCL_v4_{category}.json"), "id", "question"):
        called = []
        for call in (call for turn in answers.get(row["id"], ()) for call in turn):
            match = _CALL.match(call)
            if match is None or match.group(1) not in ids:
                raise DataError(f"{category}: expected calls of known functions for {row['id']!r}, got {call!r:.80}")
            called.append(ids[match.group(1)])
        queries.append(_query(row, tuple(called), category, category))
    return queries
