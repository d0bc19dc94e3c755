"""Named data sets: every quirk of the real files handled, counts recomputed here from the raw files."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter, defaultdict

import pytest
from toolscaler.data.bundles import BUNDLES, load_bundle
from toolscaler.data.bundles.base import ToolBundle, unique_documents
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.schema import check_arguments_schema
from toolscaler.errors import ConfigError, DataError, UnknownToolError


def _put(folder, name, value):
    """Write JSON; a list as JSON lines where the name says so; gzipped where it ends in ``.gz``."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = isinstance(value, list) and (
        ".jsonl" in name or "BFCL" in name or "func_doc" in name or "test.json" in name
    )
    text = value if isinstance(value, str) else "\n".join(map(json.dumps, value)) if lines else json.dumps(value)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


def _lines(path):
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _json(path):
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def _check(bundle):
    """What every bundle promises."""
    ids = {document.id for document in bundle.documents}
    assert len(ids) == len(bundle.documents)
    assert {tool for query in bundle.queries for tool in query.tools} <= ids
    assert all(query.text == query.text.strip() for query in bundle.queries)
    assert sum(bundle.split_sizes().values()) == len(bundle.queries)


# --- the frame ----------------------------------------------------------------------------------------------------


def test_names_and_options_are_checked(tmp_path):
    assert BUNDLES == ("bfcl", "livemcpbench", "seal-tools", "toolbench", "toole", "toucan-mcp", "ultratool")
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
    _put(tmp_path, "plugin_des.json", {"Rain": "Says."})
    _put(tmp_path, "all_clean_data.csv", "Question,Tool\nrain?,Rain\n")
    with pytest.raises(DataError, match=r"all_clean_data.csv: record 1: expected keys .* got none of \['Query'\]"):
        load_bundle("toole", tmp_path)
    _put(tmp_path, "tool.jsonl", [{"api_name": "a", "parameters": {}, "required": [], "responses": {}}])
    _put(tmp_path, "dev.jsonl", [{"id": "dev-easy-0", "query": "q", "calling": [{"name": "a"}]}])
    _put(tmp_path, "test_in_domain.jsonl", [])
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


# --- toole --------------------------------------------------------------------------------------------------------


def test_toole_small(tmp_path):
    _put(tmp_path, "plugin_des.json", {"Rain": "Says.", "News": "Tells."})
    rows = ["Query,Tool", "rain?,Rain", "rain? ,News", "rain?,Rain", '"two\nlines",News']
    _put(tmp_path, "all_clean_data.csv", "\n".join(rows))
    _put(tmp_path, "multi_tool_query_golden.json", [{"query": "both? ", "tool": ["News", "Rain"]}])
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
    _check(bundle)
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
    assert {document.name: document.description for document in bundle.documents} == _json(folder / "plugin_des.json")
    assert len(bundle.documents) == 199


# --- ultratool ----------------------------------------------------------------------------------------------------


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
    _put(tmp_path, "English-dataset/tools.jsonl", [save, find])
    _put(tmp_path, "English-dataset/test.json.gz", [row])
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
        _check(bundle)
        rows = _lines(shared_data / f"ultratool/{name}-dataset/test.json.gz")
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


# --- seal-tools ---------------------------------------------------------------------------------------------------


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
    _put(tmp_path, "tool.jsonl", [tool, {**tool, "api_name": "getSum"}])
    _put(tmp_path, "dev.jsonl", [{"id": "dev-difficult-7", "query": "rain?", "calling": calls}])
    _put(tmp_path, "test_in_domain.jsonl", [{"id": "test_in_domain-easy-0", "query": "r", "calling": calls[:1]}])
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
    _put(tmp_path, "train.jsonl", [{"id": "train-easy-0", "query": "s", "calling": calls[1:]}])
    assert load_bundle("seal-tools", tmp_path).split_sizes() == {"train": 1, "dev": 1, "test": 1}


@pytest.mark.shared_data
def test_seal_tools_real(shared_data):
    folder = shared_data / "seal-tools"
    bundle = load_bundle("seal-tools", folder)
    _check(bundle)
    assert (len(bundle.documents), bundle.split_sizes()) == (4_076, {"dev": 700, "test": 350})
    for split, file in (("dev", "dev"), ("test", "test_in_domain")):
        rows = _lines(folder / f"{file}.jsonl")
        queries = bundle.split(split)
        assert [query.id for query in queries] == [row["id"] for row in rows]
        assert [list(query.tools) for query in queries] == [[call["api"] for call in row["calling"]] for row in rows]
        values = [
            re.findall(r'"API_call_\d+', json.dumps([call["parameters"] for call in row["calling"]])) for row in rows
        ]
        assert [query.metadata["dependent"] for query in queries] == [bool(found) for found in values]
        assert sum(map(len, values)) == {"dev": 34, "test": 22}[split]
    assert Counter(query.metadata["level"] for query in bundle.split("dev")) == {"easy": 200, "difficult": 500}
    for document, row in zip(bundle.documents, _lines(folder / "tool.jsonl"), strict=True):
        assert (document.id, document.category) == (row["api_name"], row["field"])
        assert {item.name for item in document.iter_parameters() if item.required} == set(row["required"])
        assert [item.name for item in document.iter_parameters()] == list(row["parameters"])


# --- bfcl ---------------------------------------------------------------------------------------------------------


def _function(name, description="Does.", kind="dict"):
    return {
        "name": name,
        "description": description,
        "parameters": {"type": kind, "properties": {"x": {"type": "float"}}},
    }


def _bfcl(folder):
    ask = [[{"role": "user", "content": "area?"}]]
    talk = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    ]
    rows = {
        "simple_python": [{"id": "simple_python_0", "question": ask, "function": [_function("area")]}],
        "multiple": [
            {"id": "multiple_0", "question": talk, "function": [_function("area", "Other."), _function("volume")]}
        ],
        "irrelevance": [{"id": "irrelevance_0", "question": ask, "function": [_function("mass")]}],
        "live_relevance": [{"id": "live_relevance_0", "question": ask, "function": [_function("area")]}],
    }
    for category, part in rows.items():
        _put(folder, f"BFCL_v4_{category}.json", part)
    _put(
        folder,
        "possible_answer/BFCL_v4_simple_python.json",
        [{"id": "simple_python_0", "ground_truth": [{"area": {"x": [1]}}]}],
    )
    truth = [{"area": {"x": [1]}}, {"area": {"x": [2]}}]
    _put(folder, "possible_answer/BFCL_v4_multiple.json.gz", [{"id": "multiple_0", "ground_truth": truth}])
    return list(rows)


def test_bfcl_small(tmp_path):
    bundle = load_bundle("bfcl", tmp_path, categories=_bfcl(tmp_path))
    by_text = {document.description: document.id for document in bundle.documents if document.name == "area"}
    assert set(by_text) == {"Does.", "Other."}
    assert all(re.fullmatch(r"area#[0-9a-f]{8}", id_) for id_ in by_text.values())
    assert [document.id for document in bundle.documents if document.name != "area"] == ["volume", "mass"]
    assert bundle.queries == [
        ToolQuery("area?", (by_text["Does."],), "simple_python_0", "simple_python"),
        ToolQuery("a\nb", (by_text["Other."],), "multiple_0", "multiple"),
        ToolQuery("area?", (), "irrelevance_0", "irrelevance"),
    ]
    assert bundle.queries[1].metadata == {"category": "multiple", "system": "Be brief."}
    assert bundle.counts == {
        "repeated documents merged": 1,
        "documents with a suffix": 2,
        "queries without labels dropped": 1,
    }
    assert bundle.notes
    document = bundle.documents[0]
    assert (document.parameters["type"], next(iter(document.iter_parameters())).type) == ("object", "number")
    assert load_bundle("bfcl", tmp_path, categories=["simple_python"]).documents[0].id == "area"


def test_bfcl_answers_that_do_not_fit(tmp_path):
    _bfcl(tmp_path)
    answer = "possible_answer/BFCL_v4_simple_python.json"
    _put(tmp_path, answer, [{"id": "simple_python_0", "ground_truth": [{"mass": {}}]}])
    with pytest.raises(DataError, match=r"expected the answer of 'simple_python_0' to call \['area'\], got \['mass'\]"):
        load_bundle("bfcl", tmp_path, categories=["simple_python"])
    _put(tmp_path, answer, [{"id": "other", "ground_truth": []}])
    with pytest.raises(DataError, match="expected an answer for 'simple_python_0', found none"):
        load_bundle("bfcl", tmp_path, categories=["simple_python"])


@pytest.mark.shared_data
def test_bfcl_real(shared_data):
    folder = shared_data / "bfcl"
    bundle = load_bundle("bfcl", folder, multi_turn=True)
    _check(bundle)
    documents = defaultdict(set)
    offered = defaultdict(set)
    sizes = Counter()
    rows = {}
    for path in sorted(folder.glob("BFCL_v4_*")):
        category = path.name.removeprefix("BFCL_v4_").split(".")[0]
        for row in _lines(path):
            rows[row["id"]] = row
            sizes["irrelevance" if category.endswith("irrelevance") else category] += 1
            for function in row.get("function", ()):
                offered[function["name"]].add(json.dumps(function, sort_keys=True))
    extra = [folder / "function_docs_parallel_multiple.json", *(folder / "multi_turn_func_doc").glob("*.json")]
    for path in extra:
        for function in _lines(path):
            documents[function["name"]].add(json.dumps(function, sort_keys=True))
    assert sum(len(texts) > 1 for texts in offered.values()) == 438
    for name, texts in offered.items():
        documents[name] |= texts
    assert len(documents) == 1_974
    # Every distinct document is one tool.
    assert Counter(document.name for document in bundle.documents) == {
        name: len(texts) for name, texts in documents.items()
    }
    assert bundle.counts["documents with a suffix"] == sum(
        "#" in document.id and document.id.startswith(f"{document.provider}/{document.name}".lstrip("/"))
        for document in bundle.documents
    )
    assert sizes.pop("live_relevance") == bundle.counts["queries without labels dropped"] == 16
    assert bundle.split_sizes() == sizes
    assert sum(count for split, count in sizes.items() if split != "irrelevance") == 2_877
    assert sizes["irrelevance"] == 1_124
    by_id = {document.id: document for document in bundle.documents}
    for query in bundle.queries:
        if query.split == "irrelevance":
            assert query.tools == ()
            continue
        if query.split.startswith("multi_turn"):
            assert query.tools
            continue
        assert len(query.tools) == 1
        tool = by_id[query.tools[0]]
        texts = {function["description"] for function in rows[query.id]["function"] if function["name"] == tool.name}
        assert texts == {tool.description}
    answers = {
        row["id"]: row["ground_truth"] for path in (folder / "possible_answer").glob("*") for row in _lines(path)
    }
    for query in bundle.queries:
        if query.split.startswith("multi_turn"):
            called = {call.split("(")[0].strip() for turn in answers[query.id] for call in turn}
        else:
            called = {name for call in answers.get(query.id, ()) for name in call}
        assert {by_id[tool].name for tool in query.tools} == called


# --- toolbench ----------------------------------------------------------------------------------------------------


def _toolbench(folder):
    rain = {"category_name": "Weather", "tool_name": "Sky ", "api_name": "rain", "api_description": "Rain."}
    lost = {**rain, "api_name": "hail"}
    _put(folder, "virtual_tokens.txt", "<<Finish>>\n<<Sky &&rain>>\n<<Sky &&a && b>>\n<<Box&&open>>\n")
    _put(folder, "tool_details.json", {"Sky ": {"tool_description": "All weather."}, "Box": {"tool_description": None}})
    _put(folder, "api_docs.jsonl", [rain, {**rain, "category_name": "Sports", "api_description": "No."}, lost])
    guideline = {"name": "open", "description": "Opens.", "required_parameters": [], "optional_parameters": []}
    draft = {
        "1": {
            "tool_name": "Box",
            "category": "Tools",
            "tool_description": "A box.",
            "tool_guidelines": {"open": guideline},
        }
    }
    _put(folder, "draft_tool_instruction_initial.json", draft)
    row = {
        "query": "rain?",
        "api_list": [rain, lost],
        "relevant APIs": [["Sky ", "rain"], ["Sky ", "hail"]],
        "query_id": 1,
    }
    only = {**row, "relevant APIs": [["Sky ", "hail"]], "query_id": 2}
    for part, ending in (("solvable", ""), ("full", ".gz")):
        for name in ("G1_instruction", "G1_tool", "G1_category", "G2_instruction"):
            _put(
                folder,
                f"{part}_queries/test_instruction/{name}.json{ending}",
                [row, only][: 2 if part == "full" else 1],
            )


def test_toolbench_small(tmp_path):
    _toolbench(tmp_path)
    bundle = load_bundle("toolbench", tmp_path)
    assert [document.id for document in bundle.documents] == ["Sky /rain", "Sky /a && b", "Box/open", "Sky /hail"]
    rain, named, opened, _ = bundle.documents
    assert (rain.category, rain.description) == ("Weather", "Rain.\nSky: All weather.")
    assert (named.name, named.category, named.description) == ("a && b", "Weather", "Sky: All weather.")
    assert (opened.category, opened.description) == ("Tools", "Opens.\nBox: A box.")
    assert bundle.queries[0] == ToolQuery("rain?", ("Sky /rain", "Sky /hail"), "1", "G1_instruction")
    assert bundle.split_sizes() == {"G1_instruction": 2, "G1_tool": 2, "G1_category": 2, "G2_instruction": 2}
    assert bundle.counts == {
        "tools without documentation": 1,
        "records of another category merged": 1,
        "unresolved labels": 8,
        "tools added for labels": 1,
        "queries without labels dropped": 0,
    }


def test_toolbench_options(tmp_path):
    _toolbench(tmp_path)
    dropped = load_bundle("toolbench", tmp_path, unresolved="drop", include_finish=True)
    assert [document.id for document in dropped.documents][-1] == "Finish"
    assert dropped.counts["unresolved labels"] == 8
    assert dropped.counts["queries without labels dropped"] == 4
    assert dropped.counts["tools without documentation"] == 1
    assert {query.tools for query in dropped.queries} == {("Sky /rain",)}
    with pytest.raises(UnknownToolError, match="'Sky /hail'"):
        load_bundle("toolbench", tmp_path, unresolved="raise")
    documented = load_bundle("toolbench", tmp_path, documents="documented", queries=["solvable"], unresolved="raise")
    assert [document.id for document in documented.documents] == ["Sky /rain", "Sky /hail", "Box/open"]
    assert len(documented.queries) == 4
    _put(tmp_path, "virtual_tokens.txt", "<<Finish>>\nSky rain\n")
    with pytest.raises(DataError, match=r"virtual_tokens.txt:2: expected a token"):
        load_bundle("toolbench", tmp_path)


def _toolbench_names(shared_data):
    text = (shared_data / "toolbench/virtual_tokens.txt").read_bytes().decode("utf-8")
    return {line[2:-2].replace("&&", "/", 1) for line in text.split("\n") if "&&" in line}


@pytest.mark.shared_data
def test_toolbench_real(shared_data):
    folder = shared_data / "toolbench"
    bundle = load_bundle("toolbench", folder, queries=("full", "solvable"))
    _check(bundle)
    names = _toolbench_names(shared_data)
    assert len(names) == 46_984
    sizes = {
        "G1_instruction": (200, 163),
        "G1_tool": (200, 158),
        "G1_category": (200, 153),
        "G2_instruction": (200, 106),
    }
    assert bundle.split_sizes() == {name: sum(pair) for name, pair in sizes.items()}
    unresolved = Counter()
    labels = set()
    for part, pattern in (("full", "*.json.gz"), ("solvable", "*.json")):
        for path in (folder / f"{part}_queries/test_instruction").glob(pattern):
            for row in _json(path):
                relevant = {"/".join(pair) for pair in row["relevant APIs"]}
                labels |= relevant
                unresolved[part] += sum(label not in names for label in relevant)
    assert unresolved == {"full": 21, "solvable": 15}
    assert bundle.counts["unresolved labels"] == 36
    assert {document.id for document in bundle.documents} == names | labels
    assert bundle.counts["tools added for labels"] == len(labels - names)
    documented = {"/".join((row["tool_name"], row["api_name"])) for row in _lines(folder / "api_docs.jsonl")}
    assert len(documented) == 3_221
    draft = _json(folder / "draft_tool_instruction_initial.json").values()
    documented |= {f"{tool['tool_name']}/{name}" for tool in draft for name in tool["tool_guidelines"]}
    assert len(documented) == 3_221 + 337
    assert bundle.counts["tools without documentation"] == len((names | labels) - documented)
    assert bundle.counts["records of another category merged"] == 14
    details = _json(folder / "tool_details.json")
    described = {document.id: document for document in bundle.documents if document.provider in details}
    assert len(set(described) & names) == 19_516
    for document in described.values():
        texts = [details[document.provider]["tool_description"] or ""]  # DRAFT's own, where it documents the API
        texts += [tool["tool_description"] or "" for tool in draft if tool["tool_name"] == document.provider]
        assert document.description.endswith(tuple(text.strip() for text in texts))


@pytest.mark.shared_data
def test_toolbench_real_documented(shared_data):
    bundle = load_bundle("toolbench", shared_data / "toolbench", documents="documented", queries="solvable")
    _check(bundle)
    assert (len(bundle.documents), len(bundle.queries)) == (3_558, 580)
    assert bundle.counts["unresolved labels"] == bundle.counts["tools without documentation"] == 0
    named = load_bundle(
        "toolbench", shared_data / "toolbench", documents="documented", queries="anytool", unresolved="drop"
    )
    _check(named)
    known = {document.id for document in named.documents}
    lost = dropped = 0
    for file in ("anytoolbench.json", "anytool_custom_query_data.json"):
        for row in _json(shared_data / "toolbench" / file):
            found = [f"{api['tool_name']}/{api['api_name']}" in known for api in _distinct(row["gt_api_list"])]
            lost += found.count(False)
            dropped += not any(found)
    assert named.counts["unresolved labels"] == lost
    assert named.counts["queries without labels dropped"] == dropped > 0
    assert len(named.queries) == 202 + 374 - dropped


def _distinct(apis):
    return {(api["tool_name"], api["api_name"]): api for api in apis}.values()


# --- livemcpbench -------------------------------------------------------------------------------------------------


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

    _put(
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
    _put(folder, "all_annotations.json", tasks)


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
    _check(bundle)
    servers = _json(folder / "tools.json")
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
    for row in _json(folder / "all_annotations.json"):
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


# --- toucan-mcp ---------------------------------------------------------------------------------------------------


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
    _put(tmp_path, "mcp_servers.jsonl.gz", rows)
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


@pytest.mark.shared_data
def test_toucan_real(shared_data):
    folder = shared_data / "toucan-mcp"
    bundle = load_bundle("toucan-mcp", folder)
    _check(bundle)
    rows = _lines(folder / "mcp_servers.jsonl.gz")
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
    # Parameter lists that mean the same are one schema, so there may be fewer documents than distinct records.
    assert len(kept) - 6 - 40 <= len(bundle.documents) <= len(kept)
    assert len(bundle.documents) == 17_578 - 91 - 6 - bundle.counts["repeated documents merged"]
    assert {document.name for document in bundle.documents} <= {record[2] for record in kept}
    assert len({document.category for document in bundle.documents}) <= 28
    for document in bundle.documents[::10]:
        check_arguments_schema(document.to_dict()["parameters"])
