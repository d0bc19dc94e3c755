"""Named data sets: LiveMCPBench and Toucan; counts recomputed here from the raw files."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from support.bundles import check_bundle, put, read_json, read_lines
from toolscaler.data.bundles import load_bundle
from toolscaler.data.schema import check_arguments_schema
from toolscaler.errors import DataError

# --- livemcpbench ----------------------------------------------------------------------------------------------------


def _livemcpbench(folder):
    def server(name, *tools):
        listing = [
            {"name": tool, "description": "D.", "inputSchema": {"type": "object"}, "annotations": None}
            for tool in tools
        ]
        return {"name": name, "category": "Office", "tools": {name.lower(): {"server_name": "x", "tools": listing}}}

    def task(number, *tools):
        text = "\n".join(f"{place}. {tool}" for place, tool in enumerate(tools, 1))
        return {
            "task_id": f"t{number}",
            "Question": "Do it ",
            "category": "Office",
            "Annotator Metadata": {"Tools": text},
        }

    put(
        folder,
        "tools.json",
        [server("Files", "write", "read"), server("Word", "write", "open"), server("Web", "fetch")],
    )
    tasks = [
        task(0, "fetch", "write"),
        task(1, "open", "write"),
        task(2, "nothing"),
        task(3, "nothing", "read", "open", "write"),
    ]
    put(folder, "all_annotations.json", tasks)


def test_livemcpbench_small(tmp_path):
    _livemcpbench(tmp_path)
    both = ("Files/write", "Word/write")
    bundle = load_bundle("livemcpbench", tmp_path)
    assert [query.tools for query in bundle.queries] == [
        ("Web/fetch", *both),
        ("Word/open", "Word/write"),
        ("Files/read", "Word/open", *both),
    ]
    assert bundle.counts == {
        "unresolved labels": 2,
        "ambiguous labels": 3,
        "ambiguous labels settled by server": 1,
        "queries without labels dropped": 1,
    }
    assert bundle.queries[2].metadata["unresolved"] == ["nothing"]
    assert bundle.queries[0].metadata["ambiguous"] == {"write": list(both)}
    assert bundle.queries[0].text == "Do it"
    every = load_bundle("livemcpbench", tmp_path, ambiguous="all")
    assert [query.tools for query in every.queries][1] == ("Word/open", *both)
    none = load_bundle("livemcpbench", tmp_path, ambiguous="drop")
    assert [query.tools for query in none.queries] == [("Web/fetch",), ("Word/open",), ("Files/read", "Word/open")]


@pytest.mark.shared_data
def test_livemcpbench_real(shared_data):
    folder = shared_data / "livemcpbench"
    bundle = load_bundle("livemcpbench", folder)
    check_bundle(bundle)
    servers = read_json(folder / "tools.json")
    raw = [
        (server["name"], tool["name"])
        for server in servers
        for part in server["tools"].values()
        for tool in part["tools"]
    ]
    assert [(document.provider, document.name) for document in bundle.documents] == raw
    assert (len(raw), len({name for _, name in raw}), len(servers)) == (527, 510, 70)
    count = Counter(name for _, name in raw)
    assert sum(number > 1 for number in count.values()) == 13
    assert len({document.category for document in bundle.documents}) == 8
    unresolved = ambiguous = labels = kept = 0
    for row in read_json(folder / "all_annotations.json"):
        named = [
            line.split(". ", 1)[1].strip() for line in row["Annotator Metadata"]["Tools"].split("\n") if line.strip()
        ]
        labels += len(named)
        unresolved += sum(count[name] == 0 for name in named)
        ambiguous += sum(count[name] > 1 for name in named)
        kept += any(count[name] for name in named)
    assert labels / 48 == pytest.approx(2.96, abs=0.005)
    assert (bundle.counts["unresolved labels"], bundle.counts["ambiguous labels"]) == (unresolved, ambiguous) == (2, 10)
    assert len(bundle.queries) == kept == 47
    for document in bundle.documents:
        check_arguments_schema(document.to_dict()["parameters"])


# --- toucan-mcp ------------------------------------------------------------------------------------------------------


def _server(name, *, live=(), crawled=()):
    return {
        "labels": {"primary_label": "Weather"},
        "metadata": {
            "server_name": name,
            "remote_server_response": {"tools": list(live)},
            "server_info_crawled": {"tools": list(crawled)},
        },
    }


def test_toucan_small(tmp_path):
    live = {
        "name": "rain",
        "description": None,
        "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
    }
    page = [{"name": "at", "required": True, "type": "string"}, {"name": "days", "required": False, "type": "string"}]
    rows = [
        _server("Sky", live=[live], crawled=[{"name": "old", "description": "", "parameters": []}]),
        _server(
            "Sky",
            live=[
                live,
                {**live, "description": "Rain."},
                {"name": "bad", "input_schema": {"type": "thing", "properties": []}},
            ],
        ),
        _server(
            "Page",
            crawled=[
                {"name": "snow", "description": "Deploy Server x/y Try in Playground snow", "parameters": page},
                {"name": "Optional Settings", "description": "Sign in.", "parameters": []},
            ],
        ),
        _server("Empty"),
    ]
    put(tmp_path, "mcp_servers.jsonl.gz", rows)
    bundle = load_bundle("toucan-mcp", tmp_path)
    ids = [document.id for document in bundle.documents]
    assert [re.sub("#[0-9a-f]{8}$", "#", id_) for id_ in ids] == ["Sky/rain#", "Sky/rain#", "Page/snow"]
    snow = bundle.documents[2]
    assert (snow.description, snow.signature(), snow.category) == ("", "snow(at: string, days?: string)", "Weather")
    assert bundle.queries == []
    assert bundle.counts == {
        "servers": 4,
        "tools": 6,
        "live tools": 4,
        "crawled tools": 2,
        "pseudo tools dropped": 1,
        "tools with an invalid schema dropped": 1,
        "descriptions of page noise emptied": 1,
        "repeated documents merged": 1,
        "documents with a suffix": 2,
    }


def test_tools_of_toucan_join_livemcpbench_unless_they_are_the_same(tmp_path):
    _livemcpbench(tmp_path / "live")
    tools = [
        {"name": "write", "description": " D.", "input_schema": {"type": "object"}},  # as in LiveMCPBench
        {"name": "read", "description": "Reads otherwise.", "input_schema": {"type": "object"}},
        {"name": "delete", "description": "Deletes.", "input_schema": {"type": "object"}},
    ]
    put(tmp_path, "toucan/mcp_servers.jsonl.gz", [_server("Files", live=tools)])
    alone = load_bundle("livemcpbench", tmp_path / "live")
    bundle = load_bundle("livemcpbench", tmp_path / "live", toucan="../toucan")
    added = [document.id for document in bundle.documents[len(alone.documents) :]]
    assert [re.sub("#[0-9a-f]{8}$", "#", id_) for id_ in added] == ["Files/read#", "Files/delete"]
    assert bundle.documents[: len(alone.documents)] == alone.documents
    assert bundle.queries == alone.queries
    assert bundle.counts == {**alone.counts, "tools of Toucan": 2, "tools of Toucan left out as the same": 1}
    with pytest.raises(DataError, match="mcp_servers"):
        load_bundle("livemcpbench", tmp_path / "live", toucan="nowhere")


@pytest.mark.shared_data
def test_both_real(shared_data):
    bundle = load_bundle("livemcpbench", shared_data / "livemcpbench", toucan="../toucan-mcp")
    check_bundle(bundle)
    toucan = load_bundle("toucan-mcp", shared_data / "toucan-mcp").documents
    own = bundle.documents[:527]
    same = {(item.name, tuple(item.description.split())) for item in own}
    others = [item for item in toucan if (item.name, tuple(item.description.split())) not in same]
    assert len(bundle.documents) == 527 + len(others) > 15_000
    assert bundle.counts["tools of Toucan left out as the same"] == len(toucan) - len(others) > 0


@pytest.mark.shared_data
def test_toucan_real(shared_data):
    folder = shared_data / "toucan-mcp"
    bundle = load_bundle("toucan-mcp", folder)
    check_bundle(bundle)
    rows = read_lines(folder / "mcp_servers.jsonl.gz")
    kept = set()
    counts = Counter()
    for row in rows:
        metadata = row["metadata"]
        live = metadata["remote_server_response"]["tools"]
        counts["live tools"] += len(live)
        counts["crawled tools"] += 0 if live else len(metadata["server_info_crawled"]["tools"])
        for tool in live or metadata["server_info_crawled"]["tools"]:
            description = tool["description"] or ""
            if not live and tool["name"] == "Optional Settings":
                counts["pseudo"] += 1
                continue
            if not live and "Deploy Server" in description:
                counts["noise"] += 1
                description = ""
            schema = tool["input_schema"] if live else tool["parameters"]
            if live and isinstance(schema.get("properties"), dict):
                counts["invalid"] += any(isinstance(item, list) for item in schema["properties"].values())
            schema = json.dumps(schema, sort_keys=True)
            kept.add((metadata["server_name"], row["labels"]["primary_label"], tool["name"], description, schema))
    assert (len(rows), counts["live tools"], counts["crawled tools"]) == (2_120, 6_044, 11_534)
    assert {key: bundle.counts[key] for key in ("servers", "tools", "live tools", "crawled tools")} == {
        "servers": 2_120,
        "tools": 17_578,
        "live tools": 6_044,
        "crawled tools": 11_534,
    }
    assert bundle.counts["pseudo tools dropped"] == counts["pseudo"] == 91
    assert bundle.counts["descriptions of page noise emptied"] == counts["noise"] == 1_159
    assert bundle.counts["tools with an invalid schema dropped"] == 6
    assert len(bundle.documents) == len(kept) - 6
    assert len(bundle.documents) == 17_578 - 91 - 6 - bundle.counts["repeated documents merged"]
    assert {document.name for document in bundle.documents} <= {record[2] for record in kept}
    assert len({document.category for document in bundle.documents}) <= 28
