"""Named data sets: the frame, ToolE, UltraTool and Seal-Tools; counts recomputed here from the raw files."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict

import pytest

from support.bundles import check_bundle, put, read_json, read_lines
from toolscaler.data.bundles import BUNDLES, load_bundle
from toolscaler.data.bundles.base import ToolBundle, unique_documents
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.schema import check_arguments_schema
from toolscaler.errors import ConfigError, DataError, UnknownToolError

# --- the frame -------------------------------------------------------------------------------------------------------


def test_names_and_options_are_checked(tmp_path):
    names = "bfcl glaive-toolcall livemcpbench seal-tools toolbench toole toolrl toucan-mcp ultratool"
    assert tuple(names.split()) == BUNDLES
    with pytest.raises(ConfigError, match="name: got 'tooly', expected one of bfcl"):
        load_bundle("tooly", tmp_path)
    with pytest.raises(ConfigError, match="lang: got 'en', expected an option of 'ultratool': language"):
        load_bundle("ultratool", tmp_path, lang="en")
    with pytest.raises(ConfigError, match="no options with 'seal-tools'"):
        load_bundle("seal-tools", tmp_path, split="dev")
    with pytest.raises(DataError, match="expected the folder of the data set 'toole', found none"):
        load_bundle("toole", tmp_path / "none")


@pytest.mark.parametrize("name", BUNDLES)
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(DataError, match=r"expected this file of the data set .* found none") as caught:
        load_bundle(name, tmp_path)
    assert caught.value.path.startswith(str(tmp_path))
    assert caught.value.path.endswith((".json", ".jsonl", ".csv", ".txt"))


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("toole", {"include_multi": "yes"}, "include_multi"),
        ("ultratool", {"language": "de"}, "language"),
        ("bfcl", {"categories": ["rest"]}, "categories"),
        ("toolbench", {"queries": "half"}, "queries"),
        ("toolbench", {"documents": "some"}, "documents"),
        ("toolbench", {"unresolved": "ignore"}, "unresolved"),
        ("livemcpbench", {"ambiguous": "first"}, "ambiguous"),
    ],
)
def test_bad_option_values_are_named(tmp_path, name, options, key):
    with pytest.raises(ConfigError) as caught:
        load_bundle(name, tmp_path, **options)
    assert caught.value.key == key


def test_files_of_another_layout_are_an_error_of_this_library(tmp_path):
    put(tmp_path, "plugin_des.json", {"Rain": "Says."})
    put(tmp_path, "all_clean_data.csv", "Question,Tool\nrain?,Rain\n")
    with pytest.raises(DataError, match=r"all_clean_data.csv: record 1: expected keys .* got none of \['Query'\]"):
        load_bundle("toole", tmp_path)
    put(tmp_path, "tool.jsonl", [{"api_name": "a", "parameters": {}, "required": [], "responses": {}}])
    put(tmp_path, "dev.jsonl", [{"id": "dev-easy-0", "query": "q", "calling": [{"name": "a"}]}])
    put(tmp_path, "test_in_domain.jsonl", [])
    with pytest.raises(DataError, match="expected the layout of the data set 'seal-tools'"):
        load_bundle("seal-tools", tmp_path)


def test_a_bundle_refuses_doubled_ids_and_unknown_labels():
    with pytest.raises(DataError, match="got 'a' twice"):
        ToolBundle("x", [ToolDocument("a"), ToolDocument("a", "other")], [])
    with pytest.raises(UnknownToolError):
        ToolBundle("x", [ToolDocument("a")], [ToolQuery("q", ("b",))])
    bundle = ToolBundle("x", [ToolDocument("a")], [ToolQuery("q", ("a",), split="dev"), ToolQuery("r", split="test")])
    assert bundle.split("dev") == bundle.queries[:1]
    assert bundle.split_sizes() == {"dev": 1, "test": 1}
    with pytest.raises(DataError, match=r"one of the splits \['dev', 'test'\], got 'train'"):
        bundle.split("train")


def test_suffixes_depend_on_content_alone():
    documents = [ToolDocument("a", "one"), ToolDocument("b"), ToolDocument("a", "two"), ToolDocument("a", "one")]
    unique, final, counts = unique_documents(documents)
    assert [document.id for document in unique] == [
        f"a#{documents[0].content_hash[:8]}",
        "b",
        f"a#{documents[2].content_hash[:8]}",
    ]
    assert [final[document.content_hash] for document in documents] == [unique[n].id for n in (0, 1, 2, 0)]
    assert counts == {"repeated documents merged": 1, "documents with a suffix": 2}
    backwards, _, _ = unique_documents(documents[::-1])
    assert {(item.id, item.description) for item in backwards} == {(item.id, item.description) for item in unique}


# --- toole -----------------------------------------------------------------------------------------------------------


def test_toole_small(tmp_path):
    put(tmp_path, "plugin_des.json", {"Rain": "Says.", "News": "Tells."})
    rows = ["Query,Tool", "rain?,Rain", "rain? ,News", "rain?,Rain", '"two\nlines",News']
    put(tmp_path, "all_clean_data.csv", "\n".join(rows))
    put(tmp_path, "multi_tool_query_golden.json", [{"query": "both? ", "tool": ["News", "Rain"]}])
    bundle = load_bundle("toole", tmp_path)
    assert bundle.queries == [
        ToolQuery("rain?", ("Rain", "News"), "single-0", "single"),
        ToolQuery("two\nlines", ("News",), "single-1", "single"),
    ]
    assert bundle.counts == {"rows": 4, "repeated rows merged": 1, "rows of another tool merged": 1}
    multi = load_bundle("toole", tmp_path, include_multi=True)
    assert multi.queries[2:] == [ToolQuery("both?", ("News", "Rain"), "multi-0", "multi")]


@pytest.mark.shared_data
def test_toole_real(shared_data):
    folder = shared_data / "toole"
    bundle = load_bundle("toole", folder, include_multi=True)
    check_bundle(bundle)
    with (folder / "all_clean_data.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["Query"], row["Tool"]) for row in csv.DictReader(file)]
    assert len(rows) == bundle.counts["rows"] == 18_548
    tools = defaultdict(set)
    for text, tool in rows:
        tools[text].add(tool)
    # To the letter 18,486 texts, 11 of several tools; six of them differ from another one in outer blanks only.
    assert (len(tools), sum(len(labels) > 1 for labels in tools.values())) == (18_486, 11)
    assert len(rows) - sum(map(len, tools.values())) == 49
    stripped = defaultdict(set)
    for text, labels in tools.items():
        stripped[text.strip()] |= labels
    assert {query.text: set(query.tools) for query in bundle.split("single")} == stripped
    assert bundle.split_sizes() == {"single": 18_480, "multi": 398}
    assert all(len(query.tools) == 2 for query in bundle.split("multi"))
    assert {document.name: document.description for document in bundle.documents} == read_json(
        folder / "plugin_des.json"
    )
    assert len(bundle.documents) == 199


# --- ultratool -------------------------------------------------------------------------------------------------------


def test_ultratool_small(tmp_path):
    save = {
        "name": "save",
        "description": "Saves.",
        "arguments": {"type": "object", "properties": {"x": {"type": "str"}}},
    }
    find = {"name": "find", "description": "Finds.", "results": {"type": "object", "properties": {"y": {}}}}
    plan = [
        {"step": "1", "tool": "null"},
        {"step": "1.1", "tool": "find(x='save(1)')"},
        {"step": "1.2", "tool": "No tool required"},
        {"step": "1.3", "tool": "save(x=1)"},
        {"step": "1.4", "tool": "find()"},
    ]
    row = {"question": " do it\n", "plan": plan, "tools": [save, find], "domain": "Files"}
    put(tmp_path, "English-dataset/tools.jsonl", [save, find])
    put(tmp_path, "English-dataset/test.json.gz", [row])
    bundle = load_bundle("ultratool", tmp_path)
    assert bundle.queries == [ToolQuery("do it", ("find", "save"), "0", "test")]
    assert bundle.queries[0].metadata == {"domain": "Files", "plan": plan}
    assert [next(iter(bundle.documents[0].iter_parameters())).type, bundle.documents[0].returns] == ["string", None]
    assert "y" in bundle.documents[1].returns["properties"]
    with pytest.raises(DataError, match="Chinese-dataset"):
        load_bundle("ultratool", tmp_path, language="zh")


@pytest.mark.shared_data
def test_ultratool_real(shared_data):
    bundles = {
        language: load_bundle("ultratool", shared_data / "ultratool", language=language) for language in ("en", "zh")
    }
    for language, name in (("en", "English"), ("zh", "Chinese")):
        bundle = bundles[language]
        check_bundle(bundle)
        rows = read_lines(shared_data / f"ultratool/{name}-dataset/test.json.gz")
        assert (len(bundle.documents), len(bundle.queries)) == (436, 800)
        assert (
            bundle.counts["queries with blanks stripped"] == sum(row["question"].endswith("\n") for row in rows) == 580
        )
        assert sum(len(query.tools) for query in bundle.queries) / 800 == pytest.approx(2.15)
        for query, row in zip(bundle.queries, rows, strict=True):
            assert query.text == row["question"].strip()
            assert set(query.tools) == {tool["name"] for tool in row["tools"]}
            calls = [step["tool"].split("(")[0] for step in row["plan"] if step["tool"].rstrip().endswith(")")]
            assert list(query.tools) == list(dict.fromkeys(calls))
        for document in bundle.documents:
            check_arguments_schema(document.to_dict()["parameters"])
    assert [query.tools for query in bundles["en"].queries] == [query.tools for query in bundles["zh"].queries]
    assert len({query.metadata["domain"] for query in bundles["en"].queries}) == 22


# --- seal-tools ------------------------------------------------------------------------------------------------------


def test_seal_tools_small(tmp_path):
    tool = {
        "api_name": "getRain",
        "api_description": "Rain.",
        "field": "Weather/Rain",
        "parameters": {
            "place": {"type": "str", "description": "Where"},
            "days": {"type": "int", "description": "How many"},
        },
        "required": ["place"],
        "responses": {"mm": {"type": "float", "description": "Millimetres"}},
    }
    calls = [
        {"api": "getRain", "parameters": {"place": "Oslo", "days": 3}, "responses": ["API_call_0"]},
        {"api": "getSum", "parameters": {"place": "API_call_0"}, "responses": ["API_call_1"]},
    ]
    put(tmp_path, "tool.jsonl", [tool, {**tool, "api_name": "getSum"}])
    put(tmp_path, "dev.jsonl", [{"id": "dev-difficult-7", "query": "rain?", "calling": calls}])
    put(tmp_path, "test_in_domain.jsonl", [{"id": "test_in_domain-easy-0", "query": "r", "calling": calls[:1]}])
    bundle = load_bundle("seal-tools", tmp_path)
    assert bundle.queries == [
        ToolQuery("rain?", ("getRain", "getSum"), "dev-difficult-7", "dev"),
        ToolQuery("r", ("getRain",), "test_in_domain-easy-0", "test"),
    ]
    assert [query.metadata["dependent"] for query in bundle.queries] == [True, False]
    assert [query.metadata["level"] for query in bundle.queries] == ["difficult", "easy"]
    document = bundle.documents[0]
    assert document.signature() == "getRain(place: string, days?: integer)"
    assert (document.category, document.returns["properties"]["mm"]["type"]) == ("Weather/Rain", "number")
    put(tmp_path, "train.jsonl", [{"id": "train-easy-0", "query": "s", "calling": calls[1:]}])
    assert load_bundle("seal-tools", tmp_path).split_sizes() == {"train": 1, "dev": 1, "test": 1}


@pytest.mark.shared_data
def test_seal_tools_real(shared_data):
    folder = shared_data / "seal-tools"
    bundle = load_bundle("seal-tools", folder)
    check_bundle(bundle)
    assert (len(bundle.documents), bundle.split_sizes()) == (4_076, {"dev": 700, "test": 350})
    for split, file in (("dev", "dev"), ("test", "test_in_domain")):
        rows = read_lines(folder / f"{file}.jsonl")
        queries = bundle.split(split)
        assert [query.id for query in queries] == [row["id"] for row in rows]
        assert [list(query.tools) for query in queries] == [[call["api"] for call in row["calling"]] for row in rows]
        values = [
            re.findall(r'"API_call_\d+', json.dumps([call["parameters"] for call in row["calling"]])) for row in rows
        ]
        assert [query.metadata["dependent"] for query in queries] == [bool(found) for found in values]
        assert sum(map(len, values)) == {"dev": 34, "test": 22}[split]
    assert Counter(query.metadata["level"] for query in bundle.split("dev")) == {"easy": 200, "difficult": 500}
    for document, row in zip(bundle.documents, read_lines(folder / "tool.jsonl"), strict=True):
        assert (document.id, document.category) == (row["api_name"], row["field"])
        assert {item.name for item in document.iter_parameters() if item.required} == set(row["required"])
        assert [item.name for item in document.iter_parameters()] == list(row["parameters"])
