"""A source knows how it is written and where each of its records stands."""

from __future__ import annotations

import csv
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.data.sources.opening import Record, Source, read_text, suffix_of
from toolscaler.errors import DataError


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


@pytest.mark.parametrize(
    ("name", "content", "kind", "count"),
    [
        ("a.json", '{"a": 1}', "json", 1),
        ("a.json", '[{"a": 1},\n {"a": 2}]', "json", 2),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "jsonl", 2),  # the suffix lies
        ("a.json", '{"a": \n{"a": 2}\n{"a": 3}\n{"a": 4}', "jsonl", 4),  # its first line is broken
        ("a.jsonl", '{\n "a": 1\n}', "json", 1),  # the suffix lies
        ("a.jsonl", '{"a": 1}', "jsonl", 1),
        ("a.jsonl", '\n{"a": 1}\n\n{"a": 2}', "jsonl", 2),
        ("a.yaml", "- a: 1\n- a: 2\n", "yaml", 2),
        ("a.csv", "a,b\n1,2\n", "csv", 1),
        ("a.TSV", "a\tb\n1\t2\n3\t4\n", "tsv", 2),
        ("a.txt", "one\n\ntwo\n", "text", 2),
        ("noname", "[1, 2, 3]", "json", 3),
        ("noname", "words\nwords", "text", 2),
        ("a.json", "", "json", None),
        ("a.jsonl", "\n \n", "jsonl", 0),
        ("bom.json", "\ufeff[1]", "json", 1),
        ("bom.csv", "\ufeffa\n1\n", "csv", 1),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_kind_and_number_of_records(tmp_path, name, content, kind, count, packed):
    data = content.encode("utf-8")
    path = write(tmp_path, f"{name}.gz" if packed else name, gzip.compress(data) if packed else data)
    source = Source.open(path)
    assert source.kind == kind
    if count is None:
        with pytest.raises(DataError, match="expected JSON"):
            list(source.records())
    else:
        assert len(list(source.records())) == count


def test_gzip_is_known_by_content_not_by_name(tmp_path):
    path = write(tmp_path, "a.json", gzip.compress(b"[1]"))
    assert Source.open(path).value == [1]
    with pytest.raises(DataError, match="expected gzip, got damaged data"):
        Source.open(write(tmp_path, "b.json.gz", gzip.compress(b"[1, 2, 3]")[:-6]))
    assert (suffix_of("x/tools.JSON.gz"), suffix_of("a.csv"), suffix_of("a")) == (".json", ".csv", "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=15,
)


def pointers(value, pointer=()):
    yield pointer, value
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, item in items:
        yield from pointers(item, (*pointer, key))


@settings(max_examples=120, deadline=None)
@given(json_values, st.sampled_from([None, 0, 2]), st.booleans())
def test_lines_in_json_are_those_of_the_values(value, indent, ascii_only):
    # Independent twin: mark one value with a unique text and look for the line of that text.
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    source = Source.open_text(text, "json")
    for pointer, _ in pointers(value):
        marked = json.dumps(_replaced(value, pointer, "§mark§"), indent=indent, ensure_ascii=False)
        expected = marked[: marked.index('"§mark§"')].count("\n") + 1
        assert source.line_of(Record(None, pointer=pointer)) == expected


def _replaced(value, pointer, new):
    if not pointer:
        return new
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[pointer[0]] = _replaced(value[pointer[0]], pointer[1:], new)
    return copy


def test_lines_in_json_and_yaml_by_hand(tmp_path):
    text = '{\n "a": [\n  {"x": 1},\n  {"x": "}]\\n"}\n ],\n "a": [\n  0,\n\n  {"y": 2}\n ]\n}'
    source = Source.open(write(tmp_path, "a.json", text))
    assert source.line_of(Record(None, pointer=("a", 1))) == 9  # of a repeated key the last counts
    assert source.line_of(Record(None, pointer=("a", 7))) == 6  # the nearest around it
    assert source.line_of(Record(None, pointer=())) == 1
    yaml = Source.open(
        write(tmp_path, "a.yaml", "# note\npaths:\n  /a:\n    get: {}\n  /b:\n    200: [x,\n     \n     y]\n")
    )
    assert yaml.line_of(Record(None, pointer=("paths", "/a", "get"))) == 4
    assert yaml.line_of(Record(None, pointer=("paths", "/b", "200", 1))) == 8
    assert yaml.line_of(Record(None, pointer=("paths", "/c"))) == 2
    assert Source([1]).line_of(Record(1, pointer=(0,))) is None


def test_yaml_dates_stay_text(tmp_path):
    assert Source.open(write(tmp_path, "a.yml", "a: 2020-01-02\nb: 1\n")).value == {"a": "2020-01-02", "b": 1}
    with pytest.raises(DataError, match=r"a\.yml:[23]: expected YAML"):
        Source.open(write(tmp_path, "a.yml", "a: 1\nb: [1\n")).value  # noqa: B018


def test_bad_lines_are_records_with_an_error_and_the_rest_is_read(tmp_path):
    path = write(tmp_path, "a.jsonl", b'{"a": 1}\n{"a": \n\n{"a": "\xff"}\n{"a": 4}\r\n')
    records = list(Source.open(path).records())
    assert [(record.line, bool(record.error)) for record in records] == [(1, False), (2, True), (4, True), (5, False)]
    assert "expected JSON" in records[1].error
    assert "expected UTF-8, got byte 0xff" in records[2].error
    assert records[3].data == {"a": 4}


def test_bytes_that_are_no_utf8_are_named_with_their_line(tmp_path):
    for name in ("a.json", "a.yaml", "a.txt"):
        path = write(tmp_path, name, b'{"a":\n\n"\xe9"}')
        with pytest.raises(DataError, match=r":3: expected UTF-8, got byte 0xe9"):
            read_text(path)
    with pytest.raises(DataError, match=r"a\.json:3: expected UTF-8"):
        Source.open(tmp_path / "a.json").value  # noqa: B018


def test_broken_json_names_its_line(tmp_path):
    with pytest.raises(DataError, match=r"a\.json:3: expected JSON"):
        Source.open(write(tmp_path, "a.json", '{\n "a": 1,\n b\n}')).value  # noqa: B018
    deep = "[" * 100_000 + "]" * 100_000
    with pytest.raises(DataError, match="too deep a nesting"):
        Source.open(write(tmp_path, "a.json", deep)).value  # noqa: B018


def test_tables_keep_empty_text_and_know_their_lines(tmp_path):
    content = b'name,note\na,\n"b","two\nlines"\n\nc\nd,nan,x\n"e"x,1\nf,\xff\ng,NaN\n'
    records = list(Source.open(write(tmp_path, "a.csv", content)).records())
    assert [(record.line, record.data) for record in records if not record.error] == [
        (2, {"name": "a", "note": ""}),
        (3, {"name": "b", "note": "two\nlines"}),
        (10, {"name": "g", "note": "NaN"}),
    ]
    errors = {record.line: record.error for record in records if record.error}
    assert list(errors) == [6, 7, 8, 9]
    assert errors[6] == "expected 2 fields as in the header, got 1"
    assert errors[7] == "expected 2 fields as in the header, got 3"
    assert errors[8].startswith("expected a table row")
    assert errors[9].startswith("expected UTF-8")
    with pytest.raises(DataError, match=r"b\.csv:1: expected each column once"):
        list(Source.open(write(tmp_path, "b.csv", "a,a\n1,2\n")).records())


cells = st.text(st.characters(exclude_characters="\r\x00", exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(cells, cells), max_size=6), st.sampled_from([",", "\t"]))
def test_tables_round_trip(rows, delimiter):
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("x", "y"), *rows])
    source = Source.open_text(buffer.getvalue(), "csv" if delimiter == "," else "tsv")
    assert [(record.data["x"], record.data["y"]) for record in source.records()] == rows


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.just("{broken"), st.just(""), st.integers()), max_size=12))
def test_line_numbers_of_json_lines(lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps({"n": line}) for line in lines)
    records = list(Source.open_text(text, "jsonl").records())
    assert [record.line for record in records] == [n for n, line in enumerate(lines, 1) if line != ""]
    assert [record.line for record in records if record.error] == [n for n, x in enumerate(lines, 1) if x == "{broken"]


def test_missing_files_and_folders_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="expected a file here, found nothing"):
        Source.open(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot read the file"):
        Source.open(tmp_path)
