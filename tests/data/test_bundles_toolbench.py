"""Named data sets: BFCL and ToolBench; counts recomputed here from the raw files."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict

import pytest

from support.bundles import check_bundle, put, read_json, read_lines
from toolscaler.data.bundles import load_bundle
from toolscaler.data.queries import ToolQuery
from toolscaler.errors import DataError, UnknownToolError

# --- bfcl ------------------------------------------------------------------------------------------------------------


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
        put(folder, f"BFCL_v4_{category}.json", part)
    put(
        folder,
        "possible_answer/BFCL_v4_simple_python.json",
        [{"id": "simple_python_0", "ground_truth": [{"area": {"x": [1]}}]}],
    )
    truth = [{"area": {"x": [1]}}, {"area": {"x": [2]}}]
    put(folder, "possible_answer/BFCL_v4_multiple.json.gz", [{"id": "multiple_0", "ground_truth": truth}])
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
    put(tmp_path, answer, [{"id": "simple_python_0", "ground_truth": [{"mass": {}}]}])
    with pytest.raises(DataError, match=r"expected the answer of 'simple_python_0' to call \['area'\], got \['mass'\]"):
        load_bundle("bfcl", tmp_path, categories=["simple_python"])
    put(tmp_path, answer, [{"id": "other", "ground_truth": []}])
    with pytest.raises(DataError, match="expected an answer for 'simple_python_0', found none"):
        load_bundle("bfcl", tmp_path, categories=["simple_python"])


@pytest.mark.shared_data
def test_bfcl_real(shared_data):
    folder = shared_data / "bfcl"
    bundle = load_bundle("bfcl", folder, multi_turn=True)
    check_bundle(bundle)
    documents = defaultdict(set)
    offered = defaultdict(set)
    sizes = Counter()
    rows = {}
    for path in sorted(folder.glob("BFCL_v4_*")):
        category = path.name.removeprefix("BFCL_v4_").split(".")[0]
        for row in read_lines(path):
            rows[row["id"]] = row
            sizes["irrelevance" if category.endswith("irrelevance") else category] += 1
            for function in row.get("function", ()):
                offered[function["name"]].add(json.dumps(function, sort_keys=True))
    extra = [folder / "function_docs_parallel_multiple.json", *(folder / "multi_turn_func_doc").glob("*.json")]
    for path in extra:
        for function in read_lines(path):
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
        row["id"]: row["ground_truth"] for path in (folder / "possible_answer").glob("*") for row in read_lines(path)
    }
    for query in bundle.queries:
        if query.split.startswith("multi_turn"):
            called = {call.split("(")[0].strip() for turn in answers[query.id] for call in turn}
        else:
            called = {name for call in answers.get(query.id, ()) for name in call}
        assert {by_id[tool].name for tool in query.tools} == called


# --- toolbench -------------------------------------------------------------------------------------------------------


def _toolbench(folder):
    rain = {"category_name": "Weather", "tool_name": "Sky ", "api_name": "rain", "api_description": "Rain."}
    lost = {**rain, "api_name": "hail"}
    put(folder, "virtual_tokens.txt", "<<Finish>>\n<<Sky &&rain>>\n<<Sky &&a && b>>\n<<Box&&open>>\n")
    put(folder, "tool_details.json", {"Sky ": {"tool_description": "All weather."}, "Box": {"tool_description": None}})
    put(folder, "api_docs.jsonl", [rain, {**rain, "category_name": "Sports", "api_description": "No."}, lost])
    guideline = {"name": "open", "description": "Opens.", "required_parameters": [], "optional_parameters": []}
    draft = {
        "1": {
            "tool_name": "Box",
            "category": "Tools",
            "tool_description": "A box.",
            "tool_guidelines": {"open": guideline},
        }
    }
    put(folder, "draft_tool_instruction_initial.json", draft)
    row = {
        "query": "rain?",
        "api_list": [rain, lost],
        "relevant APIs": [["Sky ", "rain"], ["Sky ", "hail"]],
        "query_id": 1,
    }
    only = {**row, "relevant APIs": [["Sky ", "hail"]], "query_id": 2}
    for part, ending in (("solvable", ""), ("full", ".gz")):
        for name in ("G1_instruction", "G1_tool", "G1_category", "G2_instruction"):
            put(
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
    put(tmp_path, "virtual_tokens.txt", "<<Finish>>\nSky rain\n")
    with pytest.raises(DataError, match=r"virtual_tokens.txt:2: expected a token"):
        load_bundle("toolbench", tmp_path)


def _toolbench_names(shared_data):
    text = (shared_data / "toolbench/virtual_tokens.txt").read_bytes().decode("utf-8")
    return {line[2:-2].replace("&&", "/", 1) for line in text.split("\n") if "&&" in line}


@pytest.mark.shared_data
def test_toolbench_real(shared_data):
    folder = shared_data / "toolbench"
    bundle = load_bundle("toolbench", folder, queries=("full", "solvable"))
    check_bundle(bundle)
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
            for row in read_json(path):
                relevant = {"/".join(pair) for pair in row["relevant APIs"]}
                labels |= relevant
                unresolved[part] += sum(label not in names for label in relevant)
    assert unresolved == {"full": 21, "solvable": 15}
    assert bundle.counts["unresolved labels"] == 36
    assert {document.id for document in bundle.documents} == names | labels
    assert bundle.counts["tools added for labels"] == len(labels - names)
    documented = {"/".join((row["tool_name"], row["api_name"])) for row in read_lines(folder / "api_docs.jsonl")}
    assert len(documented) == 3_221
    draft = read_json(folder / "draft_tool_instruction_initial.json").values()
    documented |= {f"{tool['tool_name']}/{name}" for tool in draft for name in tool["tool_guidelines"]}
    assert len(documented) == 3_221 + 337
    assert bundle.counts["tools without documentation"] == len((names | labels) - documented)
    assert bundle.counts["records of another category merged"] == 14
    details = read_json(folder / "tool_details.json")
    described = {document.id: document for document in bundle.documents if document.provider in details}
    assert len(set(described) & names) == 19_516
    for document in described.values():
        texts = [details[document.provider]["tool_description"] or ""]  # DRAFT's own, where it documents the API
        texts += [tool["tool_description"] or "" for tool in draft if tool["tool_name"] == document.provider]
        assert document.description.endswith(tuple(text.strip() for text in texts))


@pytest.mark.shared_data
def test_toolbench_real_documented(shared_data):
    bundle = load_bundle("toolbench", shared_data / "toolbench", documents="documented", queries="solvable")
    check_bundle(bundle)
    assert (len(bundle.documents), len(bundle.queries)) == (3_558, 580)
    assert bundle.counts["unresolved labels"] == bundle.counts["tools without documentation"] == 0
    named = load_bundle(
        "toolbench", shared_data / "toolbench", documents="documented", queries="anytool", unresolved="drop"
    )
    check_bundle(named)
    known = {document.id for document in named.documents}
    lost = dropped = 0
    for file in ("anytoolbench.json", "anytool_custom_query_data.json"):
        for row in read_json(shared_data / "toolbench" / file):
            found = [f"{api['tool_name']}/{api['api_name']}" in known for api in _distinct(row["gt_api_list"])]
            lost += found.count(False)
            dropped += not any(found)
    assert named.counts["unresolved labels"] == lost
    assert named.counts["queries without labels dropped"] == dropped > 0
    assert len(named.queries) == 202 + 374 - dropped


def _distinct(apis):
    return {(api["tool_name"], api["api_name"]): api for api in apis}.values()
