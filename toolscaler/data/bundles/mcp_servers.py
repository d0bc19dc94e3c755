"""Tools of MCP servers: LiveMCPBench, with tasks, and the crawl that Toucan was made from, without."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from toolscaler.data.bundles.base import ToolBundle, find_file, read_objects, unique_documents
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.schema import check_arguments_schema, normalize_schema, parameters_schema
from toolscaler.errors import ConfigError, DataError

_LISTED = re.compile(r"^\s*\d+[.)]\s*(.+?)\s*$")
_PAGE_NOISE = "Deploy Server"
_PSEUDO_TOOL = "Optional Settings"


def load_livemcpbench(
    folder: Path, *, ambiguous: Literal["server", "all", "drop"] = "server", toucan: str | Path | None = None
) -> ToolBundle:
    """Load LiveMCPBench.

    Ids are ``server/tool``, by the server's name in ``tools.json``. Tasks name tools without their server, and some
    names are offered by several. Metadata: ``category``, ``steps``, ``unresolved`` (named tools that do not exist) and
    ``ambiguous`` (name -> all candidates). A query none of whose tools exists is dropped and counted.

    Args:
        folder: Holds ``tools.json`` and ``all_annotations.json``.
        ambiguous: What a name of several servers means. ``"server"``: the tool of the server that offers another,
            clear tool of the same task, if there is exactly one such server, else all candidates; ``"all"``: always all
            candidates; ``"drop"``: nothing.
        toucan: Folder of the tools behind Toucan, relative to ``folder``; they join the catalogue as tools that no task
            names. Tools with name and description of one of LiveMCPBench's are left out: they would be as right.

    Raises:
        ConfigError: ``ambiguous`` is none of these.
        DataError: A file is missing or cannot be read.
    """
    if ambiguous not in ("server", "all", "drop"):
        raise ConfigError("ambiguous", ambiguous, "'server', 'all' or 'drop'")
    documents = [
        _tool_of_server(server, tool)
        for server in read_objects(find_file(folder, "tools.json"), "name", "tools")
        for listing in server["tools"].values()
        for tool in listing["tools"]
    ]
    by_name: dict[str, list[ToolDocument]] = defaultdict(list)
    for document in documents:
        by_name[document.name].append(document)
    counts = dict.fromkeys(
        (
            "unresolved labels",
            "ambiguous labels",
            "ambiguous labels settled by server",
            "queries without labels dropped",
        ),
        0,
    )
    queries = []
    for row in read_objects(find_file(folder, "all_annotations.json"), "task_id", "Question", "Annotator Metadata"):
        query = _task(row, by_name, ambiguous, counts)
        if query is not None:
            queries.append(query)
    if toucan is not None:
        others, merged = _others(folder / toucan, documents)
        return ToolBundle("livemcpbench", [*documents, *others], queries, {**counts, **merged})
    return ToolBundle("livemcpbench", documents, queries, counts)


def _others(folder: Path, documents: list[ToolDocument]) -> tuple[list[ToolDocument], dict[str, int]]:
    """Give Toucan's tools that are not among ``documents``; a taken id gets a suffix, as equal ids do."""
    found = load_toucan_mcp(folder)
    same = {_said(document) for document in documents}
    others = [document for document in found.documents if _said(document) not in same]
    taken = {document.id for document in documents}
    others = [
        dataclasses.replace(document, id=f"{document.id}#{document.content_hash[:8]}")
        if document.id in taken
        else document
        for document in others
    ]
    left_out = len(found.documents) - len(others)
    return others, {"tools of Toucan": len(others), "tools of Toucan left out as the same": left_out}


def _said(document: ToolDocument) -> tuple[str, str]:
    return document.name, " ".join(document.description.split())


def _tool_of_server(server: dict[str, Any], tool: dict[str, Any]) -> ToolDocument:
    output = tool.get("outputSchema")
    return ToolDocument(
        name=tool["name"],
        description=tool.get("description") or "",
        provider=server["name"],
        category=server.get("category") or "",
        parameters=normalize_schema(tool.get("inputSchema")),
        returns=normalize_schema(output) if output else None,
    )


def _task(
    row: dict[str, Any], by_name: dict[str, list[ToolDocument]], ambiguous: str, counts: dict[str, int]
) -> ToolQuery | None:
    details = row["Annotator Metadata"]
    names = [match.group(1) for line in details["Tools"].splitlines() if (match := _LISTED.match(line))]
    clear_servers = {by_name[name][0].provider for name in names if len(by_name.get(name, ())) == 1}
    tools: list[str] = []
    unresolved: list[str] = []
    candidates: dict[str, list[str]] = {}
    for name in names:
        found = by_name.get(name, [])
        if not found:
            unresolved.append(name)
        elif len(found) > 1:
            candidates[name] = [document.id for document in found]
            here = [document for document in found if document.provider in clear_servers]
            settled = ambiguous == "server" and len(here) == 1
            counts["ambiguous labels settled by server"] += settled
            found = here if settled else [] if ambiguous == "drop" else found
        tools += [document.id for document in found]
    counts["unresolved labels"] += len(unresolved)
    counts["ambiguous labels"] += len(candidates)
    if not tools:
        counts["queries without labels dropped"] += 1
        return None
    metadata = {
        "category": row.get("category", ""),
        "steps": details.get("Steps", ""),
        "unresolved": unresolved,
        "ambiguous": candidates,
    }
    return ToolQuery(row["Question"].strip(), tuple(tools), row["task_id"], "test", metadata)


def load_toucan_mcp(folder: Path) -> ToolBundle:
    """Load the tools of the MCP servers behind Toucan. There are no queries.

    A server's answer to ``tools/list`` counts; only where there is none, its crawled page does. Provider is the
    server's name, category its primary label. Servers and their forks share names: repeats of a document are merged,
    tools of the same server and name with other documents get a suffix (``server/search#1a2b3c4d``).

    Args:
        folder: Holds ``mcp_servers.jsonl.gz``, one server a line.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    counts = dict.fromkeys(
        (
            *("servers", "tools", "live tools", "crawled tools", "pseudo tools dropped"),
            *("tools with an invalid schema dropped", "descriptions of page noise emptied"),
        ),
        0,
    )
    documents: list[ToolDocument] = []
    for row in read_objects(find_file(folder, "mcp_servers.jsonl"), "labels", "metadata"):
        counts["servers"] += 1
        documents += _server_documents(row, counts)
    unique, _, merged = unique_documents(documents)
    notes = (
        f"a crawled description that starts with {_PAGE_NOISE!r} is the page around it: emptied",
        f"crawled tools called {_PSEUDO_TOOL!r} are a part of the page: dropped",
    )
    return ToolBundle("toucan-mcp", unique, [], {**counts, **merged}, notes)


def _server_documents(row: dict[str, Any], counts: dict[str, int]) -> Iterator[ToolDocument]:
    metadata = row["metadata"]
    server, category = metadata.get("server_name") or "", row["labels"].get("primary_label") or ""
    live = (metadata.get("remote_server_response") or {}).get("tools") or []
    tools = live or (metadata.get("server_info_crawled") or {}).get("tools") or []
    counts["tools"] += len(tools)
    counts["live tools" if live else "crawled tools"] += len(tools)
    for tool in tools:
        description = tool.get("description") or ""
        if not live and tool["name"] == _PSEUDO_TOOL:
            counts["pseudo tools dropped"] += 1
            continue
        if not live and description.startswith(_PAGE_NOISE):
            counts["descriptions of page noise emptied"] += 1
            description = ""
        try:
            parameters = parameters_schema(tool.get("input_schema") if live else tool.get("parameters"))
            check_arguments_schema(parameters)
        except DataError:
            counts["tools with an invalid schema dropped"] += 1
            continue
        yield ToolDocument(tool["name"], description, provider=server, category=category, parameters=parameters)
