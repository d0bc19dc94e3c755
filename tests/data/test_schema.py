"""Loosely written schemas become valid JSON Schema; invalid ones are refused with their place."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from toolscaler.data.schema import (
    check_arguments_schema,
    check_schema,
    normalize_schema,
    parameters_schema,
    returns_schema,
    type_schema,
)
from toolscaler.data.schema_check import JSON_TYPES, _plainly_valid
from toolscaler.errors import DataError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("string", {"type": "string"}),
        ("STRING", {"type": "string"}),
        (" Boolean ", {"type": "boolean"}),
        ("str", {"type": "string", "x-type": "str"}),
        ("float", {"type": "number", "x-type": "float"}),
        ("dict", {"type": "object", "x-type": "dict"}),
        ("tuple", {"type": "array", "x-type": "tuple"}),
        ("HashMap", {"type": "object", "x-type": "HashMap"}),
        ("ArrayList", {"type": "array", "x-type": "ArrayList"}),
        ("any", {"x-type": "any"}),
        ("", {}),
        ("Frobnicator", {"x-type": "Frobnicator"}),
        ("ENUM", {"type": "string", "x-type": "ENUM"}),
        ("DATE (YYYY-MM-DD)", {"type": "string", "format": "date", "x-type": "DATE (YYYY-MM-DD)"}),
        ("TIME (24-hour HH:MM)", {"type": "string", "x-type": "TIME (24-hour HH:MM)"}),
        ("List[int]", {"type": "array", "items": {"type": "integer"}, "x-type": "List[int]"}),
        ("list[any]", {"type": "array", "x-type": "list[any]"}),
        ("string[]", {"type": "array", "items": {"type": "string"}, "x-type": "string[]"}),
        ("java.util.List<Long>", {"type": "array", "items": {"type": "integer"}, "x-type": "java.util.List<Long>"}),
        ("int | None", {"type": ["integer", "null"], "x-type": "int | None"}),
        ("string or number", {"type": ["string", "number"], "x-type": "string or number"}),
        ("Optional[str]", {"type": ["string", "null"], "x-type": "Optional[str]"}),
        ("Union[int, any]", {"x-type": "Union[int, any]"}),
        (
            "Dict[str, List[int]]",
            {
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"type": "integer"}},
                "x-type": "Dict[str, List[int]]",
            },
        ),
        (
            "List[Union[int, List[str]]]",
            {
                "type": "array",
                "items": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]},
                "x-type": "List[Union[int, List[str]]]",
            },
        ),
    ],
)
def test_type_names_as_people_write_them(text, expected):
    assert type_schema(text) == expected


@given(st.text(max_size=30) | st.text("[]<>(),|int or List", max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_text_gives_a_valid_schema(text):
    Draft202012Validator.check_schema(type_schema(text))
    check_schema(normalize_schema(text))


def test_normalize_goes_to_every_depth_and_changes_no_input():
    given = {
        "type": "dict",
        "description": None,
        "properties": {
            "a": {"type": "float", "required": True, "minimum": "1", "default": {"type": "dict"}},
            "b": {"type": "tuple", "items": [{"type": "str"}, "int"]},
            "c": {"anyOf": [{"type": "Integer"}, {"type": "bool"}], "nullable": True},
            "d": "the fourth one",
            "type": {"type": "string", "nullable": "true", "enum": ["x"]},
            "e": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "exclusiveMaximum": False},
        },
        "required": ["b", "b"],
        "$defs": {"x": {"type": "HashMap"}},
    }
    before = copy.deepcopy(given)
    result = normalize_schema(given)
    assert given == before
    assert result == {
        "type": "object",
        "x-type": "dict",
        "description": "",
        "properties": {
            "a": {"type": "number", "x-type": "float", "minimum": 1, "default": {"type": "dict"}},
            "b": {
                "type": "array",
                "x-type": "tuple",
                "prefixItems": [{"type": "string", "x-type": "str"}, {"type": "integer", "x-type": "int"}],
            },
            "c": {"anyOf": [{"type": "integer"}, {"type": "boolean", "x-type": "bool"}, {"type": "null"}]},
            "d": {"description": "the fourth one"},
            "type": {"type": ["string", "null"], "enum": ["x", None]},
            "e": {"type": "number", "exclusiveMinimum": 0},
        },
        "required": ["b", "a"],
        "$defs": {"x": {"type": "object", "x-type": "HashMap"}},
    }
    assert normalize_schema(result) == result  # nothing is left to do
    Draft202012Validator.check_schema(result)


def test_a_valid_schema_stays_as_it_is():
    schema = {
        "type": "object",
        "properties": {"a": {"type": ["string", "null"], "pattern": "x", "examples": ["x"]}, "b": {"const": 1}},
        "required": ["a"],
        "additionalProperties": False,
        "allOf": [{"minProperties": 1}],
    }
    assert normalize_schema(schema) == schema
    assert normalize_schema(None) == {}


@pytest.mark.parametrize("value", [3, [1], False])
def test_what_is_no_schema_is_refused(value):
    with pytest.raises(DataError, match="expected a JSON Schema object, got"):
        normalize_schema(value)


def test_what_only_the_author_can_mend_is_left_for_the_check():
    broken = normalize_schema({"type": "object", "properties": {"a": {"minimum": "low"}}})
    assert broken["properties"]["a"]["minimum"] == "low"
    with pytest.raises(DataError, match=r"at \$\.properties\.a\.minimum: 'low' is not of type 'number'"):
        check_schema(broken)


@pytest.mark.parametrize(
    "value",
    [
        {"type": "object", "properties": {"a": {"type": "str"}}, "required": ["a"]},
        {"a": {"type": "str", "required": True}},
        {"properties": {"a": {"type": "str"}}, "required": "a"},
        [{"name": "a", "type": "str", "required": True}],
    ],
)
def test_arguments_in_every_form(value):
    assert parameters_schema(value) == {
        "type": "object",
        "properties": {"a": {"type": "string", "x-type": "str"}},
        "required": ["a"],
    }


def test_arguments_that_are_called_like_keywords():
    value = {"type": {"type": "str"}, "properties": {"type": "dict"}, "description": "words"}
    properties = parameters_schema(value)["properties"]
    assert set(properties) == {"type", "properties", "description"}
    assert properties["type"] == {"type": "string", "x-type": "str"}
    assert returns_schema({"type": {"type": "int"}})["properties"]["type"]["type"] == "integer"


@pytest.mark.parametrize("name", ["properties", "type", "required", "description", "items", "$ref"])
def test_an_argument_of_any_name(name):
    argument = {"type": "str", "description": "What it is."}
    expected = {"type": "string", "x-type": "str", "description": "What it is."}
    for others in ({}, {"element": {"type": "int"}}):
        properties = parameters_schema({**others, name: argument})["properties"]
        assert properties[name] == expected
        assert set(properties) == {*others, name}


def test_no_arguments_and_a_list_of_required_names():
    empty = {"type": "object", "properties": {}}
    assert parameters_schema(None) == parameters_schema({}) == parameters_schema([]) == parameters_schema("") == empty
    assert parameters_schema({}, []) == empty
    assert parameters_schema({"a": "int", "b": "int"}, ["b", "b"])["required"] == ["b"]
    with pytest.raises(DataError, match="expected each argument as an object with a name"):
        parameters_schema([{"type": "int"}])
    with pytest.raises(DataError, match="expected the arguments as an object or a list, got int"):
        parameters_schema(3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("int", {"type": "integer", "x-type": "int"}),
        ({"type": "List[str]"}, {"type": "array", "items": {"type": "string"}, "x-type": "List[str]"}),
        ({"anyOf": [{"type": "string"}]}, {"anyOf": [{"type": "string"}]}),
        ({}, {}),
        ({"total": {"type": "string"}}, {"type": "object", "properties": {"total": {"type": "string"}}}),
    ],
)
def test_results_in_every_form(value, expected):
    assert returns_schema(value) == expected


words = ("type", "description", "enum", "required", "minimum", "minLength", "default", "deprecated", "examples")
rare = ("optional", "multipleOf", "$id", "x-in", "title", "uniqueItems", "const", "pattern", "format")
keywords = st.sampled_from([*words, *rare])
values = st.sampled_from([*sorted(JSON_TYPES), "dict", "", 1, -1, 0.5, True, None, [], ["a"], ["a", "a"], ["null"], {}])
loose_schemas = st.recursive(
    st.dictionaries(keywords, values, max_size=4),
    lambda inner: (
        st.builds(
            lambda base, key, value: {**base, key: value},
            st.dictionaries(keywords, values, max_size=2),
            st.sampled_from(["items", "not", "additionalProperties", "contains", "if"]),
            inner,
        )
        | st.builds(lambda value: {"properties": value}, st.dictionaries(st.text(max_size=3), inner, max_size=3))
        | st.builds(lambda key, value: {key: value}, st.sampled_from(["anyOf", "allOf"]), st.lists(inner, max_size=3))
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(loose_schemas)
def test_the_quick_check_never_passes_what_the_validator_refuses(schema):
    try:
        Draft202012Validator.check_schema(schema)
        valid = True
    except SchemaError:
        valid = False
    assert valid or not _plainly_valid(schema)
    if valid:
        check_schema(schema)
    else:
        with pytest.raises(DataError, match=r"parameters: invalid JSON Schema at \$"):
            check_schema(schema)


def test_the_draft_that_a_schema_names_is_the_one_it_is_checked_by():
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True}
    check_schema(old)
    with pytest.raises(DataError, match="exclusiveMinimum"):
        check_schema({key: value for key, value in old.items() if key != "$schema"})
    with pytest.raises(DataError, match=r"\$schema: expected text"):
        check_schema({"$schema": 4})


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ([], "expected a JSON Schema object, got list"),
        ({"type": "dict"}, r"at \$\.type: 'dict' .* expected one of array, boolean"),
        ({"type": "array"}, "expected a schema of type 'object', got 'array'"),
    ],
)
def test_arguments_must_be_an_object_schema(schema, message):
    with pytest.raises(DataError, match=message):
        check_arguments_schema(schema)


def test_too_deep_a_schema_is_refused_by_name():
    schema: dict = {"type": "string"}
    for _ in range(3000):
        schema = {"items": schema}
    with pytest.raises(DataError, match="too deep a nesting"):
        check_schema(schema)
