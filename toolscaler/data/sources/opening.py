"""Open a tool source once: text (plain or gzip) in, located records out.

A :class:`Source` knows where each record stands in its file, so that a bad row is reported with file and line. Line
numbers inside JSON and YAML documents are worked out only when a problem is reported.
"""

from __future__ import annotations

import bisect
import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from toolscaler.errors import DataError

#: How a source is written: one JSON value, one JSON value a line, YAML, a table, other text, or objects in memory.
SourceKind = Literal["json", "jsonl", "yaml", "csv", "tsv", "text", "object"]

_KIND_OF_SUFFIX: dict[str, SourceKind] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
}


@dataclass(frozen=True)
class Record:
    """One record of a source, not yet understood: usually one tool.

    Attributes:
        data: The parsed record; ``None`` where it could not be parsed.
        line: 1-based line in the file, where that is known without searching.
        pointer: Keys and indices that lead to the record inside a JSON or YAML document.
        error: Why the record could not be parsed; empty where it could.
        context: What the reader knows from around the record, for example the server of an MCP listing.
    """

    data: Any
    line: int | None = None
    pointer: tuple[str | int, ...] = ()
    error: str = ""
    context: Mapping[str, Any] | None = None


class _YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML without dates: a tool document is JSON data, where a date is text."""


_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_bytes(path: str | Path) -> bytes:
    """Read a file, unpacking gzip where the content (not the name) says so.

    Raises:
        DataError: The file is missing, cannot be read, or is damaged gzip.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError("expected a file here, found nothing", path=path) from error
    except OSError as error:
        raise DataError(f"cannot read the file: {error}", path=path) from error
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"expected gzip, got damaged data: {error}", path=path) from error


def read_text(path: str | Path) -> str:
    """Read UTF-8 text, plain or gzip; a byte-order mark is dropped.

    Raises:
        DataError: The file is missing or not UTF-8; the error names the line.
    """
    return _decode(read_bytes(path), path)


def _decode(data: bytes, path: str | Path | None) -> str:
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(_not_utf8(error), path=path, line=line) from error


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"expected UTF-8, got byte 0x{error.object[error.start]:02x} ({error.reason})"


def _not_json(error: json.JSONDecodeError) -> str:
    return f"expected JSON, got: {error.msg} at column {error.colno}"


def suffix_of(path: str | Path) -> str:
    """Give the lower-case suffix of a file name, ``.gz`` apart: ``tools.JSON.gz`` has ``.json``."""
    name = Path(path)
    return (Path(name.stem).suffix if name.suffix.lower() == ".gz" else name.suffix).lower()


class Source:
    """A tool source, opened: a file's text or objects in memory.

    Args:
        value: Parsed data, for a source in memory.
        path: The file, for a source on disk; ``None`` otherwise.
        data: The file's bytes, unpacked.
        kind: How it is written; worked out from the suffix and the content by :meth:`open`.

    Attributes:
        path: The file, or ``None``.
        kind: How it is written.
    """

    def __init__(
        self, value: Any = None, *, path: Path | None = None, data: bytes = b"", kind: SourceKind = "object"
    ) -> None:
        self.path = path
        self.kind = kind
        self._data = data
        self._given = value

    @classmethod
    def open(cls, path: str | Path) -> Source:
        """Open a file, plain or gzip. The content decides between JSON and JSON lines, whatever the suffix says.

        Raises:
            DataError: The file is missing or damaged, or it claims to be JSON or YAML and is not.
        """
        source = cls(path=Path(path), data=read_bytes(path))
        source.kind = _find_kind(source._data, suffix_of(path))
        return source

    @classmethod
    def open_text(cls, text: str, kind: SourceKind) -> Source:
        """Open text that is at hand; nothing is guessed.

        Args:
            text: The text.
            kind: How it is written.
        """
        return cls(data=text.encode("utf-8", "surrogatepass"), kind=kind)

    @cached_property
    def text(self) -> str:
        """The file's text.

        Raises:
            DataError: The file is not UTF-8.
        """
        return _decode(self._data, self.path)

    @cached_property
    def value(self) -> Any:
        """The parsed document of a JSON or YAML file, or the objects in memory; ``None`` for lines, tables and text.

        Raises:
            DataError: The text is not UTF-8, JSON or YAML.
        """
        if self.kind == "object":
            return self._given
        if self.kind == "json":
            return self._parse_json()
        if self.kind == "yaml":
            return self._parse_yaml()
        return None

    def _parse_json(self) -> Any:
        try:
            return json.loads(self.text)
        except json.JSONDecodeError as error:
            raise DataError(_not_json(error), path=self.path, line=error.lineno) from error
        except RecursionError as error:
            raise DataError("expected JSON, got too deep a nesting", path=self.path) from error

    def _parse_yaml(self) -> Any:
        try:
            return yaml.load(self.text, Loader=_YamlLoader)  # noqa: S506 - a child of SafeLoader
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or "not YAML"
            line = None if mark is None else mark.line + 1
            raise DataError(f"expected YAML, got: {problem}", path=self.path, line=line) from error
        except RecursionError as error:
            raise DataError("expected YAML, got too deep a nesting", path=self.path) from error

    def records(self) -> Iterator[Record]:
        """Yield the records in file order: the items of a list, the lines of JSON lines, the rows of a table.

        A JSON object, or an object in memory that is no list, is one record. A line that cannot be parsed comes as a
        record with :attr:`Record.error`. Rows of a table are dictionaries by the header; every value is text.
        """
        if self.kind == "jsonl":
            yield from self._json_lines()
        elif self.kind in ("csv", "tsv"):
            yield from self._table("," if self.kind == "csv" else "\t")
        elif self.kind == "text":
            for line, text, error in self._lines():
                yield Record(text, line, error=error)
        elif isinstance(self.value, list | tuple):
            for index, item in enumerate(self.value):
                yield Record(item, index + 1 if self.path is None else None, (index,))
        elif self.value is not None:
            yield Record(self.value)

    @cached_property
    def sample(self) -> tuple[Any, ...]:
        """The first 20 records that parse, for sniffing."""
        found: list[Any] = []
        for record in self.records():
            if not record.error:
                found.append(record.data)
            if len(found) == 20:
                break
        return tuple(found)

    def line_of(self, record: Record) -> int | None:
        """Give the 1-based line of a record in the file; ``None`` for what has no lines."""
        if record.line is not None:
            return record.line
        if self.kind == "json":
            return self._json_places.line(record.pointer)
        if self.kind == "yaml":
            return _yaml_line(self._yaml_node, record.pointer)
        return None

    @cached_property
    def _json_places(self) -> _JsonPlaces:
        return _JsonPlaces(self.text)

    @cached_property
    def _yaml_node(self) -> Any:
        return yaml.compose(self.text, Loader=_YamlLoader)

    def _lines(self) -> Iterator[tuple[int, str, str]]:
        """Yield number, text and decoding error of every line that is not blank."""
        for number, raw in enumerate(self._data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
            if not raw.strip():
                continue
            try:
                yield number, raw.decode("utf-8").rstrip("\r"), ""
            except UnicodeDecodeError as error:
                yield number, "", _not_utf8(error)

    def _json_lines(self) -> Iterator[Record]:
        for number, text, error in self._lines():
            if error:
                yield Record(None, number, error=error)
                continue
            try:
                yield Record(json.loads(text), number)
            except json.JSONDecodeError as broken:
                yield Record(None, number, error=_not_json(broken))
            except RecursionError:
                yield Record(None, number, error="expected JSON, got too deep a nesting")

    def _table(self, delimiter: str) -> Iterator[Record]:
        # Undecodable bytes travel as surrogates, so that one bad row does not cost the table.
        text = self._data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header: list[str] = []
        while True:
            start = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:  # the reader drops this row and goes on with the next line
                yield Record(None, start, error=f"expected a table row, got: {error}")
                continue
            if not row:
                continue
            if header:
                yield _table_record(header, row, start)
            else:
                header = _header(row, self.path, start)


def _header(row: list[str], path: Path | None, line: int) -> list[str]:
    names = [name.strip() for name in row]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise DataError(f"expected each column once in the header, got twice: {doubled}", path=path, line=line)
    return names


def _table_record(header: list[str], row: list[str], line: int) -> Record:
    try:
        "".join(row).encode("utf-8")
    except UnicodeEncodeError:
        return Record(None, line, error="expected UTF-8, got other bytes")
    if len(row) != len(header):
        return Record(None, line, error=f"expected {len(header)} fields as in the header, got {len(row)}")
    return Record(dict(zip(header, row, strict=True)), line)


def _find_kind(data: bytes, suffix: str) -> SourceKind:
    """Decide how a file is written; JSON and JSON lines are told apart by content."""
    stated = _KIND_OF_SUFFIX.get(suffix)
    if stated not in (None, "json", "jsonl"):
        return stated
    lines = [line.strip() for line in data.removeprefix(codecs.BOM_UTF8).split(b"\n") if line.strip()]
    if not lines:
        return stated or "text"
    if stated is None and lines[0][:1] not in (b"{", b"["):
        return "text"
    if len(lines) == 1:
        return stated or "json"
    # In JSON lines each line opens and closes its own value; a broken line or two must not hide that.
    whole = sum(line[:1] + line[-1:] in (b"{}", b"[]") for line in lines[:50])
    first_whole = _is_json(lines[0])
    if first_whole and len(lines[0]) > 2:
        return "jsonl"
    if whole * 2 > min(len(lines), 50) and not _is_json(data):
        return "jsonl"
    return "json" if stated != "jsonl" or _is_json(data) else "jsonl"


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return True


class _JsonPlaces:
    """Find where the values of a JSON text start. Each container is scanned once, and only when asked for."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._decode = json.JSONDecoder().raw_decode
        self._children: dict[int, dict[str | int, int]] = {}
        self._line_starts = [0]
        at = text.find("\n")
        while at >= 0:
            self._line_starts.append(at + 1)
            at = text.find("\n", at + 1)

    def line(self, pointer: tuple[str | int, ...]) -> int:
        """Give the 1-based line of the value at ``pointer``, or of the nearest value around it."""
        at = self._skip_blank(0)
        for key in pointer:
            children = self._children_of(at)
            if key not in children:
                break
            at = children[key]
        return bisect.bisect_right(self._line_starts, at)

    def _skip_blank(self, at: int) -> int:
        while at < len(self._text) and self._text[at] in " \t\r\n":
            at += 1
        return at

    def _children_of(self, start: int) -> dict[str | int, int]:
        if start in self._children:
            return self._children[start]
        found: dict[str | int, int] = {}
        is_object = self._text[start] == "{"
        if is_object or self._text[start] == "[":
            at = self._skip_blank(start + 1)
            while self._text[at] not in "]}":
                key: str | int = len(found)
                if is_object:
                    key, at = self._decode(self._text, at)
                    at = self._skip_blank(self._skip_blank(at) + 1)  # past the colon
                found[key] = at  # of repeated keys the last one counts, as in json.loads
                _, at = self._decode(self._text, at)
                at = self._skip_blank(at)
                if self._text[at] == ",":
                    at = self._skip_blank(at + 1)
        self._children[start] = found
        return found


def _yaml_line(node: Any, pointer: tuple[str | int, ...]) -> int:
    """Give the 1-based line of the value at ``pointer`` in a composed YAML document, or of the nearest around it."""
    line = 1 if node is None else node.start_mark.line + 1
    for wanted in pointer:
        if isinstance(node, yaml.SequenceNode) and isinstance(wanted, int):
            node = node.value[wanted]
            line = node.start_mark.line + 1
            continue
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        pairs = [(key, value) for key, value in pairs if key.value == str(wanted)]
        if not pairs:
            return line
        line, node = pairs[-1][0].start_mark.line + 1, pairs[-1][1]
    return line
