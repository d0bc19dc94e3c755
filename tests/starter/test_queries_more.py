"""The further training texts of the starter tools: counts, no repeats, and no leak of a held-out text."""

import json
import re
from collections import Counter, defaultdict
from functools import cache
from importlib import resources

import pytest

from toolscaler.starter import load_starter_documents

TEXTS_PER_TOOL = 36
NEAR_COPY = 0.8
FOLDER = resources.files("toolscaler.starter") / "resources"
TOOLS = {document.name: document.category.lower() for document in load_starter_documents()}
ALL_FILES = sorted(
    file.name for file in FOLDER.iterdir() if file.name.startswith("queries_") and file.name.endswith(".jsonl")
)
MORE_FILES = [name for name in ALL_FILES if name.startswith("queries_more_")]


def records(name):
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def normal(text):
    return " ".join(text.lower().split())


def shape(text):
    """The text without its values."""
    return re.sub(r"\d[\d.,:/-]*", "#", text.lower())


@cache
def tokens(text):
    return frozenset(re.findall(r"\w+|[^\w\s]", text.lower()))


def jaccard(first, second):
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def near_copies(texts, others):
    """Pairs of a text and another that share most of their tokens; sizes too different cannot."""
    by_size = defaultdict(list)
    for other in set(others):
        by_size[len(tokens(other))].append((other, tokens(other)))
    found = []
    for text in texts:
        own = tokens(text)
        for size in range(int(len(own) * NEAR_COPY), int(len(own) / NEAR_COPY) + 2):
            found += [(text, other) for other, theirs in by_size[size] if jaccard(own, theirs) > NEAR_COPY]
    return found


@pytest.fixture(scope="module")
def catalogue():
    """All records by file name."""
    return {name: records(name) for name in ALL_FILES}


def test_near_copies_are_found():
    texts = ["how many cups are in a liter of milk"]
    assert near_copies(texts, ["How many cups are in a liter of the milk, then?", "a liter of milk"]) == []
    assert near_copies(texts, ["How many cups are in a liter of oat milk"]) == [
        (texts[0], "How many cups are in a liter of oat milk")
    ]


@pytest.mark.parametrize("name", MORE_FILES)
def test_each_tool_of_the_category_has_its_texts(name):
    category = name.removeprefix("queries_more_").removesuffix(".jsonl")
    rows = records(name)
    assert all(set(record) == {"tools", "train"} for record in rows), "held-out texts live in the first files alone"
    named = [tuple(record["tools"]) for record in rows]
    assert sorted(named) == sorted((tool,) for tool, own in TOOLS.items() if own == category)
    assert {len(record["train"]) for record in rows} == {TEXTS_PER_TOOL}


@pytest.mark.parametrize("name", MORE_FILES)
def test_texts_are_clean_and_never_name_a_tool(name):
    for record in records(name):
        for text in record["train"]:
            assert text == text.strip()
            assert 3 <= len(text.split()) <= 35, text
            assert not [tool for tool in TOOLS if tool in text], text


@pytest.mark.parametrize("name", MORE_FILES)
def test_texts_of_a_tool_do_not_differ_in_values_alone(name, catalogue):
    counts = defaultdict(Counter)
    for rows in catalogue.values():
        for record in rows:
            texts = record["train"] + record.get("test", [])
            counts[tuple(record["tools"])].update(shape(text) for text in texts)
    for record in records(name):
        own = counts[tuple(record["tools"])]
        assert [text for text in record["train"] if own[shape(text)] > 1] == [], record["tools"]


@pytest.mark.parametrize("name", MORE_FILES)
def test_no_text_occurs_twice(name, catalogue):
    counts = Counter(
        normal(text)
        for rows in catalogue.values()
        for record in rows
        for text in record["train"] + record.get("test", [])
    )
    assert [text for record in records(name) for text in record["train"] if counts[normal(text)] > 1] == []


@pytest.mark.parametrize("name", MORE_FILES)
def test_no_text_is_a_near_copy(name, catalogue):
    own = [text for record in records(name) for text in record["train"]]
    other = [
        text
        for file, rows in catalogue.items()
        if file != name
        for record in rows
        for text in record["train"] + record.get("test", [])
    ]
    assert near_copies(own, other) == []
    assert [pair for pair in near_copies(own, own) if pair[0] != pair[1]] == []
