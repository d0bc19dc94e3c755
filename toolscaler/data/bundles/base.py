"""What every bundle shares: the bundle itself, its files, and ids that are unique."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.sources.opening import Source
from toolscaler.errors import DataError, UnknownToolError

_HASH_LENGTH = 8


@dataclass(frozen=True)
class ToolBundle:
    """A public data set.

    Attributes:
        name: Name of the data set.
        documents: Its tools, each id once.
        queries: Its queries; every label is the id of a document.
        counts: What was read, dropped, merged, added or not resolved: what -> how often. Zero where it may happen and
            did not.
        notes: Decisions of the loader that change numbers, in words.

    Raises:
        DataError: An id occurs twice.
        UnknownToolError: A label is no id.
    """

    name: str
    documents: list[ToolDocument]
    queries: list[ToolQuery]
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ids: set[str] = set()
        for document in self.documents:
            if document.id in ids:
                raise DataError(f"{self.name}: expected each id once, got {document.id!r} twice")
            ids.add(document.id)
        for query in self.queries:
            for tool in query.tools:
                if tool not in ids:
                    raise UnknownToolError(tool, ids)

    def split(self, name: str) -> list[ToolQuery]:
        """Give the queries of one split of the source.

        Raises:
            DataError: No query has that split; the error names the splits there are.
        """
        found = [query for query in self.queries if query.split == name]
        if not found:
            raise DataError(f"{self.name}: expected one of the splits {list(self.split_sizes())}, got {name!r}")
        return found

    def split_sizes(self) -> dict[str, int]:
        """Give the number of queries of each split, in order of first occurrence."""
        sizes: dict[str, int] = {}
        for query in self.queries:
            sizes[query.split] = sizes.get(query.split, 0) + 1
        return sizes


def find_file(folder: Path, name: str) -> Path:
    """Give the file, plain or gzipped.

    Raises:
        DataError: It is missing; the error names it.
    """
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataError("expected this file of the data set (or the same with .gz), found none", path=folder / name)


def read_records(path: Path) -> Iterator[Any]:
    """Yield the records of a JSON, JSON lines or CSV file.

    Raises:
        DataError: A record cannot be parsed; with file and line.
    """
    source = Source.open(path)
    for record in source.records():
        if record.error:
            raise DataError(record.error, path=path, line=source.line_of(record))
        yield record.data


def read_objects(path: Path, *keys: str) -> list[dict[str, Any]]:
    """Give the records of a file, each an object with at least these keys.

    Raises:
        DataError: A record is no object or lacks a key; with file and number of the record.
    """
    rows = []
    for number, row in enumerate(read_records(path), 1):
        if not isinstance(row, dict):
            raise DataError(f"record {number}: expected an object, got {type(row).__name__}", path=path)
        missing = [key for key in keys if key not in row]
        if missing:
            raise DataError(f"record {number}: expected keys {list(keys)}, got none of {missing}", path=path)
        rows.append(row)
    return rows


def read_mapping(path: Path) -> dict[str, Any]:
    """Give the object that a JSON file holds.

    Raises:
        DataError: It holds something else.
    """
    value = Source.open(path).value
    if not isinstance(value, dict):
        raise DataError(f"expected one JSON object, got {type(value).__name__}", path=path)
    return value


def unique_documents(documents: Iterable[ToolDocument]) -> tuple[list[ToolDocument], dict[str, str], dict[str, int]]:
    """Make ids unique where a name stands for several documents.

    Repeats of the same document go. Where one id is left with several documents, each gets the start of its content
    hash: ``search#1a2b3c4d``; so an id depends on the documents that share its name, not on their order.

    Returns:
        The documents in order of first occurrence; content hash as given -> final id; counts of repeats and of
        documents with a suffix.
    """
    by_id: dict[str, dict[str, ToolDocument]] = defaultdict(dict)
    order: dict[str, ToolDocument] = {}
    repeats = 0
    for document in documents:
        key = document.content_hash
        repeats += key in order
        order.setdefault(key, document)
        by_id[document.id][key] = document
    final: dict[str, str] = {}
    for id_, same in by_id.items():
        length = _HASH_LENGTH
        while len({key[:length] for key in same}) < len(same):
            length += 1
        final.update({key: id_ if len(same) == 1 else f"{id_}#{key[:length]}" for key in same})
    result = [
        document if final[key] == document.id else dataclasses.replace(document, id=final[key])
        for key, document in order.items()
    ]
    suffixed = sum(len(same) for same in by_id.values() if len(same) > 1)
    return result, final, {"repeated documents merged": repeats, "documents with a suffix": suffixed}
