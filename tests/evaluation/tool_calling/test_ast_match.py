"""Contract: a call is accepted exactly where the leaderboard's rules accept it."""

from __future__ import annotations

import json

import pytest

from toolscaler.data.trajectories import ToolCall
from toolscaler.errors import ConfigError, EvaluationError
from toolscaler.evaluation.tool_calling.ast_match import ast_match
from toolscaler.evaluation.tool_calling.literals import java_value, javascript_value


def function(name="book", required=(), **properties):
    parameters = {"type": "dict", "properties": properties, "required": list(required)}
    return {"name": name, "description": "", "parameters": parameters}


def accepts(value, accepted, schema, language="python", **options):
    """One argument `x` of one call."""
    calls = [ToolCall("book", {"x": value})]
    return ast_match(calls, [function(x=schema)], [{"book": {"x": accepted}}], language=language, **options)


STRING, INTEGER, FLOAT = {"type": "string"}, {"type": "integer"}, {"type": "float"}
BOOLEAN, OBJECT = {"type": "boolean"}, {"type": "dict"}
NUMBERS = {"type": "array", "items": {"type": "float"}}
TEXTS = {"type": "array", "items": {"type": "string"}}
OBJECTS = {"type": "array", "items": {"type": "dict"}}

VALUES = [
    ("New York", ["new-york"], STRING, True),  # case, blanks and some signs mean nothing
    ("it's 5/6.", ['ITS"56', 'it"s56'], STRING, True),
    ("New York!", ["new york"], STRING, False),
    (5, ["5"], STRING, False),
    ("5", [5], STRING, False),
    (5, [5, 6], INTEGER, True),
    (7, [5, 6], INTEGER, False),
    (5.0, [5], INTEGER, False),  # an integer is a float, a float is no integer
    (5, [5.0], FLOAT, True),
    (True, [1], INTEGER, False),
    (1, [True], BOOLEAN, False),
    (True, [True, ""], BOOLEAN, True),
    (None, [None], STRING, True),
    (None, ["a"], STRING, False),
    ("speed", ["speed"], INTEGER, True),  # the name of a variable, where the accepted value is one
    ("Speed", ["speed"], INTEGER, False),  # and then by every letter
    ([1.0, 2.0], [[1.0, 2.0]], NUMBERS, True),
    ([1, 2], [[1, 2]], NUMBERS, True),
    ([1, 2], [[1.0, 2.0]], NUMBERS, False),  # inside a list an integer is no float
    ([5.0], [[5]], {"type": "array", "items": {"type": "integer"}}, False),
    ([2, 1], [[1.0, 2.0]], NUMBERS, False),
    ([1, "2"], [[1.0, 2.0]], NUMBERS, False),
    (["A b"], [["ab"], ["c"]], TEXTS, True),
    (["c", "ab"], [["ab", "c"]], TEXTS, False),
    ([], ["", ["ab"]], TEXTS, True),  # an empty list is as good as none
    ([], [["ab"]], TEXTS, False),
    ("ab", [["ab"]], TEXTS, False),
    ({"a": "X"}, [{"a": ["x", "y"], "b": ["", 1]}], OBJECT, True),
    ({"a": "x", "b": 1}, [{"a": ["x"], "b": ["", 1]}], OBJECT, True),
    ({"b": 1}, [{"a": ["x"], "b": ["", 1]}], OBJECT, False),
    ({"a": "x", "c": 1}, [{"a": ["x"]}], OBJECT, False),
    ({"a": {"n": 1}}, [{"a": [{"n": 1.0}]}], OBJECT, True),  # nested: as JSON
    ({"a": {"n": "One"}}, [{"a": [{"n": "one"}]}], OBJECT, False),
    ({"a": True}, [{"a": [1]}], OBJECT, False),
    ([{"a": "x"}, {"a": "y"}], [[{"a": ["X"]}, {"a": ["Y"]}]], OBJECTS, True),
    ([{"a": "y"}, {"a": "x"}], [[{"a": ["x"]}, {"a": ["y"]}]], OBJECTS, False),
    ([{"a": "x"}], [[{"a": ["x"]}, {"a": ["y"]}]], OBJECTS, False),
]


@pytest.mark.parametrize(("value", "accepted", "schema", "right"), VALUES, ids=[f"{n}" for n in range(len(VALUES))])
def test_values(value, accepted, schema, right):
    assert bool(accepts(value, accepted, schema)) is right


def test_reasons():
    one = function(required=["x"], x=STRING, y=INTEGER)
    truth = [{"book": {"x": ["a"], "y": ["", 1]}}]

    def reason(*calls):
        return ast_match([ToolCall(*call) for call in calls], [one], truth).error_type

    assert reason(("book", {"x": "a"})) == ""
    assert reason() == "wrong_count"
    assert reason(("book", {"x": "a"}), ("book", {"x": "a"})) == "wrong_count"
    assert reason(("cook", {"x": "a"})) == "wrong_tool"
    assert reason(("book", {"y": 1})) == "missing_argument"
    assert reason(("book", {"x": "a", "z": 1})) == "unexpected_argument"
    assert reason(("book", {"x": 3})) == "wrong_type"
    assert reason(("book", {"x": "b"})) == "wrong_value"
    needed = [{"book": {"x": ["a"], "y": [1]}}]
    verdict = ast_match([ToolCall("book", {"x": "a"})], [one], needed)
    assert (verdict.error_type, "'y'" in verdict.error) == ("missing_argument", True)


def test_calls_in_any_order_and_without_dead_ends():
    play = function("play", required=["song"], song=STRING, loud={"type": "integer"})
    truth = [{"play": {"song": ["a", "b"]}}, {"play": {"song": ["a"]}}, {"play": {"song": ["c"]}}]
    # The first accepted call takes either; only by leaving "a" to the second one all fit.
    assert ast_match([ToolCall("play", {"song": name}) for name in "acb"], [play], truth)
    wrong = ast_match([ToolCall("play", {"song": name}) for name in "abb"], [play], truth)
    assert wrong.error_type == "no_match"
    assert "play" in wrong.error


def test_several_functions():
    functions = [function("sum", a=INTEGER), function("product", a=INTEGER)]
    assert ast_match([ToolCall("product", {"a": 2})], functions, [{"product": {"a": [2]}}])
    assert not ast_match([ToolCall("sum", {"a": 2})], functions, [{"product": {"a": [2]}}])


JAVA = [
    ("3", "integer", "", 3),
    ("3L", "long", "", 3),
    ("3", "long", "", "3"),
    ("2.5f", "float", "", 2.5),
    ("2.5e1", "double", "", 25.0),
    ("2.5f", "double", "", "2.5f"),
    ("true", "boolean", "", True),
    ("True", "boolean", "", "True"),
    ("new int[]{1, 2}", "Array", "integer", [1, 2]),
    ('new String[] { "a, b", "c" }', "Array", "String", ["a, b", "c"]),
    ("new char[]{'a'}", "Array", "char", ["a"]),
    ("points", "Array", "integer", "points"),
    ('new ArrayList<>(Arrays.asList("a", "b"))', "ArrayList", "String", ["a", "b"]),
    ("new ArrayList<Long>() {{ add(1L); add(2L); }}", "ArrayList", "long", [1, 2]),
    ("new ArrayList<>()", "ArrayList", "String", []),
    ('new ArrayList<Object>(Arrays.asList("k", 42, true))', "ArrayList", "any", ["k", 42, True]),
    ('new HashMap<String, Object>() {{ put("a", 1); put("b; c", "x, y"); }}', "HashMap", "", {"a": 1, "b; c": "x, y"}),
    ("new HashMap<>()", "HashMap", "", {}),
    ("options", "HashMap", "", "options"),
    ("a b", "String", "", "a b"),
]
SCRIPT = [
    ('"a"', "String", "", "a"),
    ("'a'", "String", "", "a"),
    ("a", "String", "", "a"),
    ("12", "integer", "", 12),
    ("12n", "Bigint", "", 12),
    ("12", "float", "", 12.0),
    ("true", "Boolean", "", True),
    ("[1, 'b, c', false]", "array", "", [1, "b, c", False]),
    ("new Array('a', \"b\")", "array", "String", ["a", "b"]),
    ("[[1, 2], [3]]", "array", "", [[1, 2], [3]]),
    ("[]", "array", "String", []),
    (" items ", "array", "String", "items"),
    ("{a: 1, 'b': [true], c: {d: \"e: f\"}}", "dict", "", {"a": 1, "b": [True], "c": {"d": "e: f"}}),
    ("{}", "dict", "", {}),
    ("store", "dict", "", "store"),
    ("x => x", "any", "", "x => x"),
]


@pytest.mark.parametrize(("text", "kind", "items", "value"), JAVA, ids=[case[0] for case in JAVA])
def test_java_literals(text, kind, items, value):
    found = java_value(text, kind, items)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("text", "kind", "items", "value"), SCRIPT, ids=[f"{case[0]}-{case[1]}" for case in SCRIPT])
def test_javascript_literals(text, kind, items, value):
    found = javascript_value(text, kind, items)
    assert (found, type(found)) == (value, type(value))


def test_languages_take_their_literals_or_json():
    array = {"type": "Array", "items": {"type": "integer"}}
    assert accepts("new int[]{1, 2}", [[1, 2]], array, "java")
    assert accepts([1, 2], [[1, 2]], array, "java")
    assert not accepts([1, 2], [[1, 2]], array, "java", json_values=False)
    assert accepts(2, [2.0], {"type": "double"}, "java")
    assert accepts(True, ["true"], {"type": "any"}, "java")
    assert accepts(5.0, [5.0], {"type": "any"}, "javascript")
    assert accepts([1, 2.5], [[1.0, 2.5]], NUMBERS, "javascript")
    assert accepts("[1, 2]", [[1.0, 2.0]], {"type": "array", "items": {"type": "float"}}, "javascript")
    assert not accepts("[1, 2]", [[1.0, 2.0]], NUMBERS)  # in Python it is a text


def test_wrong_references_are_errors():
    with pytest.raises(EvaluationError, match="expected one of the functions"):
        ast_match([ToolCall("a", {})], [function("a")], [{"b": {}}])
    with pytest.raises(EvaluationError, match="one function a call"):
        ast_match([ToolCall("a", {})], [function("a")], [{"a": {}, "b": {}}])
    with pytest.raises(EvaluationError, match="expected a type"):
        accepts(1, [1], {"type": "matrix"})
    with pytest.raises(ConfigError, match="language"):
        accepts(1, [1], INTEGER, "rust")


@pytest.mark.shared_data
@pytest.mark.parametrize("category", ["simple_java", "simple_javascript", "parallel", "live_parallel", "multiple"])
def test_accepted_values_are_accepted_and_others_are_not(shared_data, category):
    """Each row's own answer is right; without its last call, or with one argument more, it is wrong."""
    folder = shared_data / "bfcl"
    lines = {row["id"]: row for row in map(json.loads, (folder / f"BFCL_v4_{category}.json").open(encoding="utf-8"))}
    answers = map(json.loads, (folder / "possible_answer" / f"BFCL_v4_{category}.json").open(encoding="utf-8"))
    language = {"simple_java": "java", "simple_javascript": "javascript"}.get(category, "python")
    for answer in answers:
        functions, truth = lines[answer["id"]]["function"], answer["ground_truth"]
        calls = [ToolCall(name, first(arguments)) for item in truth for name, arguments in item.items()]
        assert ast_match(calls[::-1], functions, truth, language=language), answer["id"]
        assert not ast_match(calls[:-1], functions, truth, language=language)
        spoiled = [*calls[:-1], ToolCall(calls[-1].tool, {**calls[-1].arguments, "no such": 1})]
        assert not ast_match(spoiled, functions, truth, language=language)


def first(arguments):
    found = {}
    for key, values in arguments.items():
        values = values if isinstance(values, list) else [values]  # one row has a bare text
        for value in [value for value in values if value != ""][:1]:
            if isinstance(value, dict):
                value = first(value)
            elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
                value = list(map(first, value))
            found[key] = value
    return found
