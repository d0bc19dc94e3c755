"""What every reader of tool documents shares: the reader's interface, row problems and their report."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.opening import Record, Source
from toolscaler.errors import ConfigError, DataError

_logger = logging.getLogger(__name__)

#: What happens to a bad row: stop with a :class:`~toolscaler.errors.DataError`, or leave it out and count it.
OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class RowProblem:
    """One row that could not become a tool (or query).

    Attributes:
        path: The file; ``None`` for data in memory.
        line: 1-based line in the file, or 1-based number of the record in memory; ``None`` where neither applies.
        message: What was expected and what came.
    """

    path: Path | None
    line: int | None
    message: str

    def __str__(self) -> str:
        return str(self.error())

    def error(self) -> DataError:
        """Give the problem as an error."""
        if self.path is None and self.line is not None:
            return DataError(f"record {self.line}: {self.message}", line=self.line)
        return DataError(self.message, path=self.path, line=self.line)


@dataclass(frozen=True)
class ReadReport:
    """What became of a source.

    Attributes:
        read: Rows that were kept.
        skipped: Rows that were left out, the number of ``problems``.
        problems: The reason for each row that was left out.
        formats: Rows kept by each format.
    """

    read: int = 0
    skipped: int = 0
    problems: tuple[RowProblem, ...] = ()
    formats: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.read} read, {self.skipped} skipped"


class ToolDocumentList(list[ToolDocument]):
    """A list of tool documents with the report of how it was read.

    Args:
        documents: The documents.
        report: How they were read; default: all of them, nothing skipped.

    Attributes:
        report: How they were read. Slices and copies are plain lists.
    """

    def __init__(self, documents: Iterable[ToolDocument] = (), report: ReadReport | None = None) -> None:
        super().__init__(documents)
        self.report = ReadReport(read=len(self)) if report is None else report

    def __reduce__(self) -> tuple[Any, ...]:
        return (ToolDocumentList, (list(self), self.report))


class ProblemLog:
    """Take row problems as the caller asked: raise the first one, or count them all.

    Args:
        on_error: ``"raise"`` or ``"skip"``.

    Raises:
        ConfigError: ``on_error`` is neither.
    """

    def __init__(self, on_error: str = "raise") -> None:
        if on_error not in ("raise", "skip"):
            raise ConfigError("on_error", on_error, "'raise' or 'skip'")
        self._skip = on_error == "skip"
        self.problems: list[RowProblem] = []

    def add(self, problem: RowProblem) -> None:
        """Take one problem.

        Raises:
            DataError: The caller asked for an error at the first bad row.
        """
        if not self._skip:
            raise problem.error()
        self.problems.append(problem)

    def report(self, read: int, *, what: str = "tools", formats: Mapping[str, int] | None = None) -> ReadReport:
        """Close the log: one line to the logger if rows were left out, and the report."""
        result = ReadReport(read, len(self.problems), tuple(self.problems), dict(formats or {}))
        if self.problems:
            _logger.warning("%s %s; the first skipped row: %s", result, what, self.problems[0])
        return result


@dataclass(frozen=True)
class ReadOptions:
    """What a caller tells a reader.

    Attributes:
        columns: Document field -> column of the source, for readers of plain rows; ``None``: columns named as fields.
        provider: Provider of tools whose source names none.
        category: Category of tools whose source names none.
    """

    columns: Mapping[str, str] | None = None
    provider: str = ""
    category: str = ""


class SourceReader(ABC):
    """Reads one format. A reader is stateless; it is registered by name in :mod:`toolscaler.data.sources.registry`.

    A subclass says how to recognise the format (:meth:`sniff`), which records of a source are tools
    (:meth:`records`) and what document a record becomes (:meth:`document`).

    Attributes:
        name: Name of the format, as in ``format="openai"``.
        summary: The format in a few words, for error messages and documentation.
    """

    name: str = ""
    summary: str = ""

    @abstractmethod
    def sniff(self, source: Source) -> bool:
        """Say whether the source looks like this format; be strict, since two readers that fit are an error."""

    def records(self, source: Source, options: ReadOptions) -> Iterator[Record]:
        """Yield one record a tool. Default: the source's own records.

        Raises:
            DataError: The source as a whole cannot be read.
        """
        return source.records()

    @abstractmethod
    def document(self, record: Record, options: ReadOptions) -> ToolDocument:
        """Make the document of one record.

        Raises:
            DataError: The record is no tool; the message says what was expected. File and line are added outside.
        """

    def read(self, source: Source, options: ReadOptions | None = None) -> Iterator[tuple[Record, ToolDocument | str]]:
        """Yield each record with its document, or with what is wrong with it.

        Raises:
            DataError: The source as a whole cannot be read.
        """
        options = options or ReadOptions()
        for record in self.records(source, options):
            if record.error:
                yield record, record.error
                continue
            try:
                yield record, self.document(record, options)
            except DataError as error:
                yield record, error.message


def expect_mapping(data: Any) -> Mapping[str, Any]:
    """Give ``data`` back as a mapping.

    Raises:
        DataError: It is none.
    """
    if not isinstance(data, Mapping):
        raise DataError(f"expected a JSON object, got {type(data).__name__}")
    return data


def expect_name(data: Mapping[str, Any], key: str = "name") -> str:
    """Give the name under ``key``.

    Raises:
        DataError: It is missing, empty or no text.
    """
    name = data.get(key)
    if name is None or (isinstance(name, str) and not name.strip()):
        raise DataError(f"expected a name under {key!r}, got nothing")
    if not isinstance(name, str):
        raise DataError(f"expected a name under {key!r}, got {type(name).__name__}")
    return name


def text_of(data: Mapping[str, Any], key: str) -> str:
    """Give the text under ``key``; missing and null are empty text.

    Raises:
        DataError: The value is no text.
    """
    value = data.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"expected text under {key!r}, got {type(value).__name__}")
    return value
