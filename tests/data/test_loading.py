"""One door for every format: the reader is found from the content, and no bad row passes unseen."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toolscaler.data as data
from toolscaler.data import ReadReport, ToolDocument, ToolDocumentList, documents_from_dataset, load_tool_documents
from toolscaler.data.sources.base import ReadOptions, SourceReader
from toolscaler.data.sources.opening import Source
from toolscaler.data.sources.registry import (
    available_formats,
    find_reader,
    get_reader,
    register_reader,
    unregister_reader,
)
from toolscaler.errors import AmbiguousSourceError, ConfigError, DataError

WEATHER = {
    "name": "get_weather",
    "description": "Tell the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "Where."}},
        "required": ["city"],
    },
}
MAIL = {"name": "send_mail", "description": "Send a mail.", "parameters": {"type": "object", "properties": {}}}


def wrapped(function):
    return {"type": "function", "function": function}


def mcp(function, **more):
    return {
        "name": function["name"],
        "description": function["description"],
        "inputSchema": function["parameters"],
        **more,
    }


def snake(tool):
    return {key.replace("inputSchema", "input_schema"): value for key, value in tool.items()}


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = json.dumps(content, indent=1)
    content = content if isinstance(content, bytes) else content.encode("utf-8")
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def lines(*rows):
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


EXPECTED = [ToolDocument.from_dict(WEATHER), ToolDocument.from_dict(MAIL)]


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.json", [wrapped(WEATHER), wrapped(MAIL)], "openai"),
        ("a.json.gz", [wrapped(WEATHER), wrapped(MAIL)], "openai"),
        ("a.json", [WEATHER, MAIL], "openai"),
        ("a.json", [{"type": "function", "strict": True, **WEATHER}, wrapped(MAIL)], "openai"),
        ("a.json", {"model": "m", "tools": [wrapped(WEATHER), wrapped(MAIL)]}, "openai"),
        ("a.json", {"functions": [WEATHER, MAIL]}, "openai"),
        ("a.jsonl", lines(wrapped(WEATHER), MAIL), "openai"),
        ("a.jsonl", lines({"tools": [wrapped(WEATHER)]}, {"functions": [MAIL]}), "openai"),
        (
            "a.yaml",
            "- name: get_weather\n  description: Tell the weather.\n  parameters: "
            + json.dumps(WEATHER["parameters"])
            + "\n- name: send_mail\n  description: Send a mail.\n  parameters: {type: object, properties: {}}\n",
            "openai",
        ),
        ("a.json", [mcp(WEATHER), mcp(MAIL)], "mcp"),
        ("a.json", {"tools": [mcp(WEATHER), mcp(MAIL, title="No")], "nextCursor": "x"}, "mcp"),
        ("a.json", {"jsonrpc": "2.0", "id": 1, "result": {"tools": [mcp(WEATHER), mcp(MAIL)]}}, "mcp"),
        ("a.json", [{"tools": [mcp(WEATHER)]}, {"jsonrpc": "2.0", "id": 2, "result": {"tools": [mcp(MAIL)]}}], "mcp"),
        ("a.jsonl", lines({"tools": [mcp(WEATHER)], "nextCursor": "2"}, {"tools": [mcp(MAIL)]}), "mcp"),
        (
            "a.jsonl",
            lines(snake(mcp(WEATHER)), snake(mcp(MAIL))),
            "mcp",
        ),
        ("a.jsonl", lines(*(document.to_dict() for document in EXPECTED)), "documents"),
    ],
)
def test_the_reader_is_found_from_the_content(tmp_path, name, content, format):
    path = write(tmp_path, name, content)
    for source in (path, str(path)):
        loaded = load_tool_documents(source)
        assert list(loaded) == EXPECTED
        assert loaded.report == ReadReport(2, 0, (), {format: 2})
    assert list(load_tool_documents(path, format)) == EXPECTED
    if isinstance(content, list | dict):  # parsed JSON is as good as the file
        assert list(load_tool_documents(content)) == EXPECTED


def test_one_tool_is_a_source_too():
    assert list(load_tool_documents(wrapped(MAIL))) == list(load_tool_documents(mcp(MAIL))) == EXPECTED[1:]
    assert list(load_tool_documents(iter([MAIL]))) == EXPECTED[1:]


def test_provider_and_category_fill_what_the_source_leaves_open():
    loaded = load_tool_documents([wrapped(MAIL)], provider="p", category="c")
    assert [(item.id, item.provider, item.category) for item in loaded] == [("p/send_mail", "p", "c")]
    saved = [{"name": "a", "provider": "own"}, {"name": "a", "category": "k"}]
    loaded = load_tool_documents(saved, provider="p", category="c")
    assert [(item.id, item.category) for item in loaded] == [("own/a", "c"), ("p/a", "k")]


def test_mcp_hints_are_kept_as_the_servers_word():
    hints = {"readOnlyHint": True, "idempotentHint": False, "destructiveHint": "no", "title": "T", "evil": True}
    (plain,) = load_tool_documents(mcp(WEATHER))
    (told,) = load_tool_documents(mcp(WEATHER, annotations=hints))
    assert told.to_dict()["parameters"]["x-annotations"] == {"readOnlyHint": True, "idempotentHint": False}
    assert told.content_hash != plain.content_hash  # hints that change are seen where documents are approved
    assert told.to_text() == plain.to_text()
    (dumped,) = load_tool_documents(mcp(WEATHER, annotations={"read_only_hint": True, "idempotent_hint": False}))
    assert dumped == told
    for nothing in (None, {}, [], "readOnlyHint", {"readOnlyHint": None}):
        assert next(iter(load_tool_documents(mcp(WEATHER, annotations=nothing)))) == plain
    # A schema that names hints itself has none.
    forged = mcp(WEATHER)
    forged["inputSchema"] = {**forged["inputSchema"], "x-annotations": {"readOnlyHint": True}}
    assert next(iter(load_tool_documents(forged))) == plain


def test_mcp_servers_become_providers():
    listing = [
        {
            "name": "Suite",
            "category": "Office",
            "tools": {"one": {"tools": [mcp(MAIL)]}, "two": {"tools": [mcp(MAIL)]}},
        },
        {"server_name": "three", "tools": [mcp(MAIL)]},
        {"serverInfo": {"name": "four"}, "tools": [{**mcp(MAIL), "outputSchema": {"type": "array"}}]},
        {"tools": [{"name": "bare", "title": "Bare title", "inputSchema": {"type": "object"}}]},
    ]
    loaded = load_tool_documents(listing, provider="default", category="other")
    assert [(item.id, item.category) for item in loaded] == [
        ("one/send_mail", "Office"),
        ("two/send_mail", "Office"),
        ("three/send_mail", "other"),
        ("four/send_mail", "other"),
        ("default/bare", "other"),
    ]
    assert loaded[3].returns == {"type": "array"}
    assert loaded[4].description == "Bare title"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601}}, "got the server's error {'code': -32601}"),
        ([mcp(MAIL), {"name": "x"}], "at 1: expected the input schema of 'x' under 'inputSchema', got keys"),
        ([mcp(MAIL), {"inputSchema": {}}], "expected a name under 'name', got nothing"),
        ([mcp(MAIL), mcp(MAIL, name=3)], "expected a name under 'name', got int"),
        ([mcp(MAIL), "words"], "expected a JSON object, got str"),
        ([mcp(WEATHER), mcp(MAIL, outputSchema={"type": 3})], r"outputSchema: invalid JSON Schema at \$\.type"),
        ([mcp(WEATHER), mcp(MAIL, description=["a"])], "expected text under 'description', got list"),
        ([WEATHER, wrapped({**MAIL, "parameters": {"type": "dict"}})], r"record 2: .*at \$\.type: 'dict'"),
        ([WEATHER, wrapped({**MAIL, "parameters": [1]})], "parameters: expected a JSON Schema object, got list"),
        (
            [wrapped(MAIL), {"type": "web_search", "name": "web"}],
            "expected a tool of type 'function', got 'web_search'",
        ),
        ({"tools": [wrapped(MAIL), wrapped({"name": " "})]}, "at tools.1: expected a name"),
        ([wrapped({**MAIL, "response": 3})], "response: expected a JSON Schema object, got int"),
        (
            [wrapped({**MAIL, "parameters": {"properties": {"a": {"default": float("nan")}}}})],
            "expected plain JSON data",
        ),
        ([{"name": "a", "provider": "p"}, {"name": "a", "category": 3, "id": "b"}], "category: expected text, got int"),
        ([{"name": "a", "provider": "p"}, {"name": "b", "returns": {"type": "int"}}], r"returns: invalid .* \$\.type"),
        ([{"name": "a", "provider": "p"}, {"name": "b", "colour": "red"}], r"unknown keys \['colour'\]"),
        ([WEATHER, WEATHER], "record 2: at 1: duplicate id 'get_weather': the same document as record 1"),
        ([WEATHER, {**WEATHER, "description": "No."}], "duplicate id 'get_weather': another document is record 1"),
    ],
)
def test_bad_records_in_memory(source, message):
    with pytest.raises(DataError, match=message):
        load_tool_documents(source)
    report = load_tool_documents(source, on_error="skip").report
    assert report.skipped == len(report.problems) == 1


BAD_LINES = {
    2: ('{"name": "half', "expected JSON"),
    4: (b'{"name": "\xe9", "parameters": {}}', "expected UTF-8, got byte 0xe9"),
    5: ({"description": "no name", "parameters": {}}, "expected a name under 'name', got nothing"),
    7: (
        {"name": "bad", "parameters": {"type": "object", "properties": {"a": {"type": "str"}}}},
        r"\$.properties.a.type",
    ),
    8: (WEATHER, "duplicate id 'get_weather': the same document as {path}:1"),
    9: ({**MAIL, "name": "get_weather"}, "duplicate id 'get_weather': another document is {path}:1"),
}


def test_bad_lines_are_named_counted_and_logged_once(tmp_path, caplog):
    rows = {1: WEATHER, 3: "", 6: MAIL, **{number: row for number, (row, _) in BAD_LINES.items()}}
    encoded = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
        for _, row in sorted(rows.items())
    ]
    path = write(tmp_path, "tools.jsonl", b"\n".join(encoded))
    with caplog.at_level(logging.INFO):
        loaded = load_tool_documents(path, on_error="skip")
    assert list(loaded) == EXPECTED
    assert (loaded.report.read, loaded.report.skipped) == (2, len(BAD_LINES))
    assert [problem.line for problem in loaded.report.problems] == sorted(BAD_LINES)
    for problem in loaded.report.problems:
        expected = BAD_LINES[problem.line][1].replace("{path}", str(path)).replace("\\", "")
        assert expected in problem.message
        assert str(problem) == f"{path}:{problem.line}: {problem.message}"
    assert len(caplog.records) == 1
    assert caplog.records[0].message.startswith("2 read, 6 skipped tools; the first skipped row: ")
    for number, (_, message) in BAD_LINES.items():  # each alone stops the load, with its line
        only = [line if place in (1, 6, number) else b"" for place, line in enumerate(encoded, 1)]
        with pytest.raises(DataError) as caught:
            load_tool_documents(write(tmp_path, "one.jsonl", b"\n".join(only)))
        assert caught.value.line == number
        assert caught.value.path == str(tmp_path / "one.jsonl")
        assert message.replace("{path}", str(tmp_path / "one.jsonl")).replace("\\", "") in caught.value.message


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.sampled_from([None, 1]))
def test_line_numbers_inside_json(tmp_path_factory, good, indent):
    items = [{"name": f"t{n}" if fine else "", "parameters": {"§": n}} for n, fine in enumerate(good)]
    text = json.dumps({"note": "[{", "functions": items}, indent=indent, ensure_ascii=False)
    path = write(tmp_path_factory.mktemp("lines"), "a.json", text)
    loaded = load_tool_documents(path, "openai", on_error="skip")
    assert [document.name for document in loaded] == [f"t{n}" for n, fine in enumerate(good) if fine]
    starts = [number for number, line in enumerate(text.split("\n"), 1) if line == "  {"] if indent else [1] * len(good)
    expected = [line for line, fine in zip(starts, good, strict=True) if not fine]
    assert [problem.line for problem in loaded.report.problems] == expected


def test_on_error_is_checked():
    with pytest.raises(ConfigError, match="on_error: got 'ignore', expected 'raise' or 'skip'"):
        load_tool_documents([MAIL], on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"format: got 'opnai', expected one of .*openai"):
        load_tool_documents([MAIL], "opnai")


@pytest.mark.parametrize("source", [[], {"a": 1}, [1, 2], [{"x": 1}], ["a"], {"name": "x", "inner": {}}])
def test_no_reader_fits(source):
    with pytest.raises(DataError) as caught:
        load_tool_documents(source)
    if source:
        assert all(name in str(caught.value) for name in available_formats())
    else:
        assert "expected at least one tool" in str(caught.value)


@pytest.mark.parametrize("source", [3, None, b"bytes", 2.5])
def test_what_cannot_be_a_source(source):
    with pytest.raises(DataError, match="expected a path, parsed JSON, rows, a dataset or callables, got"):
        load_tool_documents(source)


def test_files_that_hold_nothing(tmp_path):
    for name, content in (("a.jsonl", ""), ("a.csv", "name,description\n"), ("a.json", "[]")):
        with pytest.raises(DataError, match="expected at least one tool, found none"):
            load_tool_documents(write(tmp_path, name, content))
    with pytest.raises(DataError, match="expected at least one tool, found none"):
        load_tool_documents({"jsonrpc": "2.0", "result": {"tools": []}})
    with pytest.raises(DataError, match=r"b\.jsonl:1: expected JSON"):
        load_tool_documents(write(tmp_path, "b.jsonl", "{broken\n{broken"))
    with pytest.raises(DataError, match="found nothing"):
        load_tool_documents(tmp_path / "missing.json")
    with pytest.raises(DataError):
        load_tool_documents("x" * 5000)


def test_ambiguity_names_the_candidates(tmp_path):
    path = write(tmp_path, "a.json", [wrapped(WEATHER), mcp(MAIL)])
    with pytest.raises(AmbiguousSourceError) as caught:
        load_tool_documents(path)
    assert caught.value.candidates == ("mcp", "openai")
    assert str(path) in str(caught.value)
    assert len(load_tool_documents(path, "mcp", on_error="skip")) == 1


def test_a_reader_of_your_own():
    class Lines(SourceReader):
        name = "names"
        summary = "one name a line"

        def sniff(self, source):
            return bool(source.sample) and all(isinstance(item, str) for item in source.sample)

        def document(self, record, options):
            if record.data == "bad":
                raise DataError("expected a good name")
            return ToolDocument(record.data, provider=options.provider)

    register_reader("names", Lines)
    try:
        assert "names" in available_formats()
        loaded = load_tool_documents(["a", "bad", "b"], provider="p", on_error="skip")
        assert [item.id for item in loaded] == ["p/a", "p/b"]
        assert str(loaded.report.problems[0]) == "record 2: at 1: expected a good name"
        with pytest.raises(ConfigError, match="a format that is not registered yet"):
            register_reader("names", Lines)
    finally:
        unregister_reader("names")
    assert "names" not in available_formats()
    with pytest.raises(ConfigError):
        unregister_reader("names")


def test_every_reader_says_what_it_reads_and_none_takes_nothing():
    for name in available_formats():
        reader = get_reader(name)
        assert reader.name == name
        assert reader.summary
        for value in ([], {}, None, [None], 3, "x", [[]]):
            assert reader.sniff(Source(value)) is False, (name, value)
    assert find_reader(Source(MAIL)).name == "openai"
    assert [result.name for _, result in get_reader("openai").read(Source(MAIL), ReadOptions())] == ["send_mail"]


def test_folders(tmp_path):
    write(tmp_path, "b/tools.json", [MAIL])
    write(tmp_path, "a.jsonl", lines(WEATHER))
    write(tmp_path, "README.md", "# no tools")
    write(tmp_path, ".hidden/c.json", "{broken")
    assert list(load_tool_documents(tmp_path)) == EXPECTED
    write(tmp_path, "b/z.json", [{"other": 1}])
    write(tmp_path, "c.json", '[\n{"name":')
    write(tmp_path, "d.json", [MAIL])
    with pytest.raises(DataError, match=r"z\.json: no reader fits"):
        load_tool_documents(tmp_path)
    report = load_tool_documents(tmp_path, on_error="skip").report
    assert (report.read, report.skipped) == (2, 3)
    assert [problem.path.name for problem in report.problems] == ["z.json", "c.json", "d.json"]
    assert report.problems[2].message == f"duplicate id 'send_mail': the same document as {tmp_path / 'b/tools.json'}:2"


COLUMNS = {
    "name": "api_name",
    "description": "words",
    "category": "field",
    "parameters": "args",
    "required": "need",
    "returns": "out",
}
ROW = {
    "api_name": "f",
    "words": "Do.",
    "field": "K",
    "args": {"a": {"type": "str", "description": "A."}, "b": {"type": "int"}},
    "need": ["a"],
    "out": {"total": {"type": "float"}},
    "extra": 1,
}
FROM_ROW = ToolDocument(
    "f",
    "Do.",
    category="K",
    parameters={
        "type": "object",
        "properties": {
            "a": {"type": "string", "x-type": "str", "description": "A."},
            "b": {"type": "integer", "x-type": "int"},
        },
        "required": ["a"],
    },
    returns={"type": "object", "properties": {"total": {"type": "number", "x-type": "float"}}},
)


def test_rows_with_a_column_mapping(tmp_path):
    assert list(load_tool_documents([ROW], columns=COLUMNS)) == [FROM_ROW]
    assert list(load_tool_documents(write(tmp_path, "a.jsonl", lines(ROW)), columns=COLUMNS)) == [FROM_ROW]
    import csv

    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        path = tmp_path / f"a.{suffix}"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(ROW), delimiter=delimiter)
            writer.writeheader()
            writer.writerow({key: value if isinstance(value, str) else json.dumps(value) for key, value in ROW.items()})
        assert list(load_tool_documents(path, columns=COLUMNS)) == [FROM_ROW]


def test_tables_without_mapping_and_empty_fields(tmp_path):
    path = write(tmp_path, "a.csv", 'name,description,category,parameters\na,,,\nnan,NaN,,"{""x"": ""int""}"\n')
    first, second = load_tool_documents(path)
    assert first.to_dict() == ToolDocument("a").to_dict()
    assert (second.name, second.description) == ("nan", "NaN")  # text that was there stays what it is
    assert second.signature() == "nan(x?: integer)"


@pytest.mark.parametrize(
    ("content", "columns", "error", "message"),
    [
        ("name,other\na,b\n", None, DataError, r"columns \['other'\] are no fields of a tool document; say which"),
        ("x,y\na,b\n", {"name": "z"}, DataError, r"expected columns \['z'\], got \['x', 'y'\]"),
        ("x,y\na,b\n", {"nme": "x"}, ConfigError, r"columns\.nme: got 'x', expected a field"),
        ("name\n\n \n", None, DataError, r"a\.csv:3: expected a name under 'name', got nothing"),
        ("x,y\na,b\n", {"description": "x"}, DataError, r"a\.csv:2: expected a name under 'name', got nothing"),
        ("name,parameters\na,{\n", None, DataError, r"a\.csv:2: parameters: expected JSON text, got '{'"),
        (
            "name,parameters\na,3\n",
            None,
            DataError,
            r"a\.csv:2: expected the arguments as an object",
        ),
        ("name,description\na,b,c\n", None, DataError, r"a\.csv:2: expected 2 fields as in the header, got 3"),
    ],
)
def test_bad_tables(tmp_path, content, columns, error, message):
    with pytest.raises(error, match=message):
        load_tool_documents(write(tmp_path, "a.csv", content), columns=columns)


def test_name_to_description():
    loaded = load_tool_documents({"a": "Do a.", "b": ""}, provider="p")
    assert [(item.id, item.description) for item in loaded] == [("p/a", "Do a."), ("p/b", "")]
    for other in ({"error": "no such page", "code": "404"}, {"a": "Do a.", "b": 1}, {"a": "b"}):
        with pytest.raises(DataError, match="no reader fits"):
            load_tool_documents(other)
    with pytest.raises(DataError, match="expected an object from tool name to description"):
        load_tool_documents(["a"], "descriptions")
    with pytest.raises(DataError, match="expected text under 'description', got int"):
        load_tool_documents({"a": 1}, "descriptions")


class FakeDataset:
    column_names = ("api_name", "args")
    features = None

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def test_datasets_duck_typed():
    rows = [{"api_name": "f", "args": {"a": {"type": "int", "enum": None}, "b": None}}, {"api_name": "g", "args": None}]
    for load in (load_tool_documents, documents_from_dataset):
        f, g = load(FakeDataset(rows), columns={"name": "api_name", "parameters": "args"}, provider="p")
        assert f.to_dict()["parameters"]["properties"] == {"a": {"type": "integer", "x-type": "int"}}
        assert (f.id, g.id) == ("p/f", "p/g")
    with pytest.raises(DataError, match=r"record 2: .*expected a name under 'api_name', got float"):
        documents_from_dataset([*rows[:1], {"api_name": float("nan"), "args": None}], {"name": "api_name"})
    with pytest.raises(DataError, match=r"expected one split of the dataset, got \['test', 'train'\]"):
        load_tool_documents({"train": FakeDataset(rows), "test": FakeDataset(rows)})
    with pytest.raises(DataError, match="expected a dataset or rows, got int"):
        documents_from_dataset(3)


def test_real_datasets():
    datasets = pytest.importorskip("datasets")
    rows = [
        {"api_name": "f", "words": "F.", "args": {"a": {"type": "int"}}},
        {"api_name": "g", "words": None, "args": {"b": {"type": "str"}}},
    ]
    columns = {"name": "api_name", "description": "words", "parameters": "args"}
    dataset = datasets.Dataset.from_list(rows)
    for source in (dataset, dataset.to_iterable_dataset()):
        f, g = load_tool_documents(source, columns=columns)
        assert f.signature() == "f(a?: integer)"
        assert g.signature() == "g(b?: string)"  # without the argument that Arrow adds from the other row
        assert g.description == ""
    saved = datasets.Dataset.from_list([{"name": "a", "provider": "p"}])
    assert load_tool_documents(saved)[0].id == "p/a"
    with pytest.raises(DataError, match="expected one split"):
        load_tool_documents(datasets.DatasetDict(train=dataset))


def test_documents_come_back_as_they_were_saved(tmp_path):
    documents = [
        *EXPECTED,
        FROM_ROW,
        ToolDocument("x", "d", "p", "c", {"properties": {"é": True}}, {"type": "null"}, "x()", "i"),
    ]
    path = write(tmp_path, "tools.jsonl", lines(*(document.to_dict() for document in documents)))
    back = load_tool_documents(path)
    assert [item.content_hash for item in back] == [item.content_hash for item in documents]


def test_the_list_is_a_list_with_a_report():
    loaded = load_tool_documents([WEATHER, MAIL])
    assert isinstance(loaded, list)
    assert ToolDocumentList(EXPECTED).report == ReadReport(read=2)
    back = pickle.loads(pickle.dumps(loaded))
    assert (back, back.report) == (loaded, loaded.report)


def test_public_names_resolve_and_nothing_heavy_is_imported():
    assert sorted(data.__all__) == list(data.__all__)
    assert set(data.__all__) <= set(dir(data))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        data.nothing  # noqa: B018
    code = (
        "import sys; from toolscaler.data import load_tool_documents as f, document_from_function;"
        "f([{'name': 'a', 'parameters': {}}]);"
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy', 'jsonschema') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
