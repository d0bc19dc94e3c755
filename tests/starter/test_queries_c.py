"""The queries of the Files, Graphs, Numbers and Tables tools: counts, names, and splits that do not leak."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib import resources

import pytest

from toolscaler.starter import load_starter_documents

CATEGORIES = ("files", "graphs", "numbers", "tables")
FOLDER = resources.files("toolscaler.starter") / "resources"


def _lines(name):
    return [json.loads(line) for line in (FOLDER / f"queries_{name}.jsonl").read_text(encoding="utf-8").splitlines()]


LINES = {name: _lines(name) for name in (*CATEGORIES, "multi_c")}
DOCUMENTS = load_starter_documents()


def _words(text):
    return set(re.findall(r"\w+", text.lower()))


def _similarity(first, second):
    return len(_words(first) & _words(second)) / len(_words(first) | _words(second))


@pytest.mark.parametrize("category", CATEGORIES)
def test_each_tool_of_the_category_has_one_line(category):
    names = [document.name for document in DOCUMENTS if document.category == category.title()]
    assert len(names) == 11
    assert sorted(line["tools"][0] for line in LINES[category]) == sorted(names)
    assert all(len(line["tools"]) == 1 for line in LINES[category])


@pytest.mark.parametrize("category", CATEGORIES)
def test_counts_and_form(category):
    for line in LINES[category]:
        assert list(line) == ["tools", "train", "test"]
        assert (len(line["train"]), len(line["test"])) == (24, 6), line["tools"]


@pytest.mark.parametrize("category", CATEGORIES)
def test_lengths_vary(category):
    for line in LINES[category]:
        lengths = [len(text.split()) for text in line["train"] + line["test"]]
        assert min(lengths) >= 3
        assert max(lengths) <= 36
        assert max(lengths) - min(lengths) >= 8, line["tools"]


def test_no_text_occurs_twice():
    texts = [
        " ".join(text.lower().split()) for lines in LINES.values() for e in lines for text in e["train"] + e["test"]
    ]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


@pytest.mark.parametrize("category", CATEGORIES)
def test_no_held_out_text_is_nearly_a_training_text(category):
    for line in LINES[category]:
        for text in line["test"]:
            near = [other for other in line["train"] if _similarity(text, other) > 0.8]
            assert not near, (text, near)


@pytest.mark.parametrize("category", CATEGORIES)
def test_texts_are_no_template_with_slots(category):
    for line in LINES[category]:
        texts = line["train"] + line["test"]
        # values (numbers, file names, single letters) masked, every text must still be its own sentence
        masked = [re.sub(r"\S*[\d_./]\S*|\b\w\b", "#", text.lower()) for text in texts]
        assert [text for text, count in Counter(masked).items() if count > 1] == [], line["tools"]
        openings = Counter(" ".join(text.lower().split()[:3]) for text in texts)
        assert max(openings.values()) <= 4, (line["tools"], openings.most_common(1))


@pytest.mark.parametrize("category", CATEGORIES)
def test_no_text_names_its_function(category):
    for line in LINES[category]:
        assert not [text for text in line["train"] + line["test"] if line["tools"][0] in text]


def test_queries_of_several_tools():
    known = {document.name for document in DOCUMENTS if document.category.lower() in CATEGORIES}
    lines = LINES["multi_c"]
    assert len({tuple(line["tools"]) for line in lines}) == len(lines) >= 24
    assert sum(len(line["train"]) + len(line["test"]) for line in lines) >= 72
    for line in lines:
        assert len(line["tools"]) in (2, 3)
        assert set(line["tools"]) <= known
        assert (len(line["train"]), len(line["test"])) == (2, 1)
        for text in line["test"]:
            assert all(_similarity(text, other) <= 0.8 for other in line["train"])
    category = {document.name: document.category for document in DOCUMENTS}
    assert sum(len({category[name] for name in line["tools"]}) > 1 for line in lines) >= 5
