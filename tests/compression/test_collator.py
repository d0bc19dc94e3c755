"""Rows and batches: literal tensors, what is cut is counted, what is empty is left out."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from toolscaler.compression import GistCollator, GistConfig, document_rows
from toolscaler.compression.collator import CompressionRow, end_token_id, query_texts
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.errors import CompressionError


def row(ids, targets, tasks):
    return CompressionRow("x", np.array(ids), tuple(np.array(t) for t in targets), tuple(tasks))


def test_collator_gives_these_tensors():
    batch = GistCollator(pad_token_id=9)([row([1, 2, 3], [[4, 5], [6]], [0, 2]), row([7], [[8]], [1])])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [9, 9, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["labels"].tolist() == [[[4, 5], [6, -100]], [[8, -100], [-100, -100]]]
    assert batch["task_ids"].tolist() == [[0, 2], [1, 0]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_collator_refuses_an_empty_batch(tokenizer):
    with pytest.raises(CompressionError, match="at least one"):
        GistCollator.from_tokenizer(tokenizer)([])


def test_rows_hold_the_documents_text_and_fields(tokenizer, documents):
    rows = document_rows(tokenizer, documents, GistConfig())
    assert [r.id for r in rows] == [d.id for d in documents]
    for document, item in zip(documents, rows, strict=True):
        assert tokenizer.decode(item.input_ids) == document.to_text()
        assert item.task_ids == (0, 1, 2, 3)
        assert [tokenizer.decode(t[:-1]) for t in item.targets] == list(document.task_targets().values())
        assert all(t[-1] == tokenizer.eos_token_id for t in item.targets)
    assert (rows.truncated_documents, rows.truncated_targets, rows.skipped_targets) == (0, 0, 0)


def test_what_is_cut_is_counted_and_logged(tokenizer, documents, caplog):
    config = GistConfig(max_content_length=30, max_target_length=8)
    whole = document_rows(tokenizer, documents, GistConfig())
    with caplog.at_level(logging.WARNING, logger="toolscaler"):
        rows = document_rows(tokenizer, documents, config)
    assert 0 < sum(len(r.input_ids) > 30 for r in whole) == rows.truncated_documents
    assert 0 < sum(len(t) > 8 for r in whole for t in r.targets) == rows.truncated_targets
    assert f"{rows.truncated_documents} of {len(documents)} documents were cut at 30 tokens" in caplog.text
    for long, short in zip(whole, rows, strict=True):
        assert short.input_ids.tolist() == long.input_ids[:30].tolist()
        assert [t.tolist() for t in short.targets] == [t[:8].tolist() for t in long.targets]


def test_fields_without_text_are_left_out(tokenizer):
    rows = document_rows(tokenizer, [ToolDocument(name="bare")], GistConfig())
    assert rows[0].task_ids == (1, 2)
    assert rows.skipped_targets == 2


def test_query_task_has_one_target_a_query(tokenizer):
    config = GistConfig(task_names=["name", "query"])
    rows = document_rows(tokenizer, [ToolDocument(name="a")], config, queries={"a": ["first?", "second?"]})
    assert rows[0].task_ids == (0, 1, 1)
    assert tokenizer.decode(rows[0].targets[2][:-1]) == "second?"


def test_rows_refuse_what_cannot_be_trained_on(tokenizer):
    with pytest.raises(CompressionError, match="needs ToolDocument"):
        document_rows(tokenizer, ["plain text"], GistConfig())
    with pytest.raises(CompressionError, match="task 'colour'"):
        document_rows(tokenizer, [ToolDocument(name="a")], GistConfig(task_names=["colour"]))
    with pytest.raises(CompressionError, match="none of the tasks"):
        document_rows(tokenizer, [ToolDocument(name="a")], GistConfig(task_names=["description"]))


def test_query_texts_choose_by_seed_and_not_by_company():
    queries = [ToolQuery(text=f"{tool} {i}", tools=(tool,)) for tool in "abc" for i in range(10)]
    some = query_texts(queries, ["a", "b"], limit=3, seed=1)
    assert set(some) == {"a", "b"}
    assert all(len(texts) == 3 for texts in some.values())
    assert query_texts(queries, ["a"], limit=3, seed=1)["a"] == some["a"]
    assert query_texts(queries, ["a"], limit=3, seed=2)["a"] != some["a"]
    assert query_texts({"a": ["x", "x", " "]}, ["a"]) == {"a": ["x"]}
    assert query_texts(None, ["a"]) == {}
    with pytest.raises(CompressionError, match="none of their tools"):
        query_texts(queries, ["z"])


def test_end_token_needs_a_token():
    class Bare:
        eos_token_id = sep_token_id = None

    class Separator:
        eos_token_id, sep_token_id = None, 7

    assert end_token_id(Separator()) == 7
    with pytest.raises(CompressionError, match="eos_token"):
        end_token_id(Bare())
