"""Contract: what the engine cannot keep is named, never lost in silence; what remains is still inside the schema."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from toolscaler.agent.argument_patterns import grammar_pattern
from toolscaler.agent.argument_schema import ArgumentLimits
from toolscaler.agent.argument_size import largest_growth, shortest_text
from toolscaler.agent.argument_text import ArgumentError
from toolscaler.data import ToolDocument
from toolscaler.errors import ConfigError

pytest.importorskip("llguidance")

from toolscaler.agent.arguments import ArgumentGrammar

_spec = importlib.util.spec_from_file_location("argument_walks", Path(__file__).with_name("argument_walks.py"))
walks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(walks)


@pytest.fixture(scope="module")
def tokenizer(make_tiny_tokenizer):
    return make_tiny_tokenizer()


def of(schema, required=True, **more) -> dict:
    return {"type": "object", "properties": {"v": schema}, "required": ["v"] if required else [], **more}


LEFT_OUT = {
    "not": of({"type": "integer", "not": {"const": 3}}),
    "if": of({"type": "integer"}, **{"if": {}, "then": {}}),
    "uniqueItems": of({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
    "contains": of({"type": "array", "contains": {"const": 1}}),
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^a"}},
    "dependentRequired": {"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}},
    "pattern": of({"type": "string", "pattern": "(?=.*[A-Z]).+"}),
    "minProperties": {"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1},
    "oneOf": of({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
}


@pytest.mark.parametrize("keyword", LEFT_OUT)
def test_what_is_left_out_is_named(tokenizer, keyword) -> None:
    grammar = ArgumentGrammar(tokenizer, LEFT_OUT[keyword])
    assert grammar.level == "schema"
    assert [note.rpartition(": ")[2] for note in grammar.weakened] == [keyword]
    refused = 0
    for seed in range(10):  # the check afterwards is jsonschema's
        text = walks.random_walk(grammar, seed, free=30)
        fits = Draft202012Validator(LEFT_OUT[keyword]).is_valid(json.loads(text))
        try:
            grammar.parse(text)
        except ArgumentError:
            refused += 1
            assert not fits
        else:
            assert fits
    assert refused < 10 or keyword in ("contains", "pattern", "oneOf")


KEPT = {
    "annotations": of({"type": "string", "title": "t", "default": 1, "examples": [2], "x-y": 3, "format": "made-up"}),
    "engine options": of({"type": "string"}, **{"x-guidance": {"whitespace_flexible": True}}),
    "unique false": of({"type": "array", "items": {"type": "null"}, "uniqueItems": False}),
    "reference": of({"$ref": "#/$defs/a"}, **{"$defs": {"a": {"type": "integer", "minimum": 1, "maximum": 2}}}),
    "escaped": of({"$ref": "#/$defs/a~1b"}, **{"$defs": {"a/b": {"const": 1}}}),
    "into properties": {"type": "object", "properties": {"v": {"enum": [1, 2]}, "w": {"$ref": "#/properties/v"}}},
    "list": {
        "type": "object",
        "properties": {"list": {"$ref": "#/$defs/node"}},
        "$defs": {
            "node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "n": {"type": "integer"}}}
        },
    },
    "whole": {"type": "object", "properties": {"child": {"$ref": "#"}, "n": {"type": "boolean"}}},
    "all of": of({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}),
    "all of objects": of(
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
            ]
        }
    ),
    "any of beside properties": of(
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        }
    ),
    "one of kinds": of({"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 3}]}),
    "enum and type": of({"type": "string", "enum": ["a", 1, None, "b"]}),
    "kinds": of({"type": ["integer", "null", "string"], "minimum": 3, "maxLength": 2}),
    "no type": of({"minimum": 3, "maximum": 4}),
    "never": {"type": "object", "properties": {"a": False, "b": {"type": "null"}}},
    "tuple": of(
        {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False, "minItems": 1}
    ),
    "pattern properties": of(
        {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "integer"}}, "additionalProperties": False}
    ),
    "required but not declared": {"type": "object", "properties": {}, "required": ["a"]},
    "counted": of({"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 2}),
    "wide bounds": of({"type": "number", "minimum": -1e300, "maximum": 1e300}),
    "one number": of({"type": "number", "minimum": 2, "maximum": 2}),
    "strict": of({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_kept_whole(tokenizer, name) -> None:
    schema = KEPT[name]
    grammar = ArgumentGrammar(tokenizer, schema, limits=ArgumentLimits(max_text=30))
    assert (grammar.level, grammar.weakened) == ("schema", ())
    for seed in range(12):
        text = walks.random_walk(grammar, seed, free=60, sharpness=seed % 3)
        assert list(Draft202012Validator(schema).iter_errors(json.loads(text))) == [], text


IMPOSSIBLE = {
    "needs itself": of({"$ref": "#/$defs/n"}, **{"$defs": {"n": of({"$ref": "#/$defs/n"})}}),
    "itself": of({"$ref": "#"}),
    "circle": of({"$ref": "#/$defs/a"}, **{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
    "nowhere": of({"$ref": "#/$defs/none"}),
    "network": of({"$ref": "http://localhost:1/schema.json"}),
    "file": of({"$ref": "file:///etc/passwd"}),
    "false": of(False),
    "no value": of({"enum": []}),
    "wrong kind": of({"type": "string", "enum": [1]}),
    "crossed": of({"type": "integer", "minimum": 5, "maximum": 3}),
    "crossed lengths": of({"type": "string", "minLength": 5, "maxLength": 3}),
    "crossed types": of({"allOf": [{"type": "string"}, {"type": "integer"}]}),
    "no object": {"type": "array"},
    "broken": ToolDocument("t", parameters={"type": "object", "properties": {"v": {"type": "strin"}}}),
    "too few": of({"type": "array", "prefixItems": [{}], "items": False, "minItems": 2}),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_nothing_fits_is_an_error(tokenizer, name) -> None:
    with pytest.raises(ArgumentError) as caught:
        ArgumentGrammar(tokenizer, IMPOSSIBLE[name])
    assert caught.value.error_type == "invalid_schema"


def test_falling_back_is_logged(tokenizer, caplog) -> None:
    many = {f"p{n}": {"type": "integer"} for n in range(50)}
    with caplog.at_level(logging.WARNING):
        grammar = ArgumentGrammar(
            tokenizer, {"type": "object", "properties": many}, limits=ArgumentLimits(max_nodes=20)
        )
    assert grammar.level == "object"
    assert grammar.weakened
    assert "level 'object'" in caplog.text
    assert isinstance(json.loads(walks.random_walk(grammar, 0)), dict)


def test_a_long_enum_is_checked_afterwards(tokenizer) -> None:
    schema = of({"enum": [f"v{n}" for n in range(30)]})
    grammar = ArgumentGrammar(tokenizer, schema, limits=ArgumentLimits(max_enum=29))
    assert grammar.weakened == ("$.properties.v: enum",)
    with pytest.raises(ArgumentError):
        grammar.parse('{"v": "w"}')


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9"], ids=str)
def test_limits_are_whole_numbers(value) -> None:
    with pytest.raises(ConfigError):
        ArgumentLimits(max_text=value)


PATTERNS = [
    r"^\w+$",
    r"\d",
    r"^[^\d\s]+$",
    r"\D",
    r"^\S\W$",
    r"^[\w.-]+@\w+$",
    r"^(?:a|b)*c$",
    r"\.\\",
    r"^[^\w]$",
    "é",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_respelt_pattern_is_no_wider(tokenizer, pattern) -> None:
    """Every text that the grammar writes, the engine of the check finds the pattern in."""
    assert grammar_pattern(pattern) is not None
    schema = of({"type": "string", "pattern": pattern, "maxLength": 9})
    grammar = ArgumentGrammar(tokenizer, schema)
    assert grammar.weakened == ()
    for seed in range(15):
        text = grammar.parse(walks.random_walk(grammar, seed, free=25))["v"]
        assert regex.search(pattern, text)


@pytest.mark.parametrize(
    "pattern", ["(?i)a", "(?=a)", "(?P<n>a)", r"\bfoo\b", r"[\W]", "[]a]", "[a", "a\\", 3, "a" * 3000]
)
def test_a_pattern_that_means_something_else_there_is_left_out(pattern) -> None:
    assert grammar_pattern(pattern) is None


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abW\\wdDsS[]^$.*+?(){}|1,-é", max_size=12))
def test_any_pattern_is_kept_or_left_out(tokenizer, pattern) -> None:
    try:
        regex.compile(pattern)
    except regex.error:
        return
    grammar = ArgumentGrammar(tokenizer, of({"type": "string", "pattern": pattern, "maxLength": 6}, False))
    for seed in range(3):
        walks.random_walk(grammar, seed, free=15)


def test_lengths_by_hand() -> None:
    defs = {"n": {"type": "object", "properties": {"k": {"$ref": "#/$defs/n"}}, "required": ["k"]}}
    assert shortest_text({"$ref": "#/$defs/n"}, defs) is None
    assert shortest_text({"type": "object"}, {}) == 2
    assert shortest_text({"type": "object", "properties": {"ab": {"enum": [True]}}, "required": ["ab"]}, {}) >= len(
        '{"ab": true}'
    )
    assert shortest_text({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, {}) >= len("[true, true]")
    assert shortest_text({"anyOf": [False, {"enum": ["x"]}]}, {}) == 3
    assert largest_growth({"type": "object", "properties": {"k" * 50: {"type": "null"}}}) > 55
