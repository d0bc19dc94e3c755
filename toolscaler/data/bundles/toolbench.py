"""ToolBench: 46,984 API functions by name, a part of them documented, and its test queries."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from toolscaler.data.bundles.base import ToolBundle, find_file, read_mapping, read_objects
from toolscaler.data.bundles.mgtoolbench import TEST_FILE, TEST_SPLIT, load_mgtoolbench
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.query_files import load_tool_queries
from toolscaler.data.sources.base import ReadOptions
from toolscaler.data.sources.opening import Source
from toolscaler.data.sources.toolbench import (
    FINISH,
    ApiKey,
    ToolBenchReader,
    api_document,
    describe_api,
    finish_document,
    parse_virtual_token,
)
from toolscaler.errors import ConfigError, DataError, UnknownToolError

_TOKENS, _DETAILS, _DRAFT = "virtual_tokens.txt", "tool_details.json", "draft_tool_instruction_initial.json"
_SETS = ("G1_instruction", "G1_tool", "G1_category", "G2_instruction")
# Set of queries -> its files and their splits.
_QUERY_FILES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "solvable": tuple((f"solvable_queries/test_instruction/{name}.json", name) for name in _SETS),
    "full": tuple((f"full_queries/test_instruction/{name}.json", name) for name in _SETS),
    "anytool": (("anytoolbench.json", "anytool"), ("anytool_custom_query_data.json", "anytool_custom")),
}
_QUERY_SETS = (*_QUERY_FILES, "mgtoolbench")


class _Catalogue:
    """The documented APIs and what is known of whole tools."""

    def __init__(self, folder: Path) -> None:
        self.tool_texts = _tool_descriptions(folder)
        self.documents: dict[ApiKey, ToolDocument] = {}
        self.other_categories = 0
        for row in read_objects(find_file(folder, "api_docs.jsonl"), "tool_name", "api_name"):
            self.add(row)
        for document in _draft_documents(folder):
            self.documents.setdefault((document.provider, document.name), document)
        categories: dict[str, set[str]] = defaultdict(set)
        for document in self.documents.values():
            categories[document.provider].add(document.category)
        self.categories = {tool: found.pop() for tool, found in categories.items() if len(found) == 1}

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one API record; the first record of a (tool, API) pair counts."""
        document = api_document(row, tool_description=self.tool_texts.get(str(row.get("tool_name")), ""))
        key = (document.provider, document.name)
        self.other_categories += key in self.documents and self.documents[key].category != document.category
        self.documents.setdefault(key, document)

    def document(self, key: ApiKey) -> ToolDocument:
        """Give the document of an API; of one without documentation, what is known of its tool."""
        if key in self.documents:
            return self.documents[key]
        tool, api = key
        about = describe_api("", tool, self.tool_texts.get(tool, ""))
        return ToolDocument(api, about, provider=tool, category=self.categories.get(tool, ""))


def load_toolbench(
    folder: Path,
    *,
    queries: str | Iterable[str] = "full",
    documents: Literal["all", "documented"] = "all",
    unresolved: Literal["add", "drop", "raise"] = "add",
    include_finish: bool = False,
    mgtoolbench: str | Path = "../toolbench-g3-mgtoolbench",
) -> ToolBundle:
    """Load ToolBench.

    Ids are ``tool/api``; labels know no category, so of records that share tool and API the first counts. Descriptions
    of whole tools follow those of their APIs. An API without documentation has its name, the description of its tool
    and, where all documented APIs of the tool have one category, that category. Splits are named after the files
    (``G1_instruction``, ``G1_tool``, ``G1_category``, ``G2_instruction``, ``anytool``, ``anytool_custom``;
    ``G3_train`` and ``G3_instruction`` of MGToolBench).

    Args:
        folder: Holds ``virtual_tokens.txt``, ``tool_details.json``, ``api_docs.jsonl`` (API records) and
            ``draft_tool_instruction_initial.json``, and the query files.
        queries: One or several of ``"full"`` (the original test sets), ``"solvable"`` (what StableToolBench keeps of
            them), ``"anytool"`` and ``"mgtoolbench"`` (training and test queries of G3, of another folder; documents
            of the latter's APIs count as documentation).
        documents: ``"all"``: every API of ``virtual_tokens.txt``. ``"documented"``: every API with documentation.
        unresolved: What happens to a label that is no tool of these: ``"add"`` adds the tool, with its documentation
            where there is any; ``"drop"`` drops the label, and the query if it was the last one; ``"raise"`` is an
            error. Counted either way.
        include_finish: Whether ``Finish``, which ends a trajectory, is a tool of the catalogue: 46,985 with it.
        mgtoolbench: Folder of MGToolBench, relative to ``folder``: ``coarse_instruction`` and ``retrieval`` are in it.

    Raises:
        ConfigError: An option has a value that is not allowed.
        DataError: A file is missing or cannot be read.
        UnknownToolError: A label is not resolved, and ``unresolved="raise"``.
    """
    names = (queries,) if isinstance(queries, str) else tuple(queries)
    for name in names:
        if name not in _QUERY_SETS:
            raise ConfigError("queries", name, f"one or several of {', '.join(_QUERY_SETS)}")
    if documents not in ("all", "documented"):
        raise ConfigError("documents", documents, "'all' or 'documented'")
    if unresolved not in ("add", "drop", "raise"):
        raise ConfigError("unresolved", unresolved, "'add', 'drop' or 'raise'")
    known = _Catalogue(folder)
    other = folder / mgtoolbench
    if "mgtoolbench" in names:
        for row in read_objects(find_file(other, TEST_FILE), "api_list"):
            for api in row["api_list"]:
                known.add(api)
    keys = _token_keys(folder) if documents == "all" else list(known.documents)
    tools = {document.id: document for document in map(known.document, keys)}
    if include_finish:
        tools[FINISH] = finish_document()
    labelled: list[ToolQuery] = []
    labels: dict[str, ApiKey] = {}
    steps: dict[str, int] = {}
    for name in names:
        files = [(find_file(folder, relative), split) for relative, split in _QUERY_FILES.get(name, ())]
        if name == "mgtoolbench":
            training, found, steps = load_mgtoolbench(other, [*_token_keys(folder), *known.documents])
            labelled += training
            labels.update(found)
            files = [(find_file(other, TEST_FILE), TEST_SPLIT)]
        for path, split in files:
            read = load_tool_queries(path, "toolbench", split=split)
            labelled += [dataclasses.replace(query, text=query.text.strip()) for query in read]
            labels.update(_label_keys(path))
    labelled, missing = _resolve(labelled, tools, labels, known, unresolved)
    counts = {
        "tools without documentation": sum((tool.provider, tool.name) not in known.documents for tool in tools.values())
        - include_finish,
        "records of another category merged": known.other_categories,
        **missing,
        **steps,
    }
    return ToolBundle("toolbench", list(tools.values()), labelled, counts)


def _resolve(
    queries: list[ToolQuery],
    tools: dict[str, ToolDocument],
    labels: Mapping[str, ApiKey],
    known: _Catalogue,
    unresolved: str,
) -> tuple[list[ToolQuery], dict[str, int]]:
    """Bring labels and catalogue together; ``tools`` grows with ``unresolved="add"``."""
    counts = {"unresolved labels": 0, "tools added for labels": 0, "queries without labels dropped": 0}
    resolved: list[ToolQuery] = []
    catalogue = frozenset(tools)
    for query in queries:
        missing = [label for label in query.tools if label not in catalogue]
        counts["unresolved labels"] += len(missing)
        if missing and unresolved == "raise":
            raise UnknownToolError(missing[0], catalogue)
        if missing and unresolved == "add":
            for label in missing:
                counts["tools added for labels"] += label not in tools
                tools.setdefault(label, known.document(labels[label]))
        elif missing:
            kept = tuple(label for label in query.tools if label in catalogue)
            if not kept:
                counts["queries without labels dropped"] += 1
                continue
            query = dataclasses.replace(query, tools=kept)
        resolved.append(query)
    return resolved, counts


def _token_keys(folder: Path) -> list[ApiKey]:
    path = find_file(folder, _TOKENS)
    source = Source.open(path)
    keys: list[ApiKey] = []
    for record in source.records():
        try:
            tool, api = parse_virtual_token(record.data)
        except DataError as error:
            raise DataError(record.error or str(error), path=path, line=record.line) from error
        if tool:
            keys.append((tool, api))
    return keys


def _tool_descriptions(folder: Path) -> dict[str, str]:
    path = find_file(folder, _DETAILS)
    texts: dict[str, str] = {}
    for tool, details in read_mapping(path).items():
        if not isinstance(details, Mapping):
            raise DataError(f"{tool!r}: expected an object with 'tool_description'", path=path)
        texts[tool] = details.get("tool_description") or ""
    return texts


def _draft_documents(folder: Path) -> list[ToolDocument]:
    path = find_file(folder, _DRAFT)
    documents: list[ToolDocument] = []
    for _, result in ToolBenchReader().read(Source.open(path), ReadOptions()):
        if isinstance(result, str):
            raise DataError(result, path=path)
        documents.append(result)
    return documents


def _label_keys(path: Path) -> dict[str, ApiKey]:
    """Give tool and API of each label: its id alone does not say where the tool's name ends."""
    keys: dict[str, ApiKey] = {}
    for row in read_objects(path, "query"):
        for label in row.get("relevant APIs") or row.get("gt_api_list") or ():
            tool, api = (label["tool_name"], label["api_name"]) if isinstance(label, Mapping) else label
            keys[f"{tool}/{api}"] = (tool, api)
    return keys
