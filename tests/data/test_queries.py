"""Query files in each of their forms, and labels compared with a catalogue."""

from __future__ import annotations

import gzip
import json
import pickle

import pytest

from toolscaler.data.documents import ToolDocument
from toolscaler.data.labels import check_labels
from toolscaler.data.queries import ToolQuery
from toolscaler.data.query_files import load_tool_queries, merge_queries
from toolscaler.errors import ConfigError, DataError, UnknownToolError

_API = {"category_name": "Weather", "tool_name": "Sky ", "api_name": "10/day"}
_TOOLBENCH = {"query": "rain?", "api_list": [_API], "relevant APIs": [["Sky ", "10/day"]], "query_id": 7}
_CONVERSATION = {
    "conversations": [
        {"role": "user", "content": "rain?", "loss": False},
        {"role": "assistant", "content": "<<Sky &&10/day>>", "loss": True},
    ]
}


def _write(path, text, *, zipped=False):
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    return path


# --- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_json_lines(tmp_path, zipped):
    rows = [
        {
            "query": " rain? ",
            "tools": ["weather/rain", "math/sum", "weather/rain"],
            "id": 3,
            "split": "dev",
            "note": "x",
        },
        {"query": "hello", "tools": []},
        {"query": "sum", "tools": "math/sum"},
    ]
    path = _write(tmp_path / "q.jsonl", "\n".join(map(json.dumps, rows)), zipped=zipped)
    queries = load_tool_queries(path, split="test")
    assert queries == [
        ToolQuery(" rain? ", ("weather/rain", "math/sum"), "3", "dev"),
        ToolQuery("hello", (), split="test"),
        ToolQuery("sum", ("math/sum",), split="test"),
    ]
    assert queries[0].metadata == {"note": "x"}
    assert (queries.report.read, queries.report.formats) == (3, {"table": 3})


def test_csv_with_line_breaks_in_quotes(tmp_path):
    path = _write(
        tmp_path / "q.csv", 'Query,Tool\n"two\nlines",rain\nplain,"a, b"\nlist,"[""x"", ""y""]"\n[b],[beta] z\n'
    )
    assert [(query.text, query.tools) for query in load_tool_queries(path)] == [
        ("two\nlines", ("rain",)),
        ("plain", ("a, b",)),
        ("list", ("x", "y")),
        ("[b]", ("[beta] z",)),
    ]


def test_separator_and_columns(tmp_path):
    path = _write(tmp_path / "q.csv", "ask,label,who\nrain?,a; b ;,me\n")
    queries = load_tool_queries(path, columns={"text": "ask", "tools": "label"}, separator=";")
    assert queries == [ToolQuery("rain?", ("a", "b"))]
    assert queries[0].metadata == {"who": "me"}


def test_rows_in_memory_and_datasets():
    rows = [{"question": "rain?", "tools": ["a"]}]
    assert load_tool_queries(rows) == [ToolQuery("rain?", ("a",))]
    datasets = pytest.importorskip("datasets")
    assert load_tool_queries(datasets.Dataset.from_list(rows)) == [ToolQuery("rain?", ("a",))]


def test_bad_rows_have_their_line_and_can_be_skipped(tmp_path):
    lines = [
        '{"query": "ok", "tools": ["a"]}',
        '{"query": " ", "tools": ["a"]}',
        '{"query": "ok too", "tools": ["a"]}',
        '{"query": "no label"}',
        '{"query": "null", "tools": null}',
        '{"query": "number", "tools": [5]}',
        "{broken",
        '["no", "row"]',
        '{"query": "fine", "tools": ["a"]}',
        *['{"query": "fine", "tools": ["a"]}'] * 12,
    ]
    path = tmp_path / "q.jsonl"
    path.write_bytes("\n".join(lines).encode() + b'\n{"query": "\xff", "tools": []}\n')
    with pytest.raises(DataError, match=r"q\.jsonl:2: .*expected a query, got nothing"):
        load_tool_queries(path)
    queries = load_tool_queries(path, on_error="skip")
    assert len(queries) == queries.report.read == 15
    assert [problem.line for problem in queries.report.problems] == [2, 4, 5, 6, 7, 8, 22]
    expected = ["got nothing", "column for the tools", "got NoneType", "got 5", "expected JSON", "got list", "UTF-8"]
    for problem, words in zip(queries.report.problems, expected, strict=True):
        assert words in problem.message


def test_two_columns_for_one_field_are_ambiguous():
    rows = [{"query": "a", "question": "b", "tool": "c"}]
    with pytest.raises(DataError, match=r"\['query', 'question'\] may each be the text"):
        load_tool_queries(rows)
    assert load_tool_queries(rows, columns={"text": "question", "tools": "tool"}) == [ToolQuery("b", ("c",))]


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ([{"a": 1}], {}, DataError, r"no query format fits .*got keys \['a'\].*columns="),
        (["text"], {}, DataError, "no query format fits .*got str"),
        ([], {}, DataError, "no query format fits|found none"),
        ({"query": "a"}, {}, DataError, "expected a path, a list of rows"),
        ([{"query": "a", "tools": []}], {"format": "xml"}, ConfigError, "format: got 'xml'"),
        ([{"query": "a", "tools": []}], {"columns": {"name": "a"}}, ConfigError, r"columns\.name"),
        ([{"query": "a", "tools": []}], {"columns": {"text": "a", "tools": "b"}}, DataError, "column for the text"),
        ([{"query": "a", "tools": []}], {"on_error": "ignore"}, ConfigError, "on_error"),
    ],
)
def test_what_does_not_fit_is_named(source, options, error, message):
    with pytest.raises(error, match=message):
        load_tool_queries(source, **options)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="found nothing"):
        load_tool_queries(tmp_path / "none.jsonl")


# --- ToolBench ----------------------------------------------------------------------------------------------------


def test_toolbench_queries_keep_names_to_the_letter():
    assert load_tool_queries([_TOOLBENCH], split="G1") == [ToolQuery("rain?", ("Sky /10/day",), "7", "G1")]
    assert load_tool_queries([_TOOLBENCH], identity="category")[0].tools == ("Weather/Sky /10/day",)
    anytool = {"query": "rain?", "gt_api_list": [_API], "final_answer": "no", "query_id": "9"}
    for identity, tool in (("tool", "Sky /10/day"), ("category", "Weather/Sky /10/day")):
        query = load_tool_queries([anytool], identity=identity)[0]
        assert (query.tools, query.id, query.metadata) == ((tool,), "9", {"final_answer": "no"})


def test_toolbench_labels_of_two_categories_are_refused_as_category_keys():
    row = {**_TOOLBENCH, "api_list": [_API, {**_API, "category_name": "Sports"}]}
    assert load_tool_queries([row])[0].tools == ("Sky /10/day",)
    with pytest.raises(DataError, match=r"category in api_list, got \['Sports', 'Weather'\]"):
        load_tool_queries([row], identity="category")


@pytest.mark.parametrize("labels", ["Sky", [["Sky"]], [["Sky", 5]], [{"tool_name": "Sky"}], None])
def test_bad_toolbench_labels(labels):
    with pytest.raises(DataError, match="expected a l"):
        load_tool_queries([{**_TOOLBENCH, "relevant APIs": labels}])


def test_a_folder_of_query_files_has_file_names_as_splits(tmp_path):
    _write(tmp_path / "G2_tool.json.gz", json.dumps([_TOOLBENCH]), zipped=True)
    _write(tmp_path / "G1_tool.json", json.dumps([_TOOLBENCH, _TOOLBENCH]))
    _write(tmp_path / "notes.md", "no queries")
    assert [query.split for query in load_tool_queries(tmp_path)] == ["G1_tool", "G1_tool", "G2_tool"]
    assert {query.split for query in load_tool_queries(tmp_path, split="mine")} == {"mine"}


# --- ToolGen ------------------------------------------------------------------------------------------------------


def test_toolgen_conversations_of_the_same_query_become_one():
    share_gpt = {
        "conversations": [
            {"from": "human", "value": "rain?"},
            {"from": "gpt", "value": "<<Sum&&a && b>>\n"},
            {"from": "gpt", "value": "<<Finish>>"},
        ]
    }
    assert load_tool_queries([_CONVERSATION, share_gpt]) == [ToolQuery("rain?", ("Sky /10/day", "Sum/a && b"))]
    assert [query.tools for query in load_tool_queries([_CONVERSATION, share_gpt], merge=False)] == [
        ("Sky /10/day",),
        ("Sum/a && b",),
    ]


def test_toolgen_turns_without_loss_are_no_labels():
    turns = [*_CONVERSATION["conversations"], {"role": "assistant", "content": "Thought: hm", "loss": False}]
    assert load_tool_queries([{"conversations": turns}])[0].tools == ("Sky /10/day",)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"role": "user", "content": "rain?"}], "got 1 user turns and 0 tools"),
        ([{"role": "assistant", "content": "<<a&&b>>"}], "got 0 user turns and 1 tools"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "<a_1><b_2>"}], "expected a token"),
        ([{"role": "user", "text": "rain?"}], "turn 1: expected role and content"),
    ],
)
def test_other_conversations_are_refused(turns, message):
    with pytest.raises(DataError, match=message):
        load_tool_queries([{"conversations": turns}])


def test_merging_keeps_splits_apart():
    queries = [
        ToolQuery("rain?", ("a",), "1", "train"),
        ToolQuery(" rain? ", ("b", "a"), "2", "train"),
        ToolQuery("rain?", ("c",), "3", "test"),
        ToolQuery("Rain?", ("d",), "4", "train"),
    ]
    assert merge_queries(queries) == [
        ToolQuery("rain?", ("a", "b"), "1", "train"),
        ToolQuery("rain?", ("c",), "3", "test"),
        ToolQuery("Rain?", ("d",), "4", "train"),
    ]


def test_query_lists_survive_pickling():
    queries = load_tool_queries([{"query": "a", "tools": ["b"]}])
    again = pickle.loads(pickle.dumps(queries))
    assert (again, again.report) == (queries, queries.report)


# --- labels -------------------------------------------------------------------------------------------------------


def test_labels_that_fit():
    documents = [ToolDocument("rain", provider="weather"), ToolDocument("sum"), ToolDocument("mean")]
    report = check_labels(
        [ToolQuery("q", ("weather/rain", "sum")), ToolQuery("r", ("sum",)), ToolQuery("s")], documents
    )
    assert (report.ok, report.labels, report.queries, report.unused) == (True, 3, 0, 1)


def test_labels_that_do_not_fit():
    queries = [ToolQuery("q", ("weather/rian", "sum")), ToolQuery("r", ("zzzz", "weather/rian"))]
    with pytest.raises(UnknownToolError, match=r"'weather/rian'.*nearest: 'weather/rain'"):
        check_labels(queries, ["weather/rain", "sum"])
    report = check_labels(queries, ["weather/rain", "sum"], "report")
    assert not report.ok
    assert report.unknown == {"weather/rian": 2, "zzzz": 1}
    assert report.suggestions == {"weather/rian": ("weather/rain",), "zzzz": ()}
    assert (report.labels, report.queries, report.unused) == (4, 2, 1)
    with pytest.raises(ConfigError, match="on_error"):
        check_labels(queries, [], "skip")


# --- real files ---------------------------------------------------------------------------------------------------


@pytest.mark.shared_data
def test_real_toolbench_queries(shared_data):
    folder = shared_data / "toolbench/solvable_queries/test_instruction"
    queries = load_tool_queries(folder)
    raw = [(path.stem, row) for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text("utf-8"))]
    assert len(queries) == len(raw) == 580
    for query, (stem, row) in zip(queries, raw, strict=True):
        wanted = list(dict.fromkeys("/".join(pair) for pair in row["relevant APIs"]))
        assert (query.text, query.id, query.split) == (row["query"], str(row["query_id"]), stem)
        assert list(query.tools) == wanted
    full = load_tool_queries(shared_data / "toolbench/full_queries/test_instruction")
    assert len(full) == 800
    assert {(query.split, query.id) for query in queries} <= {(query.split, query.id) for query in full}
    threes = load_tool_queries(folder, identity="category")
    assert all(len(one.tools) == len(three.tools) for one, three in zip(queries, threes, strict=True))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "count", "labels"), [("anytoolbench", 202, 462), ("anytool_custom_query_data", 374, 1365)]
)
def test_real_anytool_queries(shared_data, name, count, labels):
    path = shared_data / f"toolbench/{name}.json"
    queries = load_tool_queries(path)
    assert len(queries) == count
    raw = json.loads(path.read_text("utf-8"))
    assert sum(len(row["gt_api_list"]) for row in raw) == labels
    wanted = [{(api["tool_name"], api["api_name"]) for api in row["gt_api_list"]} for row in raw]
    assert [set(query.tools) for query in queries] == [{"/".join(pair) for pair in pairs} for pairs in wanted]


@pytest.mark.shared_data
def test_real_labels_against_the_token_file(shared_data):
    lines = (shared_data / "toolbench/virtual_tokens.txt").read_bytes().decode("utf-8").split("\n")
    catalogue = [line[2:-2].replace("&&", "/", 1) for line in lines if "&&" in line]
    queries = load_tool_queries(shared_data / "toolbench/solvable_queries/test_instruction")
    report = check_labels(queries, catalogue, "report")
    assert sum(report.unknown.values()) == 15
    assert report.suggestions
    with pytest.raises(UnknownToolError):
        check_labels(queries, catalogue)


@pytest.mark.shared_data
def test_real_toole_table(shared_data):
    queries = load_tool_queries(shared_data / "toole/all_clean_data.csv")
    assert len(queries) == 18_548
    assert len({query.text for query in queries}) == 18_486
    assert sum("\n" in query.text for query in queries) == 1
    assert len(load_tool_queries(shared_data / "toole/multi_tool_query_golden.json")) == 398
