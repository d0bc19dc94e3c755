"""The front door of tool documents: find the reader, read, and report bad rows as the caller asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.base import OnError, ProblemLog, ReadOptions, RowProblem, SourceReader, ToolDocumentList
from toolscaler.data.sources.functions import documents_from_functions
from toolscaler.data.sources.opening import Record, Source, suffix_of
from toolscaler.data.sources.registry import find_reader, get_reader
from toolscaler.errors import DataError

_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson", ".yaml", ".yml", ".csv", ".tsv"})


def load_tool_documents(
    source: Any,
    format: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    on_error: OnError = "raise",
    provider: str | None = None,
    category: str | None = None,
) -> ToolDocumentList:
    """Read tool documents from any supported source.

    The reader is found from the content; ``format`` names one where several fit.

    Args:
        source: A file (plain or gzip), a folder of files (read in name order, subfolders too), parsed JSON (an object
            or a list of objects), a ``datasets.Dataset``, a callable, a module, or a list of callables.
        format: Name of the format, see :func:`~toolscaler.data.available_formats`; ``"functions"`` reads
            ``"module:attribute"`` or ``"module"``.
        columns: Document field -> column, for plain rows; implies ``format="table"``.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad rows out, counts them in the list's
            ``report`` and logs one line.
        provider: Provider of tools whose source names none.
        category: Category of tools whose source names none.

    Returns:
        The documents in source order, with ``report``.

    Raises:
        DataError: Nothing there, a bad row (missing name, invalid JSON Schema, not UTF-8, broken JSON, duplicate id),
            or no reader fits. The message has file and line.
        AmbiguousSourceError: Several readers fit.
        ConfigError: An argument has a value that is not allowed.
    """
    log = ProblemLog(on_error)
    options = ReadOptions(columns, provider or "", category or "")
    if columns is not None and format is None:
        format = "table"
    collected = _Collector(log)
    if format == "functions" or _is_code(source):
        functions = documents_from_functions(source, provider=options.provider, category=options.category)
        for number, document in enumerate(functions, 1):
            collected.add(document, Source(), Record(None, number), "functions")
    elif _is_folder(source):
        _read_folder(Path(source), format, options, collected, log, on_error)
    else:
        _read_one(_opened(source), format, options, collected, log)
    if not collected.documents and not log.problems:
        path = source if isinstance(source, str | Path) else None
        raise DataError("expected at least one tool, found none", path=path)
    return ToolDocumentList(collected.documents, log.report(len(collected.documents), formats=collected.formats))


def documents_from_dataset(
    dataset: Any, columns: Mapping[str, str] | None = None, *, on_error: OnError = "raise", **options: Any
) -> ToolDocumentList:
    """Read tool documents from a ``datasets.Dataset``, or from anything that yields rows as mappings.

    Args:
        dataset: The rows. Nulls that Arrow puts into nested columns are dropped.
        columns: Document field -> column; ``None``: columns are named as the fields.
        on_error: As in :func:`load_tool_documents`.
        **options: ``provider`` and ``category`` of :func:`load_tool_documents`.

    Raises:
        DataError: A bad row; the message has the row's number.
    """
    return load_tool_documents(_dataset_rows(dataset), "table", columns=columns, on_error=on_error, **options)


class _Collector:
    """Gather documents, each id once."""

    def __init__(self, log: ProblemLog) -> None:
        self.documents: list[ToolDocument] = []
        self.formats: Counter[str] = Counter()
        self._log = log
        self._seen: dict[str, tuple[str, Source, Record]] = {}

    def add(self, document: ToolDocument, source: Source, record: Record, format: str) -> None:
        earlier = self._seen.get(document.id)
        if earlier is None:
            self._seen[document.id] = (document.content_hash, source, record)
            self.documents.append(document)
            self.formats[format] += 1
            return
        content, first_source, first_record = earlier
        place = _place(first_source, first_record)
        what = f"the same document as {place}" if content == document.content_hash else f"another document is {place}"
        self._log.add(_problem(source, record, f"duplicate id {document.id!r}: {what}"))


def _place(source: Source, record: Record) -> str:
    line = source.line_of(record)
    if source.path is not None:
        return f"{source.path}:{line}" if line is not None else str(source.path)
    return f"record {line}" if line is not None else f"the one at {_pointer(record)}"


def _pointer(record: Record) -> str:
    return ".".join(map(str, record.pointer)) or "the top"


def _problem(source: Source, record: Record, message: str) -> RowProblem:
    line = source.line_of(record)
    if record.pointer and (line is None or source.path is None):
        message = f"at {_pointer(record)}: {message}"
    return RowProblem(source.path, line, message)


def _read_one(source: Source, format: str | None, options: ReadOptions, into: _Collector, log: ProblemLog) -> None:
    reader = _found_reader(source) if format is None else get_reader(format)
    for record, result in reader.read(source, options):
        if isinstance(result, ToolDocument):
            into.add(result, source, record, reader.name)
        else:
            log.add(_problem(source, record, result))


def _found_reader(source: Source) -> SourceReader:
    if not source.sample:
        for record in source.records():  # every record is broken: the format cannot be told
            raise DataError(record.error, path=source.path, line=source.line_of(record))
        raise DataError("expected at least one tool, found none", path=source.path)
    return find_reader(source)


def _read_folder(
    folder: Path, format: str | None, options: ReadOptions, into: _Collector, log: ProblemLog, on_error: str
) -> None:
    """Read every file of a folder; a file that cannot be read at all counts as one problem."""
    for path in _files(folder):
        try:
            _read_one(Source.open(path), format, options, into, log)
        except DataError as error:
            if on_error == "raise":
                raise
            log.add(RowProblem(path, error.line, error.message))


def _files(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if suffix_of(path) in _SUFFIXES and path.is_file()]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _is_code(source: Any) -> bool:
    if isinstance(source, ModuleType) or (callable(source) and not isinstance(source, Mapping)):
        return True
    return isinstance(source, list | tuple) and bool(source) and all(callable(item) for item in source)


def _is_folder(source: Any) -> bool:
    try:
        return isinstance(source, str | Path) and Path(source).is_dir()
    except (OSError, ValueError):  # a text that cannot be a path
        return False


def _opened(source: Any) -> Source:
    """Open anything but code and folders.

    Raises:
        DataError: It is nothing that can be read.
    """
    if isinstance(source, str | Path):
        return Source.open(source)
    if isinstance(source, Mapping) and source and all(_is_dataset(value) for value in source.values()):
        raise DataError(f"expected one split of the dataset, got {sorted(source)}; pass dataset[split]")
    if _is_dataset(source):
        return Source(_dataset_rows(source))
    if isinstance(source, Mapping | list | tuple):
        return Source(source)
    if isinstance(source, Iterable) and not isinstance(source, bytes):
        return Source(list(source))
    raise DataError(f"expected a path, parsed JSON, rows, a dataset or callables, got {type(source).__name__}")


def _is_dataset(value: Any) -> bool:
    return hasattr(value, "column_names") and hasattr(value, "features") and hasattr(value, "__iter__")


def _dataset_rows(dataset: Any) -> list[Any]:
    if isinstance(dataset, str | bytes) or not isinstance(dataset, Iterable):
        raise DataError(f"expected a dataset or rows, got {type(dataset).__name__}")
    return [_without_nulls(row) for row in dataset]


def _without_nulls(value: Any) -> Any:
    """Drop null keys: Arrow gives every row of a nested column all keys that any row has."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
