"""Rows without a schema of their own: saved documents, tables with a column mapping, name-to-description files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from toolscaler.data.documents import ToolDocument
from toolscaler.data.schema import check_arguments_schema, check_schema, parameters_schema, returns_schema
from toolscaler.data.sources.base import ReadOptions, SourceReader, expect_mapping, expect_name, text_of
from toolscaler.data.sources.opening import Record, Source
from toolscaler.errors import ConfigError, DataError

_FIELDS: tuple[str, ...] = tuple(item.name for item in fields(ToolDocument))
#: Fields that tell a saved document from a bare function schema.
_OWN_FIELDS = frozenset(_FIELDS) - {"name", "description", "parameters"}
#: Keys of other objects of texts: a document, a specification, the body of a failed request.
_NO_NAMES = frozenset({"name", "openapi", "swagger", "jsonrpc", "error", "message", "detail", "status"})
_TEXT_FIELDS = ("description", "provider", "category", "code", "id")


def _checked(document: ToolDocument, data: Mapping[str, Any]) -> ToolDocument:
    if data.get("parameters"):
        check_arguments_schema(data["parameters"])
    if data.get("returns") is not None:
        check_schema(data["returns"], "returns")
    return document


class DocumentsReader(SourceReader):
    """Tool documents as :meth:`~toolscaler.data.ToolDocument.to_dict` writes them; read back unchanged."""

    name = "documents"
    summary = "tool documents as saved by this library"

    def sniff(self, source: Source) -> bool:
        """Say whether a record of the sample is a document: a name, only fields, and one that no other format has.

        Names and descriptions alone are documents too, if no record says more.
        """
        if source.kind in ("csv", "tsv", "text"):
            return False
        named = [set(data) for data in source.sample if isinstance(data, Mapping) and "name" in data]
        if any(keys <= set(_FIELDS) and keys & _OWN_FIELDS for keys in named):
            return True
        return bool(named) and all(keys <= {"name", "description"} for keys in named)

    def document(self, record: Record, options: ReadOptions) -> ToolDocument:
        """Make the document of one record.

        Raises:
            DataError: An unknown key, no name, or a schema that is not valid.
        """
        data = dict(expect_mapping(record.data))
        expect_name(data)
        for key, value in (("provider", options.provider), ("category", options.category)):
            data[key] = data.get(key) or value
        return _checked(ToolDocument.from_dict(data), data)


class DescriptionsReader(SourceReader):
    """One JSON or YAML object from tool name to description."""

    name = "descriptions"
    summary = "an object from tool name to description"

    def sniff(self, source: Source) -> bool:
        """Say whether the source is one object of two texts or more, with no key of another format or of an error."""
        value = source.value
        if not isinstance(value, Mapping) or len(value) < 2 or _NO_NAMES & set(map(str, value)):
            return False
        return all(isinstance(item, str) for item in value.values())

    def records(self, source: Source, options: ReadOptions) -> Iterator[Record]:
        """Yield one record a name.

        Raises:
            DataError: The source is no object.
        """
        if not isinstance(source.value, Mapping):
            raise DataError("expected an object from tool name to description", path=source.path)
        for name, description in source.value.items():
            yield Record({"name": name, "description": description}, None, (name,))

    def document(self, record: Record, options: ReadOptions) -> ToolDocument:
        """Make the document of one name.

        Raises:
            DataError: The name is empty or the description is no text.
        """
        data = expect_mapping(record.data)
        return ToolDocument(expect_name(data), text_of(data, "description"), options.provider, options.category)


class TableReader(SourceReader):
    """CSV, TSV, JSON lines, lists of objects and datasets, by a column mapping.

    The mapping goes from document field to column: ``{"name": "api_name", "description": "api_description"}``; the
    extra key ``required`` names a column that lists the required arguments. Columns that are not mapped are left out.
    Without a mapping, columns must be named as the fields, and a column that is no field is an error.

    ``parameters`` may be a JSON Schema, an object from argument name to schema or type name, or a list of arguments;
    ``returns`` a JSON Schema or an object from name to schema; both may also be JSON text. Type names are normalised
    (:func:`toolscaler.data.schema.normalize_schema`). Empty text stays empty text.
    """

    name = "table"
    summary = "CSV, TSV or rows with columns=..."

    def sniff(self, source: Source) -> bool:
        """Say whether the source is a CSV or TSV file; other rows need the column mapping to be tables."""
        return source.kind in ("csv", "tsv")

    def records(self, source: Source, options: ReadOptions) -> Iterator[Record]:
        """Yield the rows, after the columns have been compared with the mapping.

        Raises:
            ConfigError: The mapping has a key that is no field.
            DataError: A column of the mapping is in no row, or, without a mapping, a column is no field.
        """
        columns = {str(key) for row in source.sample if isinstance(row, Mapping) for key in row}
        if options.columns is not None:
            for key in options.columns:
                if key not in (*_FIELDS, "required"):
                    raise ConfigError(f"columns.{key}", options.columns[key], f"a field: one of {list(_FIELDS)}")
            missing = sorted(set(options.columns.values()) - columns)
            if missing and columns:
                raise DataError(f"expected columns {missing}, got {sorted(columns)}", path=source.path)
        elif not columns <= {*_FIELDS, "required"}:
            unknown = sorted(columns - {*_FIELDS, "required"})
            hint = 'say which column is which field, as columns={"name": "...", ...}'
            raise DataError(f"columns {unknown} are no fields of a tool document; {hint}", path=source.path)
        return source.records()

    def document(self, record: Record, options: ReadOptions) -> ToolDocument:
        """Make the document of one row.

        Raises:
            DataError: No name, a value of the wrong type, or a schema that is not valid.
        """
        row = expect_mapping(record.data)
        mapping = options.columns or {key: key for key in (*_FIELDS, "required")}
        data = {key: row.get(column) for key, column in mapping.items()}
        name = expect_name(row, mapping.get("name", "name"))
        values: dict[str, Any] = {key: text_of(row, mapping[key]) for key in _TEXT_FIELDS if key in mapping}
        values["provider"] = values.get("provider") or options.provider
        values["category"] = values.get("category") or options.category
        required = _from_json(data.get("required"), "required")
        values["parameters"] = parameters_schema(_from_json(data.get("parameters"), "parameters"), required)
        values["returns"] = returns_schema(_from_json(data.get("returns"), "returns"))
        return _checked(ToolDocument(name=name, **values), values)


def _from_json(value: Any, what: str) -> Any:
    """Parse JSON text, as tables hold it; empty text is nothing."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{what}: expected JSON text, got {value!r:.80} ({error})") from error
