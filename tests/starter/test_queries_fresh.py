"""The independently written held-out texts: four for every tool, none of them seen in training."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources

from toolscaler.starter import load_starter_documents, load_starter_queries

_LINES = (
    (resources.files("toolscaler.starter") / "resources" / "queries_fresh.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
)
_RECORDS = [json.loads(line) for line in _LINES]
_TEXTS = [text for record in _RECORDS for text in record["test"]]


def test_every_tool_has_exactly_four_texts_and_all_are_held_out() -> None:
    assert all(set(record) == {"tools", "train", "test"} and record["train"] == [] for record in _RECORDS)
    counts = Counter({record["tools"][0]: len(record["test"]) for record in _RECORDS})
    assert all(len(record["tools"]) == 1 for record in _RECORDS)
    assert len(_RECORDS) == len(counts)
    assert counts == {document.id.split("/")[1]: 4 for document in load_starter_documents()}


def test_texts_are_distinct_and_of_a_usual_length() -> None:
    assert len({text.casefold() for text in _TEXTS}) == len(_TEXTS)
    assert all(text == text.strip() and 3 <= len(text.split()) <= 35 for text in _TEXTS)


def test_no_text_occurs_among_the_training_texts() -> None:
    training = {query.text.casefold() for query in load_starter_queries("train")}
    assert training
    assert not [text for text in _TEXTS if text.casefold() in training]


def test_no_text_gives_a_tool_name_away() -> None:
    names = [document.id.split("/")[1] for document in load_starter_documents()]
    assert not [text for text in _TEXTS if any(name in text for name in names)]


def test_the_loader_gives_them_as_test_queries() -> None:
    loaded = {(query.text, query.tools) for query in load_starter_queries("test")}
    expected = {(text, (f"starter/{record['tools'][0]}",)) for record in _RECORDS for text in record["test"]}
    assert expected <= loaded
