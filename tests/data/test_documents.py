"""A document is immutable plain data: it comes back from its dictionary, its pickle and its hash."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.data import TASK_FIELDS, ToolDocument, ToolParameter
from toolscaler.errors import DataError

text = st.text(max_size=20)
names = text.filter(str.strip)
json_data = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
schemas = st.dictionaries(text, json_data, max_size=4)
documents = st.builds(
    ToolDocument,
    name=names,
    description=text,
    provider=text,
    category=text,
    parameters=schemas,
    returns=st.none() | schemas,
    code=text,
    id=text,
)

PLAIN = {
    "name": "convert",
    "description": "Convert a value.",
    "provider": "units",
    "category": "Maths",
    "parameters": {
        "type": "object",
        "properties": {
            "value": {"type": "number", "description": "What to convert."},
            "to": {"type": ["string", "null"], "default": None},
        },
        "required": ["value"],
    },
    "returns": {"type": "number", "description": "The result."},
    "code": "",
    "id": "units/convert",
}


@settings(max_examples=80, deadline=None)
@given(documents)
def test_round_trips(document):
    data = document.to_dict()
    assert json.loads(json.dumps(data)) == data
    for back in (
        ToolDocument.from_dict(data),
        ToolDocument.from_dict(json.loads(json.dumps(data))),
        pickle.loads(pickle.dumps(document)),
        copy.deepcopy(document),
    ):
        assert back == document
        assert hash(back) == hash(document)
        assert back.to_dict() == data
        assert back.content_hash == document.content_hash


@settings(max_examples=80, deadline=None)
@given(documents, st.sampled_from([item.name for item in dataclasses.fields(ToolDocument)]), json_data)
def test_the_hash_tells_every_change(document, field, value):
    data = document.to_dict()
    before = json.dumps(data, sort_keys=True)
    if field in ("parameters", "returns"):
        data[field] = {**(data[field] or {}), "x-new": value}
    else:
        data[field] = data[field] + "!"
    changed = ToolDocument.from_dict(data)
    assert (json.dumps(changed.to_dict(), sort_keys=True) == before) == (changed == document)
    assert (changed.content_hash == document.content_hash) == (changed == document)


def test_the_hash_is_the_same_on_every_machine_and_in_every_key_order():
    document = ToolDocument.from_dict(PLAIN)
    canonical = json.dumps(PLAIN, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    assert document.content_hash == hashlib.sha256(canonical).hexdigest()
    assert ToolDocument.from_dict(dict(reversed(PLAIN.items()))).content_hash == document.content_hash


def test_equality_knows_types_apart_like_the_hash():
    one, true = (ToolDocument("f", parameters={"properties": {"a": {"default": value}}}) for value in (1, True))
    assert one != true
    assert one.content_hash != true.content_hash
    assert one != "f"


def test_nothing_can_be_changed_and_nothing_is_shared():
    parameters = {"type": "object", "properties": {"a": {"enum": [1, 2]}}}
    document = ToolDocument("f", parameters=parameters)
    parameters["properties"]["a"]["enum"].append(3)
    assert document.to_dict()["parameters"]["properties"]["a"]["enum"] == [1, 2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        document.name = "g"  # type: ignore[misc]
    with pytest.raises(TypeError):
        document.parameters["type"] = "array"  # type: ignore[index]
    document.to_dict()["parameters"]["type"] = "array"
    assert document.parameters["type"] == "object"


def test_defaults():
    document = ToolDocument(" f ")
    assert document.name == document.id == " f "  # never stripped
    assert document.to_dict()["parameters"] == {"type": "object", "properties": {}}
    assert document.signature() == " f ()"
    assert ToolDocument("f", provider="p").id == "p/f"
    assert ToolDocument("f", provider="p", id="own").id == "own"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "expected a name"),
        ({"name": " \t"}, "expected a name"),
        ({"name": None}, "name: expected text, got NoneType"),
        ({"name": "f", "description": float("nan")}, "description: expected text, got float"),
        ({"name": "f", "parameters": []}, "expected a JSON Schema object, got list"),
        ({"name": "f", "returns": "int"}, "expected a JSON Schema object or None, got str"),
        ({"name": "f", "parameters": {"properties": {"a": {"enum": {1}}}}}, "parameters of 'f': expected plain JSON"),
        ({"name": "f", "returns": {"default": float("inf")}}, "returns of 'f': expected plain JSON data, got inf"),
    ],
)
def test_bad_fields_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        ToolDocument(**arguments)


def test_from_dict_refuses_unknown_keys_and_no_name():
    with pytest.raises(DataError, match=r"unknown keys \['parms'\]"):
        ToolDocument.from_dict({"name": "f", "parms": {}})
    with pytest.raises(DataError, match="expected a name"):
        ToolDocument.from_dict({"description": "x"})


def test_parameters_signature_and_text():
    document = ToolDocument.from_dict(PLAIN)
    value, to = document.iter_parameters()
    assert (value.name, value.type, value.description, value.required) == ("value", "number", "What to convert.", True)
    assert isinstance(to, ToolParameter)
    assert (to.type, to.required, to.schema["default"]) == ("string|null", False, None)
    assert document.signature() == "convert(value: number, to?: string|null)"
    assert document.to_text().splitlines() == [
        "name: convert",
        "provider: units",
        "category: Maths",
        "description: Convert a value.",
        "parameter value (number): What to convert.",
        "parameter to (string|null, optional)",
        "returns: The result.",
    ]
    assert tuple(document.task_targets()) == TASK_FIELDS
    assert document.task_targets()["code"] == document.signature()
    assert document.task_targets()["name"] == "units convert"
    coded = ToolDocument("f", code="f(1)")
    assert coded.task_targets()["code"] == "f(1)"
    assert coded.to_text() == "name: f\ncode: f(1)"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "array", "items": {}}]}, "string|array"),
        ({"oneOf": [{"type": ["integer", "null"]}, {"type": "null"}]}, "integer|null"),
        ({"anyOf": [{"anyOf": [{"type": "string"}]}, {"type": "number"}]}, "string|number"),
        ({"anyOf": [{"type": "string"}, {}]}, "any"),
        ({"anyOf": []}, "any"),
        ({"enum": [1]}, "any"),
        (True, "any"),
    ],
)
def test_type_of_a_union_names_its_options(schema, expected):
    document = ToolDocument("f", parameters={"type": "object", "properties": {"a": schema}})
    assert next(document.iter_parameters()).type == expected
