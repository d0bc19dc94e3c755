"""MCP tools: the result of ``tools/list``, as one page, several, or a listing of servers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from toolscaler.data.documents import ToolDocument
from toolscaler.data.schema import check_arguments_schema, check_schema
from toolscaler.data.sources.base import ReadOptions, SourceReader, expect_mapping, expect_name, text_of
from toolscaler.data.sources.opening import Record, Source
from toolscaler.errors import DataError

#: The protocol writes ``inputSchema``; Python SDKs dump ``input_schema``.
_INPUT_KEYS = ("inputSchema", "input_schema")
_OUTPUT_KEYS = ("outputSchema", "output_schema")

#: Where a document keeps what its server says of the tool: a keyword of the parameter schema.
ANNOTATIONS_KEY = "x-annotations"
#: The protocol's hints, and how Python SDKs dump them. All of them are claims.
HINTS = {
    "readOnlyHint": "read_only_hint",
    "destructiveHint": "destructive_hint",
    "idempotentHint": "idempotent_hint",
    "openWorldHint": "open_world_hint",
}


class MCPReader(SourceReader):
    """Tools of MCP servers.

    A source is a tool, a ``tools/list`` result, its JSON-RPC envelope, or a list (or lines) of these: the pages of
    one listing, or several servers. A server's name, given beside its tools as ``server_name``, ``serverInfo`` or as
    the key of a mapping of servers, becomes the provider; a ``category`` beside them becomes the category.

    A tool's hints (``annotations``: :data:`HINTS`) are kept in the parameter schema under :data:`ANNOTATIONS_KEY`, so
    that a document whose hints change is another one. They are the server's own word: nobody should act on them who
    does not trust it.
    """

    name = "mcp"
    summary = "MCP tools/list results"

    def sniff(self, source: Source) -> bool:
        """Say whether a record of the sample is an MCP tool, or an answer to ``tools/list``."""
        for data in source.sample:
            if isinstance(data, Mapping) and "jsonrpc" in data and ("error" in data or _is_listing(data.get("result"))):
                return True
            if any(_is_tool(record.data) for record in _tools(Record(data))):
                return True
        return False

    def records(self, source: Source, options: ReadOptions) -> Iterator[Record]:
        """Yield one record a tool, with the server and category it stands under as context."""
        for record in source.records():
            if record.error:
                yield record
            else:
                yield from _tools(record)

    def document(self, record: Record, options: ReadOptions) -> ToolDocument:
        """Make the document of one tool.

        Raises:
            DataError: No name, no input schema, or a schema that is not valid.
        """
        data = expect_mapping(record.data)
        context = record.context or {}
        name = expect_name(data)
        parameters = _first(data, _INPUT_KEYS)
        if parameters is None:
            raise DataError(f"expected the input schema of {name!r} under 'inputSchema', got keys {sorted(data)}")
        check_arguments_schema(parameters)
        returns = _first(data, _OUTPUT_KEYS)
        if returns is not None:
            check_schema(returns, "outputSchema")
        return ToolDocument(
            name=name,
            description=text_of(data, "description") or text_of(data, "title"),
            provider=context.get("server") or options.provider,
            category=context.get("category") or options.category,
            parameters=_with_hints(parameters, data.get("annotations")),
            returns=returns,
        )


def _first(data: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((data[key] for key in keys if data.get(key) is not None), None)


def _with_hints(parameters: Mapping[str, Any], annotations: Any) -> dict[str, Any]:
    """Put a tool's hints into its schema; what the schema itself has there is no hint of the protocol's."""
    given = annotations if isinstance(annotations, Mapping) else {}
    found = {name: given.get(name, given.get(other)) for name, other in HINTS.items()}
    hints = {name: value for name, value in found.items() if isinstance(value, bool)}
    schema = {key: value for key, value in parameters.items() if key != ANNOTATIONS_KEY}
    return {**schema, ANNOTATIONS_KEY: hints} if hints else schema


def _is_tool(data: Any) -> bool:
    return isinstance(data, Mapping) and any(key in data for key in _INPUT_KEYS)


def _is_listing(data: Any) -> bool:
    return isinstance(data, Mapping) and isinstance(data.get("tools"), list)


def _context(data: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    """Give the server and category that hold for the tools inside ``data``."""
    context = dict(outer)
    info = data.get("serverInfo")
    for name in (data.get("server_name"), info.get("name") if isinstance(info, Mapping) else None):
        if isinstance(name, str) and name:
            context["server"] = name
    if isinstance(data.get("category"), str) and data["category"]:
        context["category"] = data["category"]
    return context


def _tools(record: Record) -> Iterator[Record]:
    """Yield the tools inside a record: open envelopes, pages and servers, and leave anything else as it is."""
    data, context, line = record.data, record.context or {}, record.line
    if isinstance(data, list | tuple):
        for index, item in enumerate(data):
            yield from _tools(Record(item, line, (*record.pointer, index), context=context))
    elif not isinstance(data, Mapping) or _is_tool(data):
        yield record
    elif "jsonrpc" in data and "result" not in data:
        message = f"expected an answer to tools/list, got {sorted(data)}"
        error = data.get("error")
        if error is not None:
            message = f"expected an answer to tools/list, got the server's error {error!r:.200}"
        yield Record(None, line, record.pointer, message)
    elif isinstance(data.get("result"), Mapping):
        inner = Record(data["result"], line, (*record.pointer, "result"), context=_context(data, context))
        yield from _tools(inner)
    elif isinstance(data.get("tools"), list):
        inner = Record(data["tools"], line, (*record.pointer, "tools"), context=_context(data, context))
        yield from _tools(inner)
    elif isinstance(data.get("tools"), Mapping):
        around = _context(data, context)
        for server, item in data["tools"].items():
            here = {**around, "server": str(server)}
            yield from _tools(Record(item, line, (*record.pointer, "tools", server), context=here))
    else:
        yield record
