"""Rows are plain text data: one for each pair of query and relevant tool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.rows import document_prompts, retrieval_rows
from toolscaler.errors import UnknownToolError

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


def test_unknown_tool_is_an_error_with_a_suggestion():
    with pytest.raises(UnknownToolError) as caught:
        retrieval_rows([ToolQuery("avg", ("math/mena",))], _CODES)
    assert caught.value.name == "math/mena"
    assert "math/mean" in caught.value.suggestions


def test_document_prompts_are_name_description_and_sentences():
    document = ToolDocument("add_days", "Adds days to a date.\nCounts  weekends too. Never fails.")
    assert document_prompts(document) == [
        "add days",
        "Adds days to a date. Counts weekends too. Never fails.",
        "Adds days to a date",
        "Counts weekends too",
        "Never fails.",
        "add days: Adds days to a date. Counts weekends too. Never fails.",
    ]
    assert document_prompts(ToolDocument("x")) == ["x"]
