"""The Tables tools against hand-made tables and slow twins."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.starter.tools import tables

SALES = [
    {"region": "north", "month": "jan", "amount": 10, "rep": "Ann"},
    {"region": "south", "month": "jan", "amount": 5, "rep": "Bob"},
    {"region": "north", "month": "feb", "amount": 7.5, "rep": "Cy"},
    {"region": "north", "month": "jan", "amount": None, "rep": "annika"},
]


def test_parse_csv():
    text = 'name,qty,price\n"Nut, big",3,0.5\n\nBolt,,-2\n"say ""hi""\nthere",007,1e3\n'
    assert tables.parse_csv(text) == [
        {"name": "Nut, big", "qty": 3, "price": 0.5},
        {"name": "Bolt", "qty": None, "price": -2},
        {"name": 'say "hi"\nthere', "qty": "007", "price": "1e3"},
    ]
    assert tables.parse_csv("\ufeffa;b\n1;2\n", delimiter=";", numbers=False) == [{"a": "1", "b": "2"}]
    assert tables.parse_csv("a\tb\r\nx\ty", delimiter="\t") == [{"a": "x", "b": "y"}]
    assert tables.parse_csv("only,header\n") == []


@pytest.mark.parametrize("text", ["", "\n\n", "a,a\n1,2", "a,\n1,2", "a,b\n1", "a,b\n1,2,3", "a" * 1_000_001])
def test_parse_csv_refuses(text):
    with pytest.raises(ValueError, match="text"):
        tables.parse_csv(text)


@pytest.mark.parametrize("delimiter", ["", ",,", '"', "\n"])
def test_bad_delimiters(delimiter):
    with pytest.raises(ValueError, match="delimiter"):
        tables.parse_csv("a,b\n", delimiter)
    with pytest.raises(ValueError, match="delimiter"):
        tables.records_to_csv(SALES, delimiter)


cells = st.one_of(st.none(), st.integers(-(10**9), 10**9), st.text("abc,;|\"' \n", min_size=1).filter(str.strip))


@given(st.lists(st.fixed_dictionaries({"id": st.integers(0, 99), "x y": cells, "z": cells}), max_size=5))
def test_csv_round_trip(records):
    text = tables.records_to_csv(records)
    assert (tables.parse_csv(text) if records else []) == records
    with io.StringIO(text, newline="") as file:
        assert len(list(csv.DictReader(file))) == len(records)


def test_records_to_csv():
    assert tables.records_to_csv([{"a": 1, "b": None}, {"b": "x,y", "c": True}]) == 'a,b,c\n1,,\n,"x,y",true\n'
    assert tables.records_to_csv([{"a": [1, 2]}], delimiter=";") == "a\n[1, 2]\n"
    assert tables.records_to_csv([]) == ""
    with pytest.raises(ValueError, match="records\\[0\\]"):
        tables.records_to_csv([["not", "a", "record"]])


def test_records_to_markdown():
    records = [{"item": "a|b", "price": 2.5}, {"item": "two\nlines", "price": None}]
    assert tables.records_to_markdown(records) == (
        "| item | price |\n| --- | ---: |\n| a\\|b | 2.5 |\n| two lines |  |"
    )
    assert tables.records_to_markdown(SALES, ["rep", "region"]).splitlines()[2] == "| Ann | north |"
    assert tables.records_to_markdown([], ["x"]) == "| x |\n| --- |"
    for records, columns in (([], None), (SALES, ["nope"]), (SALES, []), (["x"], None)):
        with pytest.raises(ValueError):
            tables.records_to_markdown(records, columns)


def test_filter_records():
    def reps(column, operator, value):
        return [row["rep"] for row in tables.filter_records(SALES, column, operator, value)]

    assert reps("region", "=", "north") == ["Ann", "Cy", "annika"]
    assert reps("region", "!=", "north") == ["Bob"]
    assert reps("amount", ">", 7.5) == ["Ann"]
    assert reps("amount", ">=", 7.5) == ["Ann", "Cy"]
    assert reps("amount", "<", 7.5) == ["Bob"]
    assert reps("amount", "<=", 10) == ["Ann", "Bob", "Cy"]
    assert reps("amount", "=", None) == ["annika"]
    assert reps("amount", "=", 10.0) == ["Ann"]
    assert reps("amount", "=", True) == []
    assert reps("rep", "contains", "ANN") == ["Ann", "annika"]
    assert reps("rep", "<", "C") == ["Ann", "Bob"]
    assert tables.filter_records([], "any", "=", 1) == []


@pytest.mark.parametrize(
    ("column", "operator", "value"),
    [("nope", "=", 1), ("amount", "~", 1), ("amount", "<", "10"), ("amount", "contains", 1), ("rep", ">", None)],
)
def test_filter_refuses(column, operator, value):
    with pytest.raises(ValueError):
        tables.filter_records(SALES, column, operator, value)


def test_sort_records():
    def reps(by, descending=False):
        return [row["rep"] for row in tables.sort_records(SALES, by, descending)]

    assert reps(["amount"]) == ["Bob", "Cy", "Ann", "annika"]
    assert reps(["amount"], descending=True) == ["Ann", "Cy", "Bob", "annika"]
    assert reps(["region", "rep"]) == ["Ann", "Cy", "annika", "Bob"]
    assert reps(["month"], descending=True) == ["Ann", "Bob", "annika", "Cy"], "ties keep their order"
    assert tables.sort_records([], ["x"]) == []


@given(st.lists(st.fixed_dictionaries({"a": st.integers(0, 3), "b": st.integers(0, 3), "c": st.integers()})))
def test_sort_equals_tuple_sort(records):
    assert tables.sort_records(records, ["a", "b"]) == sorted(records, key=lambda row: (row["a"], row["b"]))


def test_sort_refuses():
    mixed = [{"x": 1}, {"x": "1"}]
    for records, by in (
        (SALES, []),
        (SALES, ["nope"]),
        (mixed, ["x"]),
        ([{"x": []}], ["x"]),
        ([{"x": math.nan}], ["x"]),
    ):
        with pytest.raises(ValueError):
            tables.sort_records(records, by)


def test_aggregate_records():
    assert tables.aggregate_records(SALES, ["region"], "amount") == [
        {"region": "north", "sum_amount": 17.5},
        {"region": "south", "sum_amount": 5},
    ]
    assert tables.aggregate_records(SALES, ["region", "month"], "amount", "count") == [
        {"region": "north", "month": "jan", "count_amount": 1},
        {"region": "south", "month": "jan", "count_amount": 1},
        {"region": "north", "month": "feb", "count_amount": 1},
    ]
    assert tables.aggregate_records(SALES, [], "amount", "mean") == [{"mean_amount": 7.5}]
    assert tables.aggregate_records(SALES, [], "amount", "median") == [{"median_amount": 7.5}]
    assert tables.aggregate_records(SALES, [], "amount", "max") == [{"max_amount": 10}]
    assert tables.aggregate_records(SALES[3:], ["rep"], "amount", "min") == [{"rep": "annika", "min_amount": None}]
    assert tables.aggregate_records(SALES, [], "rep", "count") == [{"count_rep": 4}]
    assert tables.aggregate_records([], ["x"], "y") == []


@pytest.mark.parametrize(
    ("group_by", "column", "operation"),
    [(["nope"], "amount", "sum"), ([], "nope", "sum"), ([], "amount", "product"), ([], "rep", "sum")],
)
def test_aggregate_refuses(group_by, column, operation):
    with pytest.raises(ValueError):
        tables.aggregate_records(SALES, group_by, column, operation)


ORDERS = [{"id": 1, "who": "a", "note": "x"}, {"id": 2, "who": "b", "note": "y"}, {"id": 3, "who": None, "note": "z"}]
PEOPLE = [{"who": "a", "city": "Rome"}, {"who": "a", "city": "Oslo"}, {"who": "c", "city": "Bern", "note": "vip"}]


def test_join_records():
    inner = [
        {"id": 1, "who": "a", "note": "x", "city": "Rome", "note_right": None},
        {"id": 1, "who": "a", "note": "x", "city": "Oslo", "note_right": None},
    ]
    assert tables.join_records(ORDERS, PEOPLE, "who") == inner
    lonely = [{**row, "city": None, "note_right": None} for row in ORDERS[1:]]
    assert tables.join_records(ORDERS, PEOPLE, "who", "left") == inner + lonely
    last = {"id": None, "who": "c", "note": None, "city": "Bern", "note_right": "vip"}
    assert tables.join_records(ORDERS, PEOPLE, "who", "outer") == [*inner, *lonely, last]
    assert tables.join_records(ORDERS, [], "who") == []
    assert tables.join_records([{"k": 1}], [{"k": 1.0, "v": 2}], "k") == [{"k": 1, "v": 2}]
    assert tables.join_records([{"k": 1}], [{"k": "1", "v": 2}], "k") == []


def test_join_refuses():
    for left, right, on, how in (
        (ORDERS, PEOPLE, "id", "inner"),
        (ORDERS, PEOPLE, "who", "cross"),
        ([{"k": 1}] * 200, [{"k": 1}] * 200, "k", "inner"),
    ):
        with pytest.raises(ValueError):
            tables.join_records(left, right, on, how)


def test_pivot_records():
    assert tables.pivot_records(SALES, "region", "month", "amount") == [
        {"region": "north", "jan": 10, "feb": 7.5},
        {"region": "south", "jan": 5, "feb": None},
    ]
    assert tables.pivot_records(SALES, "month", "region", "rep", "count") == [
        {"month": "jan", "north": 2, "south": 1},
        {"month": "feb", "north": 1, "south": None},
    ]
    assert tables.pivot_records([], "a", "b", "c") == []
    total = sum(
        cell
        for row in tables.pivot_records(SALES, "rep", "month", "amount")
        for cell in (row["jan"], row["feb"])
        if cell
    )
    assert total == tables.aggregate_records(SALES, [], "amount")[0]["sum_amount"]


@pytest.mark.parametrize(
    ("row", "column", "value", "operation"),
    [("nope", "month", "amount", "sum"), ("region", "nope", "amount", "sum"), ("region", "month", "rep", "sum")],
)
def test_pivot_refuses(row, column, value, operation):
    with pytest.raises(ValueError):
        tables.pivot_records(SALES, row, column, value, operation)
    with pytest.raises(ValueError, match="also the name"):
        tables.pivot_records([{"r": 1, "c": "r", "v": 1}], "r", "c", "v")


def test_select_columns():
    assert tables.select_columns(SALES[:1], ["rep", "amount"]) == [{"rep": "Ann", "amount": 10}]
    assert list(tables.select_columns(SALES[:1], ["amount", "rep"])[0]) == ["amount", "rep"]
    assert tables.select_columns(SALES[:1], ["rep"], {"rep": "seller"}) == [{"seller": "Ann"}]
    assert tables.select_columns([{"a": 1}, {"b": 2}], ["a", "b"]) == [{"a": 1, "b": None}, {"a": None, "b": 2}]
    for columns, rename in (
        ([], None),
        (["nope"], None),
        (["rep"], {"amount": "x"}),
        (["rep", "month"], {"rep": "month"}),
    ):
        with pytest.raises(ValueError):
            tables.select_columns(SALES, columns, rename)


def test_diff_records():
    old = [{"id": 1, "price": 5}, {"id": 2, "price": 6}, {"id": 3, "price": 7}]
    new = [{"id": 3, "price": 7.0}, {"id": 2, "price": 8, "note": "up"}, {"id": 4, "price": 1}]
    assert tables.diff_records(old, new, "id") == {
        "added": [{"id": 4, "price": 1}],
        "removed": [{"id": 1, "price": 5}],
        "changed": [{"key": 2, "changes": {"price": [6, 8], "note": [None, "up"]}}],
    }
    assert tables.diff_records(old, old[::-1], "id") == {"added": [], "removed": [], "changed": []}
    forward, backward = tables.diff_records(old, new, "id"), tables.diff_records(new, old, "id")
    assert forward["added"] == backward["removed"]
    for before, after in (([{"id": 1}, {"id": 1}], []), ([], [{"x": 1}]), ([{"id": None}], []), ([3], [])):
        with pytest.raises(ValueError):
            tables.diff_records(before, after, "id")


DOCUMENT = json.dumps(
    {"orders": [{"id": 1, "who": {"name": "Ann"}}, {"id": 2, "who": {"name": "Bob"}}], "a.b": {"c d": 5}, "none": None}
)


def test_json_path_lookup():
    def look(path):
        return tables.json_path_lookup(DOCUMENT, path)

    assert look("orders[0].who.name") == "Ann"
    assert look("$.orders[-1].id") == 2
    assert look("orders[*].who.name") == ["Ann", "Bob"]
    assert look('$["a.b"]["c d"]') == look("['a.b'].c d") == 5
    assert look("none") is None
    assert look("$") == json.loads(DOCUMENT)
    assert tables.json_path_lookup("[[1, 2], [3]]", "[*][*]") == [1, 2, 3]
    assert tables.json_path_lookup("[]", "[*].x") == []


@pytest.mark.parametrize(
    "path",
    [
        "nope",
        "orders[2]",
        "orders[-3]",
        "orders.id",
        "orders[0][0]",
        "orders[",
        "orders..id",
        ".orders",
        "none.x",
        "orders[*].x",
    ],
)
def test_json_path_lookup_refuses_paths(path):
    with pytest.raises(ValueError, match="path"):
        tables.json_path_lookup(DOCUMENT, path)


def test_json_path_lookup_refuses_texts():
    for text in ("{not json", "", "[" * 100_000):
        with pytest.raises(ValueError, match="json_text"):
            tables.json_path_lookup(text, "a")
