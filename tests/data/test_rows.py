"""Rows are plain text data: one a pair for retrieval, one a document with m targets for compression."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toolscaler.data.documents import TASK_FIELDS, ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.rows import compression_rows, example_queries, retrieval_rows
from toolscaler.errors import ConfigError, DataError, UnknownToolError

_CODES = {"weather/rain": "<a_1><b_2>", "math/sum": "<a_3><b_0>", "math/mean": "<a_3><b_1>"}
_DOCUMENTS = [
    ToolDocument("rain", "Says whether it rains.", provider="weather", category="Weather"),
    ToolDocument("sum", "Adds numbers.", code="def sum(values): ..."),
]


def test_one_row_for_each_pair():
    queries = [
        ToolQuery("rain and total?", ("math/sum", "weather/rain")),
        ToolQuery("hello"),
        ToolQuery("avg", ("math/mean",)),
    ]
    assert retrieval_rows(queries, _CODES) == [
        {"prompt": "rain and total?", "completion": "<a_3><b_0>"},
        {"prompt": "rain and total?", "completion": "<a_1><b_2>"},
        {"prompt": "avg", "completion": "<a_3><b_1>"},
    ]


@given(st.lists(st.lists(st.sampled_from(sorted(_CODES)), max_size=5)))
def test_number_of_rows_is_number_of_labels(labels):
    queries = [ToolQuery("q", tuple(tools)) for tools in labels]
    rows = retrieval_rows(queries, _CODES)
    assert len(rows) == sum(len(set(tools)) for tools in labels)
    assert [row["completion"] for row in rows] == [_CODES[tool] for query in queries for tool in query.tools]


def test_prompt_makes_the_model_input():
    rows = retrieval_rows([ToolQuery("avg", ("math/mean",))], _CODES, prompt="User: {}\n".format)
    assert rows == [{"prompt": "User: avg\n", "completion": "<a_3><b_1>"}]


def test_unknown_tool_is_an_error_with_a_suggestion():
    with pytest.raises(UnknownToolError) as caught:
        retrieval_rows([ToolQuery("avg", ("math/mena",))], _CODES)
    assert caught.value.name == "math/mena"
    assert "math/mean" in caught.value.suggestions


def test_compression_rows_hold_content_and_each_target():
    rows = compression_rows(_DOCUMENTS)
    assert [row["tool"] for row in rows] == ["weather/rain", "sum"]
    for row, document in zip(rows, _DOCUMENTS, strict=True):
        assert row["content"] == document.to_text()
        assert row["targets"] == document.task_targets()
        assert tuple(row["targets"]) == TASK_FIELDS
    assert rows[0]["targets"]["code"] == "rain()"  # no code: the signature
    assert rows[1]["targets"] == {
        "category": "", "name": "sum", "code": "def sum(values): ...", "description": "Adds numbers.",
    }  # fmt: skip
    assert json.loads(json.dumps(rows)) == rows


def test_generation_targets_come_after_the_fields():
    queries = [
        ToolQuery("rain and total?", ("weather/rain", "elsewhere")),
        ToolQuery("umbrella?", ("weather/rain",)),
        ToolQuery("coat?", ("weather/rain",)),
    ]
    assert example_queries(queries) == {"weather/rain": "umbrella?", "elsewhere": "rain and total?"}
    rows = compression_rows(_DOCUMENTS, {"query": example_queries(queries)}, fields=("name", "category"))
    assert rows[0]["targets"] == {"name": "weather rain", "category": "Weather", "query": "umbrella?"}
    assert rows[1]["targets"] == {"name": "sum", "category": "", "query": ""}
    assert [list(row["targets"]) for row in rows] == [["name", "category", "query"]] * 2


def test_bad_tasks_are_named():
    with pytest.raises(ConfigError, match="fields: got 'title'"):
        compression_rows(_DOCUMENTS, fields=("title",))
    with pytest.raises(ConfigError, match="generation_targets: got 'code'"):
        compression_rows(_DOCUMENTS, {"code": {"sum": "x"}})
    with pytest.raises(DataError, match=r"'query'.*got none"):
        compression_rows(_DOCUMENTS, {"query": {"nobody": "x"}})


def test_nothing_in_nothing_out():
    assert retrieval_rows([], {}) == []
    assert compression_rows([], {"query": {}}) == []
