"""Splits share no text (and, by tool, no held-out label), lose nothing, and depend on the set and the seed alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.data.queries import ToolQuery
from toolscaler.data.splits import QuerySplits, split_queries, text_key
from toolscaler.errors import ConfigError, DataError

_WORDS = (
    "rain",
    "Rain",
    "rain ",
    "sum of\ttwo",
    "sum of two",
    "map",
    "train fare",
    "word count",
    "日本",
    "STRASSE",
    "straße",
)
_TOOLS = tuple(f"tool_{number}" for number in range(8))


@st.composite
def query_lists(draw: st.DrawFn) -> list[ToolQuery]:
    texts = st.sampled_from(_WORDS) | st.text(min_size=1, max_size=6).filter(lambda text: text.strip())
    labels = st.lists(st.sampled_from(_TOOLS), max_size=3).map(tuple)
    rows = draw(st.lists(st.tuples(texts, labels), max_size=40))
    return [ToolQuery(text, tools, id=str(number)) for number, (text, tools) in enumerate(rows)]


def _twin_key(text: str) -> str:
    return " ".join(text.casefold().split())


def _check_partition(queries: list[ToolQuery], splits: QuerySplits) -> None:
    ids = [query.id for _, part in splits.items() for query in part]
    assert Counter(ids) == Counter(query.id for query in queries)
    for _, part in splits.items():
        positions = [int(query.id) for query in part]
        assert positions == sorted(positions)  # input order inside a part
    keys = [{_twin_key(query.text) for query in part} for _, part in splits.items()]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]


@given(query_lists(), st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.1, 0.3]))
def test_by_query_is_a_partition_with_the_sizes_asked_for(queries, seed, test_size, validation_size):
    count = len({_twin_key(query.text) for query in queries})
    wanted = [min(count, max(1, round(size * count))) if size else 0 for size in (test_size, validation_size)]
    if count and sum(wanted) >= count:
        with pytest.raises(ConfigError, match="left to train on"):
            split_queries(queries, "query", test_size=test_size, validation_size=validation_size, seed=seed)
        return
    splits = split_queries(queries, "query", test_size=test_size, validation_size=validation_size, seed=seed)
    _check_partition(queries, splits)
    assert len({_twin_key(query.text) for query in splits.test}) == wanted[0]
    assert len({_twin_key(query.text) for query in splits.validation}) == wanted[1]


@given(query_lists(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2))
def test_by_tool_keeps_held_out_tools_out_of_training(queries, seed, test_size, validation_size):
    tools = {tool for query in queries for tool in query.tools}
    try:
        splits = split_queries(queries, "tool", test_size=test_size, validation_size=validation_size, seed=seed)
    except ConfigError:
        return  # too little to train on: the other tests say when
    _check_partition(queries, splits)
    held = set(splits.test_tools) | set(splits.validation_tools)
    assert held <= tools
    if tools:
        assert (len(splits.test_tools), len(splits.validation_tools)) == (test_size, validation_size)
    assert not held & {tool for query in splits.train for tool in query.tools}
    assert not set(splits.test_tools) & {tool for query in splits.validation for tool in query.tools}
    labels: dict[str, set[str]] = {}
    for query in queries:
        labels.setdefault(_twin_key(query.text), set()).update(query.tools)
    for query in splits.test:
        assert labels[_twin_key(query.text)] & set(splits.test_tools)
    for query in splits.validation:
        assert labels[_twin_key(query.text)] & set(splits.validation_tools)


@given(query_lists(), st.randoms(use_true_random=False), st.sampled_from(["query", "tool"]))
def test_input_order_changes_nothing(queries, rng: random.Random, by):
    def parts(pool: list[ToolQuery]) -> dict[str, set[str]] | str:
        try:
            splits = split_queries(pool, by, test_size=1, validation_size=1, seed=5)
        except ConfigError as error:
            return str(error)
        return {name: {query.id for query in part} for name, part in splits.items()}

    shuffled = list(queries)
    rng.shuffle(shuffled)
    assert parts(shuffled) == parts(queries)


@pytest.mark.parametrize("by", ["query", "tool"])
def test_seeds_give_the_same_split_twice_and_others_with_another_seed(by):
    queries = [ToolQuery(f"question {number}", (f"tool_{number % 30}",)) for number in range(90)]
    first = split_queries(queries, by, test_size=0.2, seed=1)
    assert first == split_queries(queries, by, test_size=0.2, seed=1)
    assert first != split_queries(queries, by, test_size=0.2, seed=2)
    assert first.sizes() == {"train": 72, "validation": 0, "test": 18}


def test_the_choice_does_not_change_between_versions():
    queries = [ToolQuery(f"question {number}") for number in range(10)]
    test = split_queries(queries, "query", test_size=2, seed=0).test
    # sha256 of "0\0question N", the two smallest: worked out once by hand with sha256sum
    import hashlib

    order = sorted(range(10), key=lambda n: hashlib.sha256(f"0\0question {n}".encode()).hexdigest())
    assert {query.text for query in test} == {f"question {number}" for number in order[:2]}


def test_growing_the_test_part_keeps_what_was_in_it():
    queries = [ToolQuery(f"question {number}") for number in range(50)]
    small = {query.text for query in split_queries(queries, "query", test_size=5).test}
    large = {query.text for query in split_queries(queries, "query", test_size=15).test}
    assert small < large


def test_given_follows_the_source():
    names = ["train", "Training", "dev", "valid", "validation", "val", "test", "test_in_domain", "eval-2"]
    splits = split_queries([ToolQuery(name, split=name) for name in names], by="given")
    assert [query.text for query in splits.train] == ["train", "Training"]
    assert [query.text for query in splits.validation] == ["dev", "valid", "validation", "val"]
    assert [query.text for query in splits.test] == ["test", "test_in_domain", "eval-2"]


def test_given_with_names_of_the_source():
    queries = [ToolQuery("a", split="G1_tool"), ToolQuery("b", split="G1_category"), ToolQuery("c", split="test")]
    splits = split_queries(queries, parts={"G1_tool": "validation", "G1_category": "drop", "test": "train"})
    assert (splits.train, splits.validation, splits.test) == ([queries[2]], [queries[0]], [])


def test_given_refuses_splits_it_does_not_know():
    queries = [ToolQuery("a", split="G1_tool"), ToolQuery("b"), ToolQuery("c"), ToolQuery("d", split="testament")]
    with pytest.raises(DataError, match=r"'' \(2\), 'G1_tool' \(1\), 'testament' \(1\).*parts="):
        split_queries(queries)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"by": "category"}, "by"),
        ({"by": "query", "test_size": 1.0}, "test_size"),
        ({"by": "query", "test_size": -1}, "test_size"),
        ({"by": "query", "test_size": True}, "test_size"),
        ({"by": "query", "test_size": "0.1"}, "test_size"),
        ({"by": "query", "validation_size": -0.1}, "validation_size"),
        ({"by": "query", "test_size": 3}, "test_size + validation_size"),
        ({"by": "query", "parts": {}}, "parts"),
        ({"by": "given", "parts": {"x": "holdout"}}, "parts['x']"),
    ],
)
def test_bad_settings_are_named(options, key):
    with pytest.raises(ConfigError) as caught:
        split_queries([ToolQuery("a", ("t",)), ToolQuery("b", ("u",)), ToolQuery("c", ("v",))], **options)
    assert caught.value.key == key


def test_by_tool_refuses_to_leave_nothing_to_train_on():
    queries = [ToolQuery("a", ("t", "u", "v")), ToolQuery("b", ("u", "t", "v"))]
    with pytest.raises(ConfigError, match="queries to train on"):
        split_queries(queries, "tool", test_size=1)


def test_no_queries_give_empty_parts():
    for by in ("given", "query", "tool"):
        assert split_queries([], by).sizes() == {"train": 0, "validation": 0, "test": 0}


def test_text_key_ignores_case_and_spacing_only():
    assert text_key("  Sum\nof TWO ") == text_key("sum of two")
    assert text_key("sum of two") != text_key("sum of two?")
