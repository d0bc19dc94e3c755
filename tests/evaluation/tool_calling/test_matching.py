"""Contract: sequences of calls are compared call by call, whatever results are named and however calls are ordered."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.data.trajectories import ToolCall
from toolscaler.evaluation.tool_calling.assignment import best_assignment
from toolscaler.evaluation.tool_calling.matching import match_sequences
from toolscaler.evaluation.tool_calling.predictions import PredictedCalls, read_prediction
from toolscaler.evaluation.tool_calling.tasks import ToolCallTask
from toolscaler.evaluation.tool_calling.values import same_json


def match(predicted, reference, kind="sequence", **more):
    calls = tuple(ToolCall(*call) for call in reference)
    return match_sequences(read_prediction(predicted), ToolCallTask("t", "q", calls, **more), kind)


@given(st.integers(1, 5), st.integers(0, 3), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_best_assignment_is_the_best_of_all(rows, more, seed):
    rng = random.Random(seed)
    weights = [[rng.choice([0.0, 1.0, rng.random() * 5]) for _ in range(rows + more)] for _ in range(rows)]
    found = best_assignment(weights)
    best = max(
        sum(weights[row][column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(rows + more), rows)
    )
    assert len(set(found)) == rows
    assert sum(weights[row][column] for row, column in enumerate(found)) == pytest.approx(best)


def test_best_assignment_of_nothing_and_of_too_many_rows():
    assert best_assignment([]) == []
    with pytest.raises(ValueError, match="no more rows"):
        best_assignment([[1.0], [1.0]])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (0, False, False),
        ("1", 1, False),
        (None, None, True),
        (None, 0, False),
        ([1, {"a": 2}], [1.0, {"a": 2.0}], True),
        ([1, 2], [2, 1], False),
        ({"a": True}, {"a": 1}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([], {}, False),
    ],
    ids=str,
)
def test_values_are_compared_as_json(first, second, same):
    assert same_json(first, second) is same
    assert same_json(second, first) is same


def test_counts_by_hand():
    reference = [("find", {"city": "Bonn", "n": 3}), ("book", {"id": 7}), ("find", {"city": "Köln"})]
    predicted = [("find", {"city": "Köln", "n": 1}), ("find", {"city": "Bonn", "n": 3.0}), ("pay", {})]
    found = match(predicted, reference)
    # Tools: find twice of find, find, book. Calls: find(Bonn, 3). Arguments: Bonn, 3 and Köln of 4 predicted, 4 wanted.
    assert (found.tools.both, found.tools.predicted, found.tools.reference) == (2, 3, 3)
    assert (found.calls.both, found.arguments.both) == (1, 3)
    assert (found.arguments.predicted, found.arguments.reference) == (4, 4)
    assert found.arguments.f1 == pytest.approx(0.75)
    assert (found.exact, found.unordered, found.ordered, found.tools_in_order) == (False, False, False, False)
    assert found.partial == pytest.approx(1 / 3)


def test_order():
    a, b, c = ("a", {"x": 1}), ("b", {}), ("c", {})
    turned = match([b, a], [a, b])
    assert (turned.exact, turned.unordered, turned.ordered, turned.partial) == (False, True, False, 0.5)
    more = match([c, a, c, b], [a, b])
    assert (more.exact, more.unordered, more.ordered, more.partial) == (False, False, True, 0.5)
    assert (more.calls.precision, more.calls.recall) == (0.5, 1.0)
    wrong = match([("a", {"x": 2}), b], [a, b])
    assert (wrong.tools_in_order, wrong.exact, wrong.calls.f1) == (True, False, 0.5)


def test_nothing_wanted_and_nothing_given():
    both = match([], [])
    assert (both.exact, both.unordered, both.partial, both.tools.f1, both.calls.precision) == (
        True,
        True,
        1.0,
        1.0,
        1.0,
    )
    for predicted, reference in (([("a", {})], []), ([], [("a", {})])):
        found = match(predicted, reference)
        assert (found.exact, found.unordered, found.tools.f1, found.calls.f1) == (False, False, 0.0, 0.0)


NESTED = [
    ("airport", {"name": "Oslo"}, "var1"),
    ("airport", {"name": "Rome"}, "var2"),
    ("fly", {"from": "$var1.id$", "to": "$var2.id$", "note": "to $var2.name$!"}, "var3"),
]


def test_dependencies_mean_calls_not_labels():
    turned = [
        {"name": "airport", "arguments": {"name": "Oslo"}, "label": "$start"},
        {"name": "airport", "arguments": {"name": "Rome"}, "label": "var_9"},
        {"name": "fly", "arguments": {"from": "$var_7.id$", "to": "$var_9.id$", "note": "to $var9.name$!"}},
    ]
    found = match(turned, NESTED, "nestful")
    # `from` names no call of this sequence; `to` and `note` mean the second airport.
    assert (found.dependencies.both, found.dependencies.predicted, found.dependencies.reference) == (2, 2, 3)
    assert found.arguments.both == 4
    turned[0]["label"] = "var7"
    assert match(turned, NESTED, "nestful").exact
    assert not match(turned, NESTED).exact  # as plain texts they differ


def test_independent_calls_may_change_places():
    turned = [("airport", {"name": "Rome"}), ("airport", {"name": "Oslo"})]
    fly = {"from": "$var2.id$", "to": "$var1.id$", "note": "to $var1.name$!"}
    found = match([*turned, ("fly", fly)], NESTED, "nestful")
    assert (found.unordered, found.exact, found.dependencies.both) == (True, False, 3)
    # One wrong argument does not spoil what builds on the call.
    wrong = match([("airport", {"name": "Rom"}), turned[1], ("fly", fly)], NESTED, "nestful")
    assert (wrong.calls.both, wrong.arguments.both, wrong.dependencies.both) == (2, 4, 3)
    # Chains: the second `step` is the one that builds on the first.
    chain = [("step", {"of": "a"}, "var1"), ("step", {"of": "$var1$"}, "var2"), ("step", {"of": "$var2$"}, "var3")]
    assert match([call[:2] for call in chain], chain, "nestful").exact
    broken = [chain[0][:2], ("step", {"of": "$var1$"}), ("step", {"of": "$var1$"})]
    assert match(broken, chain, "nestful").calls.both == 2


def test_a_result_may_only_be_used_after_its_call():
    early = [("fly", {"from": "$var2.id$", "to": "$var3.id$", "note": ""}), *(call[:2] for call in NESTED[:2])]
    assert match(early, NESTED, "nestful").dependencies.both == 0


def test_results_that_are_counted():
    reference = [("search", {"q": "x"}), ("read", {"doc": "API_call_1", "part": "API_call_0"})]
    outputs = {"search": 2, "read": 1, "other": 3}
    more = [("other", {}), ("search", {"q": "x"}), ("read", {"doc": "API_call_4", "part": "API_call_3"})]
    found = match(more, reference, "seal-tools", outputs=outputs)
    assert (found.calls.both, found.dependencies.both, found.ordered) == (2, 2, True)
    said = [
        {"api": "search", "parameters": {"q": "x"}, "responses": ["API_call_8", "API_call_9"]},
        {"api": "read", "parameters": {"doc": "API_call_9", "part": "API_call_8"}, "responses": ["API_call_10"]},
    ]
    assert match(said, reference, "seal-tools", outputs=outputs).exact
    shifted = [("search", {"q": "x"}), ("read", {"doc": "API_call_0", "part": "API_call_1"})]
    assert match(shifted, reference, "seal-tools", outputs=outputs).dependencies.both == 0


def test_placeholders_take_any_value():
    reference = [("ship", {"order": "<order id>", "to": "Bonn"})]
    assert match([("ship", {"order": 17, "to": "Bonn"})], reference, "ultratool").exact
    assert not match([("ship", {"order": 17, "to": "Rom"})], reference, "ultratool").exact
    assert not match([("ship", {"to": "Bonn"})], reference, "ultratool").exact
    assert not match([("ship", {"order": 17, "to": "Bonn"})], reference).exact


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.dictionaries(st.sampled_from("xy"), st.integers(0, 2))), max_size=5)
)
@settings(max_examples=50, deadline=None)
def test_a_sequence_is_itself_in_any_order(calls):
    found = match(calls, calls)
    assert found.exact
    assert found.calls.f1 == found.arguments.f1 == found.tools.f1 == 1.0
    turned = match(calls[::-1], calls)
    assert turned.unordered
    assert turned.arguments.both == sum(len(arguments) for _, arguments in calls)


def test_names_of_tools_may_differ_from_ids():
    predicted = PredictedCalls((ToolCall("search#12ab", {"q": 1}),))
    task = ToolCallTask("t", "q", (ToolCall("search", {"q": 1}),), names={"search#12ab": "search"})
    assert match_sequences(predicted, task, "sequence").exact
