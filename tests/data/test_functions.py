"""Callables become documents: hints give the schema, the docstring gives the words."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypedDict, Union

import pytest
from jsonschema import Draft202012Validator

from toolscaler.data import document_from_function, documents_from_functions, load_tool_documents
from toolscaler.data.sources.functions import parse_docstring, schema_from_hint
from toolscaler.errors import DataError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    tags: list[str] = dataclasses.field(default_factory=list)


class Address(TypedDict, total=False):
    street: str


@dataclasses.dataclass
class Tree:
    children: list[Tree]


def convert(value: float, to: Literal["km", "m"] = "m", *rest: int, places: int | None = None, **more: str) -> float:
    """Convert a length.

    Over two
    lines.

    Args:
        value: What to convert,
            in metres.
        to (str): Target: a unit.
        places: Decimal places.

    Returns:
        The converted
        length.

    Raises:
        ValueError: Never.
    """
    return value


def _hidden() -> None: ...


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (Any, {}),
        (None | int, {"type": ["null", "integer"]}),
        (
            Optional[str],  # noqa: UP045
            {"type": ["string", "null"]},
        ),
        (
            Union[int, list[str]],  # noqa: UP007
            {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]},
        ),
        (list, {"type": "array"}),
        (
            list[dict[str, int]],
            {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "integer"}}},
        ),
        (dict[str, Any], {"type": "object"}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (
            tuple[int, str],
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
        ),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal[1, "b"], {"type": ["integer", "string"], "enum": [1, "b"]}),
        (Annotated[int, "note"], {"type": "integer"}),
        (Colour, {"type": "string", "enum": ["red", "blue"]}),
        (Literal[Colour.RED], {"type": "string", "enum": ["red"]}),
        (datetime.date, {"type": "string", "format": "date"}),
        (Path, {"type": "string"}),
        (Address, {"type": "object", "properties": {"street": {"type": "string"}}}),
        (
            Point,
            {
                "type": "object",
                "properties": {
                    "x": {"type": "number"},
                    "y": {"type": "number"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["x"],
            },
        ),
    ],
)
def test_schema_of_hints(hint, schema):
    assert schema_from_hint(hint) == schema
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("hint", [bytes, complex, types.ModuleType, Tree, Literal[b"x"]])
def test_hints_without_json_form_are_refused(hint):
    with pytest.raises(DataError, match="no JSON Schema for the type hint"):
        schema_from_hint(hint)


def test_schemas_are_fresh_copies():
    schema_from_hint(str)["description"] = "changed"
    assert schema_from_hint(str) == {"type": "string"}


def test_document_of_a_function():
    document = document_from_function(convert, provider="units", category="Maths")
    assert document.to_dict() == {
        "name": "convert",
        "description": "Convert a length.\nOver two lines.",
        "provider": "units",
        "category": "Maths",
        "parameters": {
            "type": "object",
            "properties": {
                "value": {"type": "number", "description": "What to convert, in metres."},
                "to": {"type": "string", "enum": ["km", "m"], "description": "Target: a unit.", "default": "m"},
                "places": {"type": ["integer", "null"], "description": "Decimal places.", "default": None},
            },
            "required": ["value"],
            "additionalProperties": False,
        },
        "returns": {"type": "number", "description": "The converted length."},
        "code": "",
        "id": "units/convert",
    }
    assert "def convert(" in document_from_function(convert, source=True).code


def test_defaults_are_json_or_left_out():
    thing = object()

    def f(a: Colour = Colour.RED, b: Path = Path("x"), c: Any = thing, d: tuple = (1, (2,)), e: float = float("inf")):
        """Do."""

    def g(a: dict = {"k": {1, 2}}, b: dict = {"k": Colour.BLUE}):  # noqa: B006
        """Do."""

    properties = document_from_function(f).to_dict()["parameters"]["properties"]
    assert {key: item.get("default", "none") for key, item in properties.items()} == {
        "a": "red",
        "b": "x",
        "c": "none",
        "d": [1, [2]],
        "e": "none",
    }
    properties = document_from_function(g).to_dict()["parameters"]["properties"]
    assert "default" not in properties["a"]
    assert properties["b"]["default"] == {"k": "blue"}


def test_functions_that_cannot_be_described():
    with pytest.raises(DataError, match="expected a named function"):
        document_from_function(lambda x: x)

    def unknown(a: "Nowhere"): ...  # noqa: F821, UP037

    with pytest.raises(DataError, match="cannot read the signature of 'unknown'"):
        document_from_function(unknown)


def test_parse_docstring_of_other_shapes():
    assert parse_docstring("") == ("", {}, "")
    assert parse_docstring("One.\n\nArgs:\n    *args: Many.\n    x: A\n      b.\n")[1] == {"args": "Many.", "x": "A b."}


def make_module(**members):
    module = types.ModuleType("shapes")
    for name, member in members.items():
        if callable(member) and name not in ("__all__",):
            member.__module__ = members.get("owner", "shapes") if name != "foreign" else "elsewhere"
        setattr(module, name, member)
    return module


def test_modules_lists_and_names(monkeypatch):
    def area(r: float) -> float:
        """Give the area."""

    def foreign() -> None:
        """Be from elsewhere."""

    def _private() -> None:
        """Hide."""

    module = make_module(area=area, foreign=foreign, _private=_private, Point=Point)
    assert [document.name for document in documents_from_functions(module)] == ["area"]
    module.__all__ = ["foreign", "Point"]
    assert [document.name for document in documents_from_functions(module)] == ["foreign"]
    monkeypatch.setitem(__import__("sys").modules, "shapes", module)
    assert [document.name for document in documents_from_functions("shapes")] == ["foreign"]
    assert [document.name for document in documents_from_functions("shapes:area")] == ["area"]
    module.tools = [area, foreign]
    assert [document.name for document in documents_from_functions("shapes:tools", provider="p")] == ["area", "foreign"]
    loaded = load_tool_documents("shapes:tools", "functions", provider="p", category="c")
    assert [(document.id, document.category) for document in loaded] == [("p/area", "c"), ("p/foreign", "c")]
    assert loaded.report.formats == {"functions": 2}
    for source in (area, [area], (area,), types.SimpleNamespace(f=area).f):
        assert [document.name for document in load_tool_documents(source)] == ["area"]
    with pytest.raises(DataError, match="record 2: duplicate id 'area': the same document as record 1"):
        load_tool_documents([area, area])


@pytest.mark.parametrize("name", ["no_such_module_at_all", "json:nothing", "", ":x"])
def test_names_that_lead_nowhere(name):
    with pytest.raises(DataError, match=r"expected 'package\.module' or 'package\.module:attribute'"):
        documents_from_functions(name)


def test_what_is_not_callable():
    with pytest.raises(DataError, match="expected a callable, got int"):
        documents_from_functions([convert, 3])
    with pytest.raises(DataError, match="module 'shapes' has no public functions"):
        documents_from_functions(make_module())
