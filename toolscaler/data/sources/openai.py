"""OpenAI function schemas: wrapped (``{"type": "function", "function": {...}}``) or bare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from toolscaler.data.documents import ToolDocument
from toolscaler.data.schema import check_arguments_schema, check_schema
from toolscaler.data.sources.base import ReadOptions, SourceReader, expect_mapping, expect_name, text_of
from toolscaler.data.sources.opening import Record, Source
from toolscaler.errors import DataError

#: Keys of a bare function schema; ``response`` is what some collections call the schema of the result.
_BARE_KEYS = frozenset({"name", "description", "parameters", "strict", "response", "type"})
_CONTAINERS = ("tools", "functions")


class OpenAIReader(SourceReader):
    """Function schemas as in the ``tools`` (or older ``functions``) of a chat request.

    A source is one schema, a list or lines of them, or an object that holds a list under ``tools`` or ``functions``.
    Schemas are taken as they are and must be valid JSON Schema.
    """

    name = "openai"
    summary = "OpenAI function schemas"

    def sniff(self, source: Source) -> bool:
        """Say whether a record of the sample is a function schema."""
        if source.kind in ("csv", "tsv", "text"):
            return False
        sample = (Record(data) for data in source.sample)
        return any(_is_function(record.data) for outer in sample for record in _unwrapped(outer))

    def records(self, source: Source, options: ReadOptions) -> Iterator[Record]:
        """Yield one record a function; lists under ``tools`` and ``functions`` are opened."""
        for record in source.records():
            yield from _unwrapped(record)

    def document(self, record: Record, options: ReadOptions) -> ToolDocument:
        """Make the document of one function schema.

        Raises:
            DataError: No name, or a schema that is no valid JSON Schema of an object.
        """
        data = expect_mapping(record.data)
        if "function" in data:
            data = expect_mapping(data["function"])
        elif data.get("type", "function") != "function":
            raise DataError(f"expected a tool of type 'function', got {data['type']!r}")
        name = expect_name(data)
        parameters = data.get("parameters") or {}
        check_arguments_schema(parameters)
        returns = data.get("response")
        if returns is not None:
            check_schema(returns, "response")
        return ToolDocument(
            name=name,
            description=text_of(data, "description"),
            provider=options.provider,
            category=options.category,
            parameters=parameters,
            returns=returns,
        )


def _is_function(data: Any) -> bool:
    if not isinstance(data, Mapping):
        return False
    if data.get("type") == "function":
        return isinstance(data.get("function"), Mapping) or "name" in data
    return "parameters" in data and set(data) <= _BARE_KEYS


def _unwrapped(record: Record) -> Iterator[Record]:
    data = record.data
    if isinstance(data, Mapping) and "name" not in data:
        for key in _CONTAINERS:
            if isinstance(data.get(key), list):
                for index, item in enumerate(data[key]):
                    yield Record(item, record.line, (*record.pointer, key, index))
                return
    yield record
