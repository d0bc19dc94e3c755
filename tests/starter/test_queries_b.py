"""The written queries of the statistics, sequence, geometry and finance tools keep their promises."""

import json
import re
from collections import Counter
from importlib import resources

import pytest

from toolscaler.starter.registry import load_starter_documents

CATEGORIES = ("Statistics", "Sequences", "Geometry", "Finance")
TOOLS = {d.name: d.category for d in load_starter_documents() if d.category in CATEGORIES}


def records(stem):
    file = resources.files("toolscaler.starter") / "resources" / f"queries_{stem}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def words(text):
    return frozenset(re.findall(r"\w+", text.lower()))


def jaccard(a, b):
    return len(a & b) / len(a | b)


SINGLE = {category: records(category.lower()) for category in CATEGORIES}
MULTI = records("multi_b")


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_tool_has_twenty_four_training_and_six_held_out_texts(category):
    named = [record["tools"] for record in SINGLE[category]]
    assert sorted(named) == sorted([name] for name, own in TOOLS.items() if own == category)
    assert len(named) == 11
    for record in SINGLE[category]:
        assert set(record) == {"tools", "train", "test"}
        assert (len(record["train"]), len(record["test"])) == (24, 6), record["tools"]


def test_multi_tool_queries_name_two_or_three_tools_each_and_are_enough():
    combinations = [tuple(record["tools"]) for record in MULTI]
    assert len(set(combinations)) == len(combinations) >= 24
    for record in MULTI:
        assert 2 <= len(set(record["tools"])) == len(record["tools"]) <= 3
        assert set(record["tools"]) <= set(TOOLS)
        assert (len(record["train"]), len(record["test"])) == (2, 1), record["tools"]
    assert sum(len(record["train"]) + len(record["test"]) for record in MULTI) >= 72
    across = [names for names in combinations if len({TOOLS[name] for name in names}) > 1]
    assert len(across) >= 6


def test_no_text_occurs_twice():
    everything = [record for group in (*SINGLE.values(), MULTI) for record in group]
    counts = Counter(
        " ".join(text.lower().split()) for record in everything for text in record["train"] + record["test"]
    )
    assert [text for text, count in counts.items() if count > 1] == []


def test_texts_are_tidy():
    for record in [record for group in (*SINGLE.values(), MULTI) for record in group]:
        for text in record["train"] + record["test"]:
            assert text == " ".join(text.split())
            assert 2 <= len(text.split()) <= 45, text
            assert not any(name in text.lower() for name in TOOLS), text


def test_held_out_texts_are_no_near_copies_of_training_texts():
    for record in [record for group in (*SINGLE.values(), MULTI) for record in group]:
        training = [words(text) for text in record["train"]]
        for text in record["test"]:
            closest = max(jaccard(words(text), other) for other in training)
            assert closest <= 0.8, (record["tools"], text)


def test_texts_of_a_tool_do_not_differ_in_their_numbers_alone():
    for record in [record for group in (*SINGLE.values(), MULTI) for record in group]:
        shapes = Counter(re.sub(r"[\d.,;%\s]+", " ", text.lower()).strip() for text in record["train"] + record["test"])
        assert [shape for shape, count in shapes.items() if count > 1 and len(shape.split()) > 1] == []
