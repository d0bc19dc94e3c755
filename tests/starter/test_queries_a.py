"""The labelled queries of the date, text, unit and encoding tools: counts, labels, no leak from test to train."""

import json
import re
from collections import Counter
from importlib import resources
from itertools import product

import pytest

from toolscaler.starter import load_starter_documents, load_starter_queries

CATEGORIES = {"dates": "Dates", "text": "Text", "units": "Units", "encodings": "Encodings"}
FOLDER = resources.files("toolscaler.starter") / "resources"


def records(name):
    lines = (FOLDER / f"queries_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def all_records():
    return [record for name in (*CATEGORIES, "multi_a") for record in records(name)]


def tokens(text):
    return frozenset(re.findall(r"\w+|[^\w\s]", text.lower()))


def jaccard(first, second):
    return len(first & second) / len(first | second)


def tool_names(category=None):
    wanted = set(CATEGORIES.values()) if category is None else {category}
    return {document.name for document in load_starter_documents() if document.category in wanted}


@pytest.mark.parametrize(("file", "category"), CATEGORIES.items())
def test_each_tool_of_a_category_has_its_queries(file, category):
    rows = records(file)
    assert [len(record["tools"]) for record in rows] == [1] * 11
    assert {record["tools"][0] for record in rows} == tool_names(category)
    assert {(len(record["train"]), len(record["test"])) for record in rows} == {(24, 6)}


def test_multi_tool_queries_name_two_or_three_tools_of_these_categories():
    rows = records("multi_a")
    combinations = [tuple(record["tools"]) for record in rows]
    assert len(rows) >= 24
    assert len({frozenset(names) for names in combinations}) == len(rows)
    assert sum(len(record["train"]) + len(record["test"]) for record in rows) >= 72
    assert {(len(record["train"]), len(record["test"])) for record in rows} == {(2, 1)}
    assert all(len(set(names)) == len(names) and 2 <= len(names) <= 3 for names in combinations)
    assert {name for names in combinations for name in names} <= tool_names()
    assert any(len(names) == 3 for names in combinations)


def test_no_text_occurs_twice():
    texts = [" ".join(text.lower().split()) for row in all_records() for text in row["train"] + row["test"]]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


def test_texts_are_clean_and_never_name_the_tool():
    names = tool_names()
    for record in all_records():
        for text in record["train"] + record["test"]:
            assert text == text.strip()
            assert 3 <= len(text.split()) <= 35
            assert not [name for name in names if name in text]


def test_texts_of_a_tool_do_not_differ_in_values_alone():
    for record in all_records():
        shapes = Counter(re.sub(r"\d[\d.,:/-]*", "#", text.lower()) for text in record["train"] + record["test"])
        assert max(shapes.values()) == 1, record["tools"]


def test_held_out_texts_differ_from_the_training_texts_of_their_tool():
    for record in all_records():
        for held_out, seen in product(record["test"], record["train"]):
            assert jaccard(tokens(held_out), tokens(seen)) <= 0.8, (held_out, seen)


def test_the_loader_gives_these_queries_by_split():
    expected = {"train": set(), "test": set()}
    for row in all_records():
        tools = tuple(f"starter/{name}" for name in row["tools"])
        for split, pairs in expected.items():
            pairs.update((text, tools) for text in row[split])
    for split, pairs in expected.items():
        loaded = {(query.text, query.tools) for query in load_starter_queries(split)}
        assert pairs <= loaded
