"""The folder of a public data set in, its tool-calling tasks with reference calls out."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolscaler.data.bundles import load_bundle
from toolscaler.data.bundles.base import find_file, read_objects
from toolscaler.data.dialogues.loading import load_trajectories
from toolscaler.data.documents import ToolDocument
from toolscaler.data.schema import normalize_schema, parameters_schema, returns_schema
from toolscaler.data.trajectories import FINISH_TOOL, ToolCall, Trajectory
from toolscaler.errors import ConfigError, DataError, ToolscalerError
from toolscaler.evaluation.tool_calling.api_bank import load_api_bank_tasks
from toolscaler.evaluation.tool_calling.tasks import AcceptedCalls, Expected, ToolCallTask, ToolCallTasks

_BFCL = (
    *("simple_python", "simple_java", "simple_javascript", "multiple", "parallel"),
    *("live_simple", "live_multiple", "live_parallel"),
)
_BFCL_WITHOUT_ANSWER: Mapping[str, Expected] = {
    "irrelevance": "none",
    "live_irrelevance": "none",
    "live_relevance": "some",
}
_LANGUAGES: Mapping[str, Any] = {"simple_java": "java", "simple_javascript": "javascript"}
_NESTFUL = {
    "executable": "data/executable/executable",
    "glaive": "data/non-executable/non-executable-glaive",
    "sgd": "data/non-executable/non-executable-sgd",
}


def load_tool_call_tasks(name: str, folder: str | Path, **options: Any) -> ToolCallTasks:
    """Load the tool-calling tasks of a public data set.

    Args:
        name: ``api-bank``, ``bfcl``, ``nestful``, ``seal-tools`` or ``ultratool``.
        folder: The data set's folder, in the layout of its own repository. Files may be gzipped.
        **options: ``bfcl``: ``categories``; ``nestful``: ``parts``; ``seal-tools``: ``splits``; ``api-bank``:
            ``levels``; ``ultratool``: ``language``. Default: everything, in English.

    Returns:
        The tasks, with the ids of :func:`~toolscaler.data.load_bundle` where there is a bundle of that name.

    Raises:
        ConfigError: An unknown data set, option or option value.
        DataError: A file is missing or cannot be read.
    """
    if name not in _LOADERS:
        raise ConfigError("name", name, f"one of {', '.join(sorted(_LOADERS))}")
    loader = _LOADERS[name]
    allowed = [key for key in inspect.signature(loader).parameters if key != "folder"]
    for key, value in options.items():
        if key not in allowed:
            raise ConfigError(key, value, f"an option of {name!r}: {', '.join(allowed)}")
    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"expected the folder of the data set {name!r}, found none", path=path)
    try:
        return loader(path, **options)
    except ToolscalerError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"expected the layout of the data set {name!r}, got other data ({what})", path=path) from error


def tasks_from_trajectories(
    name: str, trajectories: Iterable[Trajectory], documents: Iterable[ToolDocument], *, kind: str = "sequence"
) -> ToolCallTasks:
    """Make tasks of conversations: the first user message is the query, the calls are the reference.

    Args:
        name: Name of the set.
        trajectories: The conversations; :data:`~toolscaler.data.FINISH_TOOL` is no reference call.
        documents: The catalogue.
        kind: How arguments name former results, one of :data:`TOOL_CALL_KINDS` except ``bfcl``.
    """
    tasks = [
        ToolCallTask(
            trajectory.id or str(number),
            trajectory.query,
            tuple(call for call in trajectory.calls if call.tool != FINISH_TOOL),
            group=trajectory.split,
        )
        for number, trajectory in enumerate(trajectories)
    ]
    return ToolCallTasks(name, kind, list(documents), tasks)


def _chosen(key: str, value: Iterable[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """Give the parts of a data set that are wanted.

    Raises:
        ConfigError: One of them is unknown.
    """
    if value is None:
        return tuple(known)
    names = (value,) if isinstance(value, str) else tuple(value)
    for name in names:
        if name not in known:
            raise ConfigError(key, name, f"one of {', '.join(known)}")
    return names


def _load_bfcl(folder: Path, *, categories: Iterable[str] | None = None) -> ToolCallTasks:
    chosen = _chosen("categories", categories, (*_BFCL, *_BFCL_WITHOUT_ANSWER))
    bundle = load_bundle("bfcl", folder, **({} if categories is None else {"categories": chosen}))
    # An id differs from the name where a name has several documents; the content says which document a row means.
    ids = _BfclIds(bundle.documents)
    tasks = []
    for category in chosen:
        answers: dict[str, Any] = {}
        if category in _BFCL:
            rows = read_objects(find_file(folder, f"possible_answer/BFCL_v4_{category}.json"), "id", "ground_truth")
            answers = {row["id"]: row["ground_truth"] for row in rows}
        path = find_file(folder, f"BFCL_v4_{category}.json")
        for row in read_objects(path, "id", "question", "function"):
            if category in _BFCL and row["id"] not in answers:
                raise DataError(f"expected an answer for {row['id']!r}, found none", path=path)
            tasks.append(_bfcl_task(row, category, answers.get(row["id"], ()), ids))
    return ToolCallTasks("bfcl", "bfcl", bundle.documents, tasks)


class _BfclIds:
    """Finds the id of the document that a row's function is; most functions stand in many rows."""

    def __init__(self, documents: Iterable[ToolDocument]) -> None:
        self._ids = {dataclasses.replace(item, id=item.name).content_hash: item.id for item in documents}
        self._seen: dict[str, str] = {}

    def of(self, data: Mapping[str, Any]) -> str:
        text = json.dumps(data)
        if text not in self._seen:
            response = data.get("response")
            document = ToolDocument(
                data["name"],
                data.get("description") or "",
                parameters=normalize_schema(data.get("parameters")),
                returns=normalize_schema(response) if response else None,
            )
            self._seen[text] = self._ids[document.content_hash]
        return self._seen[text]


def _bfcl_task(row: Mapping[str, Any], category: str, answer: Sequence[Any], ids: _BfclIds) -> ToolCallTask:
    names: dict[str, str] = {}
    for data in row["function"]:
        names.setdefault(ids.of(data), data["name"])
    messages = [message for turn in row["question"] for message in turn]
    texts = {role: [m["content"] for m in messages if m["role"] == role] for role in ("system", "user")}
    by_name = {name: id for id, name in names.items()}
    required = {data["name"]: (data.get("parameters") or {}).get("required") or () for data in row["function"]}
    calls = [
        ToolCall(by_name[name], _first_accepted(arguments, required[name]))
        for item in answer
        for name, arguments in item.items()
    ]
    return ToolCallTask(
        row["id"],
        "\n".join(texts["user"]).strip() or "\n".join(str(message["content"]) for message in messages),
        tuple(calls),
        tools=tuple(names),
        group=category,
        system="\n".join(texts["system"]),
        names={id: name for id, name in names.items() if id != name},
        accepted=AcceptedCalls(
            row["function"], answer, _LANGUAGES.get(category, "python"), _BFCL_WITHOUT_ANSWER.get(category, "calls")
        ),
    )


def _first_accepted(arguments: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """Give the first accepted value of each argument; of one that has none but ``""``, that where it is required."""
    found = {}
    for key, values in arguments.items():
        value = next((value for value in values if value != ""), "") if isinstance(values, list) else values
        if value != "" or key in required:
            found[key] = _first_inside(value)
    return found


def _first_inside(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _first_accepted(value)
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return [_first_inside(item) for item in value]
    return value


def _load_seal_tools(folder: Path, *, splits: Iterable[str] | None = None) -> ToolCallTasks:
    bundle = load_bundle("seal-tools", folder)
    chosen = _chosen("splits", splits, list(bundle.split_sizes()))
    outputs = {item.id: len((item.returns or {}).get("properties", {})) for item in bundle.documents}
    tasks = [
        ToolCallTask(
            query.id,
            query.text,
            tuple(ToolCall(call["api"], call.get("parameters") or {}) for call in query.metadata["calling"]),
            group=f"{query.split}-{query.metadata['level']}",
            outputs=outputs,
        )
        for query in bundle.queries
        if query.split in chosen
    ]
    return ToolCallTasks("seal-tools", "seal-tools", bundle.documents, tasks)


def _load_ultratool(folder: Path, *, language: str = "en") -> ToolCallTasks:
    bundle = load_bundle("ultratool", folder, language=language)
    part = {"en": "English-dataset", "zh": "Chinese-dataset"}[language]
    plans = load_trajectories(find_file(folder, f"{part}/test.json"), "ultratool")
    tasks = [
        ToolCallTask(query.id, query.text, plan.calls, tools=query.tools, group=query.metadata["domain"])
        for query, plan in zip(bundle.queries, plans, strict=True)
    ]
    return ToolCallTasks("ultratool", "ultratool", bundle.documents, tasks)


def _load_nestful(folder: Path, *, parts: Iterable[str] | None = None) -> ToolCallTasks:
    documents: list[ToolDocument] = []
    tasks: list[ToolCallTask] = []
    counts = {"documents of a known name left out": 0, "calls of tools without documentation": 0}
    for part in _chosen("parts", parts, tuple(_NESTFUL)):
        specs = read_objects(find_file(folder, f"{_NESTFUL[part]}-spec.json"), "name")
        known: dict[str, ToolDocument] = {}
        for spec in specs:
            known.setdefault(spec["name"], _nestful_document(spec, part))
        counts["documents of a known name left out"] += len(specs) - len(known)
        plans = load_trajectories(find_file(folder, f"{_NESTFUL[part]}-data.json"), "nestful")
        for number, plan in enumerate(plans):
            missing = [call.tool for call in plan.calls if call.tool not in known]
            counts["calls of tools without documentation"] += len(missing)
            known.update({name: ToolDocument(name, provider=part) for name in missing})
            tasks.append(ToolCallTask(f"{part}-{number}", plan.query, plan.calls, group=part))
        documents += known.values()
    by_part = {part: tuple(item.id for item in documents if item.provider == part) for part in _NESTFUL}
    names = {item.id: item.name for item in documents}
    tasks = [dataclasses.replace(task, tools=by_part[task.group], names=names) for task in tasks]
    return ToolCallTasks("nestful", "nestful", documents, tasks, counts)


def _nestful_document(spec: Mapping[str, Any], part: str) -> ToolDocument:
    keys = ("query_parameters", "path_parameters", "parameters", "arguments")
    merged: dict[str, Any] = {}
    for key in keys:
        merged.update(spec.get(key) or {})
    return ToolDocument(
        spec["name"],
        spec.get("description") or "",
        provider=part,
        parameters=parameters_schema({"type": "object", "properties": merged}),
        returns=returns_schema(spec.get("output_parameters")),
    )


_LOADERS: Mapping[str, Callable[..., ToolCallTasks]] = {
    "api-bank": load_api_bank_tasks,
    "bfcl": _load_bfcl,
    "nestful": _load_nestful,
    "seal-tools": _load_seal_tools,
    "ultratool": _load_ultratool,
}
