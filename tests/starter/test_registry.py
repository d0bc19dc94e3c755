"""The starter catalogue as a whole: documents, schemas, calls and queries."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections import Counter
from importlib import resources

import jsonschema
import pytest

from toolscaler.errors import ConfigError, UnknownToolError
from toolscaler.starter import (
    PROVIDER,
    call_starter_tool,
    load_starter_documents,
    load_starter_queries,
    registry,
    starter_function,
)

DOCUMENTS = load_starter_documents()
QUERIES = load_starter_queries()


def test_catalogue_is_large_and_ids_are_unique():
    assert len(DOCUMENTS) >= 120
    assert len({document.category for document in DOCUMENTS}) >= 10
    assert len({document.id for document in DOCUMENTS}) == len(DOCUMENTS)
    assert len({document.description for document in DOCUMENTS}) == len(DOCUMENTS)
    keys = [(document.category, document.name) for document in DOCUMENTS]
    assert keys == sorted(keys)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_document_is_complete(document):
    assert document.id == f"{PROVIDER}/{document.name}"
    assert document.category
    assert len(document.description.split()) >= 10, "a summary and a sentence that people's wording can match"
    assert document.returns
    assert document.returns.get("description")
    schema = document.to_dict()["parameters"]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    for parameter in document.iter_parameters():
        assert parameter.description, f"{document.name}: {parameter.name} is not described"
        assert dict(parameter.schema).keys() - {"description", "default"} or parameter.type == "any"
    json.dumps(document.to_dict(), allow_nan=False)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_schema_tells_the_functions_signature(document):
    signature = inspect.signature(starter_function(document.id))
    schema = document.to_dict()["parameters"]
    assert list(schema["properties"]) == list(signature.parameters)
    needed = [name for name, item in signature.parameters.items() if item.default is item.empty]
    assert schema.get("required", []) == needed
    for name, item in schema["properties"].items():
        if "default" in item:
            jsonschema.validate(item["default"], {key: item[key] for key in item if key != "default"})
            assert name not in needed


def test_documents_are_the_same_each_time():
    assert load_starter_documents() == DOCUMENTS
    assert load_starter_documents() is not load_starter_documents(), "callers may change their list"


def test_call_by_id_and_by_name():
    arguments = {"numbers": [48, 36]}
    assert call_starter_tool("greatest_common_divisor", **arguments) == 12
    assert call_starter_tool("starter/greatest_common_divisor", **arguments) == 12
    assert starter_function("greatest_common_divisor")([48, 36]) == 12


def test_calls_raise_typed_errors():
    with pytest.raises(UnknownToolError, match="greatest_common_divisor") as caught:
        call_starter_tool("greatest_common_divizor")
    assert isinstance(caught.value, KeyError)
    assert "starter/greatest_common_divisor" in caught.value.suggestions
    with pytest.raises(UnknownToolError):
        starter_function("other/greatest_common_divisor")
    with pytest.raises(TypeError):
        call_starter_tool("greatest_common_divisor")
    with pytest.raises(TypeError):
        call_starter_tool("greatest_common_divisor", numbers=[1], more=2)
    with pytest.raises(ValueError, match="numbers"):
        call_starter_tool("greatest_common_divisor", numbers=[])


def test_a_parameter_may_be_called_tool(monkeypatch):
    def echo(tool: str) -> str:
        return tool

    monkeypatch.setitem(registry._FUNCTIONS, "echo", (echo, "Test"))
    assert call_starter_tool("echo", tool="x") == "x"


def test_decorator_registers_once(monkeypatch):
    monkeypatch.setattr(registry, "_FUNCTIONS", {})

    def some_tool() -> int:
        return 1

    assert registry.starter_tool("Test")(some_tool) is some_tool
    registry.starter_tool("Test")(some_tool)
    assert registry._FUNCTIONS["some_tool"] == (some_tool, "Test")

    def clone() -> int:
        return 2

    clone.__name__, clone.__module__ = "some_tool", "elsewhere"
    with pytest.raises(ValueError, match="'some_tool'"):
        registry.starter_tool("Test")(clone)
    assert registry.starter_function.__doc__


def test_every_tool_has_queries_of_both_splits():
    names = {document.id for document in DOCUMENTS}
    train, test = (
        Counter(query.tools[0] for query in load_starter_queries(split) if len(query.tools) == 1)
        for split in ("train", "test")
    )
    assert {tool for query in QUERIES for tool in query.tools} <= names
    assert min(train[name] for name in names) >= 12
    assert min(test[name] for name in names) >= 4


def test_queries_of_several_tools():
    several = [query for query in QUERIES if len(query.tools) > 1]
    assert len(several) >= 200
    assert {len(query.tools) for query in several} <= {2, 3}


def test_splits_are_apart():
    train, test = ([query.text for query in load_starter_queries(split)] for split in ("train", "test"))
    assert len(train) + len(test) == len(QUERIES)
    assert all(query.split in ("train", "test") for query in QUERIES)
    normal = [{" ".join(text.lower().split()) for text in texts} for texts in (train, test)]
    assert not normal[0] & normal[1]


def test_unknown_split():
    with pytest.raises(ConfigError, match="split: got 'dev'"):
        load_starter_queries("dev")


def test_resources_are_small():
    folder = resources.files("toolscaler.starter") / "resources"
    sizes = [len(file.read_bytes()) for file in folder.iterdir() if file.is_file()]
    assert 0 < sum(sizes) < 2_000_000


def test_loading_the_starter_loads_no_torch():
    code = (
        "import sys, toolscaler.starter as s; s.load_starter_documents(); s.load_starter_queries();"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
