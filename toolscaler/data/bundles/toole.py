"""ToolE (MetaTool): ChatGPT plugins and what users ask of them."""

from __future__ import annotations

from pathlib import Path

from toolscaler.data.bundles.base import ToolBundle, find_file, read_mapping, read_objects
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.query_files import merge_queries
from toolscaler.errors import ConfigError, DataError

_QUERIES, _MULTI, _DOCUMENTS = "all_clean_data.csv", "multi_tool_query_golden.json", "plugin_des.json"


def load_toole(folder: Path, *, include_multi: bool = False) -> ToolBundle:
    """Load ToolE from its ``dataset`` folder.

    Queries have the split ``single``, and ``multi`` for those of ``multi_tool_query_golden.json``; upstream has no
    train and test part. Rows whose texts differ in nothing but blanks at the edges are one query with all its tools.

    Args:
        folder: Holds ``all_clean_data.csv`` and ``plugin_des.json``.
        include_multi: Whether to add the queries that need two tools.

    Raises:
        ConfigError: ``include_multi`` is no truth value.
        DataError: A file is missing or cannot be read.
    """
    if not isinstance(include_multi, bool):
        raise ConfigError("include_multi", include_multi, "true or false")
    described = read_mapping(find_file(folder, _DOCUMENTS))
    documents = [ToolDocument(name, description) for name, description in described.items()]
    path = find_file(folder, _QUERIES)
    rows = read_objects(path, "Query", "Tool")
    pairs = dict.fromkeys((row["Query"].strip(), row["Tool"]) for row in rows)
    single = merge_queries(ToolQuery(text, (tool,), split="single") for text, tool in pairs)
    queries = [
        ToolQuery(query.text, query.tools, f"single-{number}", query.split) for number, query in enumerate(single)
    ]
    if include_multi:
        queries += _multi_queries(find_file(folder, _MULTI))
    counts = {
        "rows": len(rows),
        "repeated rows merged": len(rows) - len(pairs),
        "rows of another tool merged": len(pairs) - len(single),
    }
    return ToolBundle("toole", documents, queries, counts)


def _multi_queries(path: Path) -> list[ToolQuery]:
    queries = []
    for number, row in enumerate(read_objects(path, "query", "tool")):
        if not isinstance(row["tool"], list):
            raise DataError(f"record {number + 1}: expected a list under 'tool'", path=path)
        queries.append(ToolQuery(row["query"].strip(), tuple(row["tool"]), f"multi-{number}", "multi"))
    return queries
