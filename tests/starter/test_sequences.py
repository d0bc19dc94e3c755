"""Sequence tools against brute force and round trips."""

import json
from itertools import chain, groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.starter.registry import load_starter_documents
from toolscaler.starter.tools.sequences import (
    chunk_list,
    flatten_list,
    interleave_lists,
    list_difference,
    longest_run,
    merge_sorted_lists,
    remove_duplicates,
    rotate_list,
    running_totals,
    sliding_windows,
    top_values,
)

letters = st.lists(st.sampled_from("abcd"), max_size=20)
integers = st.lists(st.integers(-20, 20), max_size=20)


def test_the_category_has_eleven_documented_tools():
    documents = [d for d in load_starter_documents() if d.category == "Sequences"]
    assert len(documents) == 11
    for document in documents:
        assert all(schema.get("description") for schema in document.parameters["properties"].values())
        assert document.returns["description"]
        assert document.description.count(".") >= 2


def test_chunk_list():
    assert chunk_list([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
    assert chunk_list([1], 5) == [[1]]
    assert chunk_list([], 3) == []


@given(letters, st.integers(1, 6))
def test_chunk_list_loses_nothing(items, size):
    chunks = chunk_list(items, size)
    assert list(chain(*chunks)) == items
    assert all(len(chunk) == size for chunk in chunks[:-1])


def test_remove_duplicates():
    assert remove_duplicates(["b", "a", "b", "B"]) == ["b", "a", "B"]
    assert remove_duplicates([1, "1", True, 1.0, None, None]) == [1, "1", True, None]
    assert remove_duplicates([[1, 2], [1, 2], {"a": 1, "b": 2}, {"b": 2, "a": 1}]) == [[1, 2], {"a": 1, "b": 2}]


@given(letters)
def test_remove_duplicates_like_dict(items):
    assert remove_duplicates(items) == list(dict.fromkeys(items))


def test_rotate_list():
    assert rotate_list([1, 2, 3, 4], 1) == [4, 1, 2, 3]
    assert rotate_list([1, 2, 3, 4], 1, "left") == [2, 3, 4, 1]
    assert rotate_list([1, 2, 3], 7, "left") == [2, 3, 1]
    assert rotate_list([], 3) == []


@given(letters, st.integers(0, 50))
def test_rotate_list_and_back(items, steps):
    assert rotate_list(rotate_list(items, steps, "right"), steps, "left") == items


def test_interleave_lists():
    assert interleave_lists([[1, 2], ["a", "b"]]) == [1, "a", 2, "b"]
    assert interleave_lists([[1, 2, 3], ["a"]]) == [1, "a", 2, 3]
    assert interleave_lists([[1], [2], [None]]) == [1, 2, None]
    assert interleave_lists([[], []]) == []


def test_sliding_windows():
    assert sliding_windows([1, 2, 3, 4], 2) == [[1, 2], [2, 3], [3, 4]]
    assert sliding_windows([1, 2, 3, 4, 5], 3, step=2) == [[1, 2, 3], [3, 4, 5]]
    assert sliding_windows([1, 2], 3) == []


@given(letters, st.integers(1, 5))
def test_sliding_windows_count(items, width):
    windows = sliding_windows(items, width)
    assert len(windows) == max(0, len(items) - width + 1)
    assert all(window == items[i : i + width] for i, window in enumerate(windows))


def test_merge_sorted_lists():
    assert merge_sorted_lists([[1, 4], [2, 3]]) == [1, 2, 3, 4]
    assert merge_sorted_lists([[9, 2], [5, 5]], descending=True) == [9, 5, 5, 2]
    assert merge_sorted_lists([[], [1], [0]]) == [0, 1]


@given(st.lists(integers, min_size=2, max_size=4))
def test_merge_sorted_lists_like_sorting(lists):
    assert merge_sorted_lists([sorted(row) for row in lists]) == sorted(chain(*lists))


def test_flatten_list():
    assert flatten_list([1, [2, [3, [4]]], []]) == [1, 2, 3, 4]
    assert flatten_list([1, [2, [3]]], depth=1) == [1, 2, [3]]
    assert flatten_list([[1]], depth=0) == [[1]]
    assert flatten_list(["ab", ["cd"]]) == ["ab", "cd"]


@given(letters, st.integers(1, 4))
def test_flatten_list_undoes_chunks(items, size):
    assert flatten_list(chunk_list(items, size)) == items


def test_longest_run():
    assert longest_run(["w", "l", "w", "w", "w", "l"]) == {"value": "w", "length": 3, "start": 2}
    assert longest_run([1, 1, 2, 2]) == {"value": 1, "length": 2, "start": 0}
    assert longest_run([1, True, "1"]) == {"value": 1, "length": 1, "start": 0}


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=20))
def test_longest_run_like_groupby(items):
    run = longest_run(items)
    assert run["length"] == max(len(list(group)) for _, group in groupby(items))
    assert items[run["start"] : run["start"] + run["length"]] == [run["value"]] * run["length"]


def test_top_values():
    assert top_values([4, 9, 1, 9], 2) == [9, 9]
    assert top_values([4, 9, 1], 2, "smallest") == [1, 4]
    assert top_values([2], 5) == [2]


@given(integers, st.integers(1, 8))
def test_top_values_like_sorting(values, count):
    assert top_values(values, count) == sorted(values, reverse=True)[:count]
    assert top_values(values, count, "smallest") == sorted(values)[:count]


def test_list_difference():
    assert list_difference(["eggs", "milk", "tea", "eggs"], ["milk"]) == ["eggs", "tea"]
    assert list_difference([1, 2, 3], [3, 5, 4], "not_in_both") == [1, 2, 5, 4]
    assert list_difference([], [1]) == []
    assert list_difference([1, True, "1"], [1.0]) == [True, "1"]


@given(integers, integers)
def test_list_difference_like_sets(first, second):
    assert set(list_difference(first, second)) == set(first) - set(second)
    assert set(list_difference(first, second, "not_in_both")) == set(first) ^ set(second)
    only = list_difference(first, second)
    assert only == [item for item in dict.fromkeys(first) if item not in second]


def test_running_totals():
    assert running_totals([1, 2, 3]) == [1, 3, 6]
    assert running_totals([-5, 10], start=100) == [95, 105]
    assert running_totals([]) == []


@given(integers)
def test_running_totals_like_sums(values):
    assert running_totals(values) == [sum(values[: i + 1]) for i in range(len(values))]


@pytest.mark.parametrize(
    "call",
    [
        lambda: chunk_list([1], 0),
        lambda: chunk_list("abc", 2),
        lambda: chunk_list([1], True),
        lambda: remove_duplicates("aa"),
        lambda: remove_duplicates([{1, 2}]),
        lambda: rotate_list([1], -1),
        lambda: rotate_list([1], 1, "up"),
        lambda: interleave_lists([[1]]),
        lambda: interleave_lists([[1], 2]),
        lambda: sliding_windows([1], 0),
        lambda: sliding_windows([1], 1, step=0),
        lambda: merge_sorted_lists([[2, 1], [3]]),
        lambda: merge_sorted_lists([[1, 2], [3]], descending=True),
        lambda: merge_sorted_lists([[1]]),
        lambda: merge_sorted_lists([["a"], [1]]),
        lambda: flatten_list(3),
        lambda: flatten_list([1], depth=-1),
        lambda: longest_run([]),
        lambda: longest_run("aab"),
        lambda: top_values([1], 0),
        lambda: top_values([1], 1, "middle"),
        lambda: top_values([float("inf")], 1),
        lambda: list_difference([1], 2),
        lambda: list_difference([1], [2], "both"),
        lambda: running_totals(["1"]),
        lambda: running_totals([1], start="0"),
    ],
)
def test_bad_values_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()


def test_results_are_plain_json():
    results = [longest_run([None, None]), chunk_list([{"a": 1}], 1), interleave_lists([[1], ["x"]])]
    assert json.loads(json.dumps(results)) == results
