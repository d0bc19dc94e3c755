"""Labelled queries from files: any of the three forms in, :class:`~toolscaler.data.ToolQuery` objects out.

- ``table``: rows with a query and its tools, as JSON lines, JSON, CSV, TSV or a ``datasets.Dataset``;
- ``toolbench``: ToolBench query files (``query`` with ``relevant APIs``), and AnyTool's (``gt_api_list``);
- ``toolgen``: ToolGen's conversations, in which the assistant answers with ``<<tool&&api>>``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolscaler.data.queries import ToolQuery
from toolscaler.data.sources.base import OnError, ProblemLog, ReadReport, RowProblem, expect_mapping, text_of
from toolscaler.data.sources.opening import Record, Source, suffix_of
from toolscaler.data.sources.toolbench import FINISH, Identity, parse_virtual_token, toolbench_id
from toolscaler.errors import AmbiguousSourceError, ConfigError, DataError

#: Formats of query files.
QUERY_FORMATS: tuple[str, ...] = ("table", "toolbench", "toolgen")

# Query field -> names under which a table may have it, compared without case.
_COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "query", "question", "instruction"),
    "tools": ("tools", "tool", "relevant_tools"),
    "id": ("id", "query_id"),
    "split": ("split",),
}
_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv"})
_RELEVANT, _GOLD = "relevant APIs", "gt_api_list"
_USER_ROLES = frozenset({"user", "human"})
_ASSISTANT_ROLES = frozenset({"assistant", "gpt", "model"})


class ToolQueryList(list[ToolQuery]):
    """A list of queries with the report of how it was read.

    Attributes:
        report: What was read and skipped. Slices and copies are plain lists.
    """

    def __init__(self, queries: Iterable[ToolQuery] = (), report: ReadReport | None = None) -> None:
        super().__init__(queries)
        self.report = ReadReport(read=len(self)) if report is None else report

    def __reduce__(self) -> tuple[Any, ...]:
        return (ToolQueryList, (list(self), self.report))


@dataclass(frozen=True)
class QueryOptions:
    """What a caller says about a query file (see :func:`load_tool_queries`)."""

    columns: Mapping[str, str] | None = None
    separator: str | None = None
    split: str = ""
    identity: Identity = "tool"


def load_tool_queries(
    source: Any,
    format: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    separator: str | None = None,
    split: str = "",
    identity: Identity = "tool",
    merge: bool | None = None,
    on_error: OnError = "raise",
) -> ToolQueryList:
    """Read labelled queries.

    The format is found from the content; ``format`` names one of :data:`QUERY_FORMATS`.

    Args:
        source: A file (plain or gzip), a folder of such files (read in name order), parsed rows, or a
            ``datasets.Dataset``.
        format: The format; ``None`` finds it.
        columns: For tables: query field (``text``, ``tools``, ``id``, ``split``) -> column. Without it, usual names are
            known (``query``, ``question``, ``tools``, ``tool``, ...). Columns that are not mapped become metadata.
        separator: For tables: what stands between the tools of a cell, for example ``";"``. ``None``: a text cell is
            one tool name, or a JSON list. Blanks around separated names go.
        split: Split of queries whose source names none; for a folder, the file's name is taken.
        identity: For ToolBench: ids are ``tool/api`` (``"tool"``) or ``category/tool/api`` (``"category"``).
        merge: Whether queries of the same text and split become one with all their tools. ``None``: only for
            ``toolgen``, which has one conversation for each pair.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad rows out and counts them.

    Returns:
        The queries in source order, with ``report``. A query with an empty list of tools is kept: no tool fits.

    Raises:
        DataError: Nothing there, no format fits, or a bad row (no text, no label, not UTF-8); with file and line.
        AmbiguousSourceError: Several formats fit.
        ConfigError: An argument has a value that is not allowed.
    """
    if format is not None and format not in QUERY_FORMATS:
        raise ConfigError("format", format, f"one of {', '.join(QUERY_FORMATS)}")
    for key in columns or ():
        if key not in _COLUMN_NAMES:
            raise ConfigError(f"columns.{key}", (columns or {})[key], f"a query field: {list(_COLUMN_NAMES)}")
    if columns is not None or separator is not None:
        format = format or "table"
    log = ProblemLog(on_error)
    queries: list[ToolQuery] = []
    formats: Counter[str] = Counter()
    for opened, file_split in _sources(source):
        options = QueryOptions(columns, separator, split or file_split, identity)
        found = format or _find_format(opened)
        for query in _read(opened, found, options, log):
            formats[found] += 1
            queries.append(query)
    if not queries and not log.problems:
        path = source if isinstance(source, str | Path) else None
        raise DataError("expected at least one query, found none", path=path)
    if merge or (merge is None and set(formats) == {"toolgen"}):
        queries = merge_queries(queries)
    return ToolQueryList(queries, log.report(len(queries), what="queries", formats=formats))


def merge_queries(queries: Iterable[ToolQuery]) -> list[ToolQuery]:
    """Make one query of all that have the same split and, blanks at the edges apart, the same text.

    Returns:
        Queries in order of first occurrence, with text, id and metadata of the first and the tools of all.
    """
    first: dict[tuple[str, str], ToolQuery] = {}
    tools: dict[tuple[str, str], list[str]] = {}
    for query in queries:
        key = (query.split, query.text.strip())
        first.setdefault(key, query)
        tools.setdefault(key, []).extend(query.tools)
    return [
        ToolQuery(query.text, tuple(tools[key]), query.id, query.split, query.metadata) for key, query in first.items()
    ]


def _sources(source: Any) -> Iterator[tuple[Source, str]]:
    """Open the source; of a folder every file, with the file's name as split."""
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_dir():
            yield Source.open(path), ""
            return
        for file in sorted(item for item in path.iterdir() if item.is_file() and suffix_of(item) in _SUFFIXES):
            yield Source.open(file), file.name.split(".", 1)[0]
    elif isinstance(source, Mapping) or not isinstance(source, Iterable) or isinstance(source, bytes):
        raise DataError(f"expected a path, a list of rows or a dataset, got {type(source).__name__}")
    else:
        yield Source(list(source)), ""


def _find_format(source: Source) -> str:
    # Most rows decide, so that a bad row is reported as such and does not hide the format.
    fitting = [name for name in QUERY_FORMATS if 2 * sum(map(_FITS[name], source.sample)) > len(source.sample)]
    if len(fitting) > 1:
        raise AmbiguousSourceError(fitting, path=source.path)
    if not fitting:
        first = source.sample[0] if source.sample else None
        got = f"keys {sorted(map(str, first))}" if isinstance(first, Mapping) else type(first).__name__
        raise DataError(
            f"no query format fits ({', '.join(QUERY_FORMATS)}): got {got}; say which column is which field, as "
            'columns={"text": "...", "tools": "..."}',
            path=source.path,
        )
    return fitting[0]


def _read(source: Source, format: str, options: QueryOptions, log: ProblemLog) -> Iterator[ToolQuery]:
    parse = _PARSERS[format]
    for record in source.records():
        try:
            if record.error:
                raise DataError(record.error)
            yield parse(record.data, options)
        except DataError as error:
            log.add(_located(source, record, str(error)))


def _located(source: Source, record: Record, message: str) -> RowProblem:
    return RowProblem(source.path, source.line_of(record), message)


# --- tables -------------------------------------------------------------------------------------------------------


def _column(row: Mapping[str, Any], field_name: str, options: QueryOptions) -> str | None:
    """Find the column of a field: as mapped, else the one column with a usual name."""
    if options.columns is not None:
        return options.columns.get(field_name)
    found = [str(key) for key in row if str(key).lower() in _COLUMN_NAMES[field_name]]
    if len(found) > 1:
        raise DataError(f"columns {found} may each be the {field_name}; choose with columns={{{field_name!r}: ...}}")
    return found[0] if found else None


def _fits_table(row: Any) -> bool:
    if not isinstance(row, Mapping) or _fits_toolbench(row) or _fits_toolgen(row):
        return False
    names = {str(key).lower() for key in row}
    return bool(names & set(_COLUMN_NAMES["text"])) and bool(names & set(_COLUMN_NAMES["tools"]))


def _from_table(data: Any, options: QueryOptions) -> ToolQuery:
    row = expect_mapping(data)
    used = {name: _column(row, name, options) for name in _COLUMN_NAMES}
    for name in ("text", "tools"):
        if used[name] not in row:
            raise DataError(f"expected a column for the {name}, got columns {sorted(map(str, row))}")
    taken = set(used.values())
    return ToolQuery(
        text=text_of(row, str(used["text"])),
        tools=_tools_of_cell(row[str(used["tools"])], options.separator),
        id=_scalar(row.get(str(used["id"]))),
        split=_scalar(row.get(str(used["split"]))) or options.split,
        metadata={str(key): value for key, value in row.items() if key not in taken},
    )


def _tools_of_cell(cell: Any, separator: str | None) -> tuple[str, ...]:
    if isinstance(cell, str):
        if separator is not None:
            names: Any = [name.strip() for name in cell.split(separator) if name.strip()]
        elif cell.lstrip().startswith("["):
            try:
                names = json.loads(cell)
            except json.JSONDecodeError:
                names = [cell]  # a tool may be called "[beta] search"
        else:
            names = [cell]
    else:
        names = cell
    if not isinstance(names, list | tuple):
        raise DataError(f"expected the tools as a list or a text, got {type(names).__name__}")
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"expected names of tools, got {name!r:.80}")
    return tuple(names)


def _scalar(value: Any) -> str:
    return "" if value is None else str(value)


# --- ToolBench ----------------------------------------------------------------------------------------------------


def _fits_toolbench(row: Any) -> bool:
    return isinstance(row, Mapping) and "query" in row and (_RELEVANT in row or _GOLD in row)


def _from_toolbench(data: Any, options: QueryOptions) -> ToolQuery:
    row = expect_mapping(data)
    if _RELEVANT not in row and _GOLD not in row:
        raise DataError(f"expected labels under {_RELEVANT!r} or {_GOLD!r}, got keys {sorted(map(str, row))}")
    labels = row[_RELEVANT] if _RELEVANT in row else row[_GOLD]
    if not isinstance(labels, list | tuple):
        raise DataError(f"expected a list of labels, got {type(labels).__name__}")
    categories = _listed_categories(row)
    tools = tuple(_label_id(label, categories, options.identity) for label in labels)
    metadata = {"final_answer": row["final_answer"]} if "final_answer" in row else {}
    return ToolQuery(text_of(row, "query"), tools, _scalar(row.get("query_id")), options.split, metadata)


def _listed_categories(row: Mapping[str, Any]) -> dict[tuple[str, str], list[str]]:
    categories: dict[tuple[str, str], list[str]] = {}
    for api in row.get("api_list") or ():
        if isinstance(api, Mapping):
            key = (str(api.get("tool_name")), str(api.get("api_name")))
            categories.setdefault(key, []).append(str(api.get("category_name") or ""))
    return categories


def _label_id(label: Any, categories: Mapping[tuple[str, str], list[str]], identity: Identity) -> str:
    if isinstance(label, Mapping):
        tool, api, category = (label.get(key) for key in ("tool_name", "api_name", "category_name"))
    elif isinstance(label, list | tuple) and len(label) == 2:
        (tool, api), category = label, None
    else:
        raise DataError(f"expected a label [tool, API] or an object with tool_name and api_name, got {label!r:.80}")
    if not isinstance(tool, str) or not isinstance(api, str) or not api.strip():
        raise DataError(f"expected a label with names of tool and API, got {label!r:.80}")
    if identity == "category" and not category:
        found = sorted(set(categories.get((tool, api), ())))
        if len(found) != 1:
            raise DataError(f"label {[tool, api]}: expected its category in api_list, got {found or 'none'}")
        category = found[0]
    return toolbench_id(tool, api, category or "", identity=identity)


# --- ToolGen ------------------------------------------------------------------------------------------------------


def _fits_toolgen(row: Any) -> bool:
    return isinstance(row, Mapping) and isinstance(row.get("conversations"), list | tuple)


def _from_toolgen(data: Any, options: QueryOptions) -> ToolQuery:
    row = expect_mapping(data)
    turns = row.get("conversations")
    if not isinstance(turns, list | tuple):
        raise DataError(f"expected a list under 'conversations', got {type(turns).__name__}")
    asked: list[str] = []
    tools: list[str] = []
    for number, turn in enumerate(turns, 1):
        role, content = _turn(turn, number)
        if role in _USER_ROLES:
            asked.append(content)
        elif role in _ASSISTANT_ROLES and _is_trained(turn):
            tool, api = parse_virtual_token(content.strip("\r\n"))
            if api != FINISH or tool:
                tools.append(toolbench_id(tool, api))
    if len(asked) != 1 or not tools:
        raise DataError(f"expected one user turn and its tools, got {len(asked)} user turns and {len(tools)} tools")
    return ToolQuery(asked[0], tuple(tools), _scalar(row.get("id")), options.split)


def _turn(turn: Any, number: int) -> tuple[str, str]:
    turn = expect_mapping(turn)
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if not isinstance(role, str) or not isinstance(content, str):
        raise DataError(f"turn {number}: expected role and content as text, got keys {sorted(map(str, turn))}")
    return role.lower(), content


def _is_trained(turn: Mapping[str, Any]) -> bool:
    """Say whether a turn carries loss; turns that say nothing of it do."""
    return turn.get("loss") is not False


_FITS: Mapping[str, Callable[[Any], bool]] = {
    "table": _fits_table,
    "toolbench": _fits_toolbench,
    "toolgen": _fits_toolgen,
}
_PARSERS: Mapping[str, Callable[[Any, QueryOptions], ToolQuery]] = {
    "table": _from_table,
    "toolbench": _from_toolbench,
    "toolgen": _from_toolgen,
}
