"""One tool an operation: arguments merged, references written out, cycles cut by name."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from jsonschema import Draft202012Validator

from toolscaler.data import load_tool_documents
from toolscaler.data.sources.base import ReadOptions
from toolscaler.data.sources.openapi import OpenAPIReader
from toolscaler.data.sources.opening import Source
from toolscaler.errors import DataError

SPEC = yaml.safe_load("""
openapi: 3.0.3
info: {title: Shelf API, version: "1"}
paths:
  /shelves/{id}:
    summary: no operation
    parameters:
      - {name: id, in: path, schema: {type: integer}, description: Which shelf.}
      - {name: lang, in: query, schema: {type: string}, description: Of the path.}
    get:
      operationId: getShelf
      tags: [Shelves, Other]
      summary: Get a shelf
      description: |
        Get one shelf.
      parameters:
        - {name: lang, in: query, required: true, schema: {type: string, nullable: true}, description: Of the call.}
        - {$ref: '#/components/parameters/Page'}
        - {name: Authorization, in: header, schema: {type: string}}
        - {name: X-Trace, in: header, schema: {type: string}}
        - {name: filter, in: query, content: {application/json: {schema: {$ref: '#/components/schemas/Book'}}}}
      responses:
        404: {description: Gone}
        200:
          description: The shelf.
          content:
            text/plain: {schema: {type: string}}
            application/vnd.shelf+json; charset=utf-8: {schema: {$ref: '#/components/schemas/Shelf'}}
    put:
      requestBody: {$ref: '#/components/requestBodies/ShelfBody'}
      responses: {default: {$ref: '#/components/responses/Error'}}
  /books~new/{a}:
    post:
      operationId: addBooks
      description: Add books.
      requestBody:
        content: {application/json: {schema: {type: array, items: {$ref: '#/components/schemas/Book'}}}}
      responses: {'201': {description: Made}}
    delete:
      operationId: drop
      summary: Same
      description: Same
      requestBody: {required: true, content: {text/plain: {schema: {type: string, description: Why.}}}}
components:
  parameters:
    Page: {name: page, in: query, schema: {type: integer, minimum: 0, exclusiveMinimum: true, default: 1}}
  requestBodies:
    ShelfBody:
      required: true
      content:
        application/x-www-form-urlencoded: {schema: {type: string}}
        application/json:
          schema:
            allOf:
              - {$ref: '#/components/schemas/Shelf'}
              - type: object
                required: [note, id]
                properties:
                  note: {type: string}
                  id: {type: string, description: New id.}
                  made: {type: string, readOnly: true}
  responses:
    Error:
      description: An error.
      content: {application/json: {schema: {type: object, properties: {code: {type: integer}}}}}
  schemas:
    Shelf:
      type: object
      required: [books]
      properties:
        books: {type: array, items: {$ref: '#/components/schemas/Book'}}
        parent: {$ref: '#/components/schemas/Shelf'}
    Book:
      type: object
      description: A book.
      properties:
        title: {type: string, example: {$ref: not a reference}}
        author: {$ref: '#/components/schemas/Author'}
    Author:
      type: object
      properties:
        books: {type: array, items: {$ref: '#/components/schemas/Book'}}
""")


def write(folder, name, spec):
    path = folder / name
    path.write_text(json.dumps(spec) if name.endswith("json") else yaml.safe_dump(spec, sort_keys=False))
    return path


@pytest.fixture(params=["memory", "a.json", "a.yaml"])
def tools(request, tmp_path):
    source = SPEC if request.param == "memory" else write(tmp_path, request.param, SPEC)
    loaded = load_tool_documents(source)
    assert loaded.report.formats == {"openapi": 4}
    return {document.name: document for document in loaded}


def test_operations_in_order_with_their_names(tools):
    assert list(tools) == ["getShelf", "PUT /shelves/{id}", "addBooks", "drop"]
    get = tools["getShelf"]
    assert (get.provider, get.category, get.id) == ("Shelf API", "Shelves", "Shelf API/getShelf")
    assert get.description == "Get a shelf\nGet one shelf."
    assert get.code == "GET /shelves/{id}"
    assert tools["drop"].description == "Same"
    assert tools["drop"].category == ""


def test_arguments_of_path_and_operation(tools):
    schema = tools["getShelf"].to_dict()["parameters"]
    assert schema["properties"] == {
        "id": {"type": "integer", "description": "Which shelf.", "x-in": "path"},
        "lang": {"type": ["string", "null"], "description": "Of the call.", "x-in": "query"},
        "page": {"type": "integer", "exclusiveMinimum": 0, "default": 1, "x-in": "query"},
        "X-Trace": {"type": "string", "x-in": "header"},
        "filter": {
            "type": "object",
            "description": "A book.",
            "properties": {
                "title": {"type": "string", "example": {"$ref": "not a reference"}},
                "author": {
                    "type": "object",
                    "properties": {
                        "books": {
                            "type": "array",
                            "items": {"x-ref": "Book", "type": "object", "description": "A book."},
                        }
                    },
                },
            },
            "x-in": "query",
        },
    }
    assert schema["required"] == ["id", "lang"]


def test_bodies(tools):
    put = tools["PUT /shelves/{id}"].to_dict()["parameters"]
    # The path's id keeps its name, the body's gets its place in front; what the server alone sets is left out.
    assert list(put["properties"]) == ["id", "lang", "books", "parent", "note", "body_id"]
    assert put["properties"]["parent"] == {"x-ref": "Shelf", "type": "object", "x-in": "body"}
    assert put["properties"]["body_id"] == {"type": "string", "description": "New id.", "x-in": "body"}
    assert put["required"] == ["id", "books", "note", "body_id"]
    add = tools["addBooks"].to_dict()["parameters"]
    assert list(add["properties"]) == ["body"]
    assert add["properties"]["body"]["type"] == "array"
    assert "required" not in add
    assert tools["drop"].to_dict()["parameters"] == {
        "type": "object",
        "properties": {"body": {"type": "string", "description": "Why.", "x-in": "body"}},
        "required": ["body"],
    }


def test_results(tools):
    assert tools["getShelf"].returns["description"] == "The shelf."
    assert set(tools["getShelf"].returns["properties"]) == {"books", "parent"}
    assert tools["PUT /shelves/{id}"].to_dict()["returns"] == {
        "type": "object",
        "properties": {"code": {"type": "integer"}},
        "description": "An error.",
    }
    assert tools["addBooks"].returns is None
    assert tools["drop"].returns is None


def test_every_schema_is_valid(tools):
    for document in tools.values():
        data = document.to_dict()
        Draft202012Validator.check_schema(data["parameters"])
        Draft202012Validator.check_schema(data["returns"] or {})
        assert "$ref" not in json.dumps([data["parameters"], data["returns"]]).replace('"$ref": "not a reference"', "")


def test_the_depth_of_references_can_be_chosen():
    reader = OpenAPIReader(max_ref_depth=0)
    documents = [document for _, document in reader.read(Source(SPEC), ReadOptions())]
    assert documents[0].to_dict()["parameters"]["properties"]["filter"] == {
        "x-ref": "Book",
        "type": "object",
        "description": "A book.",
        "x-in": "query",
    }


def test_a_chain_of_references_is_cut_at_the_depth():
    spec = {
        "openapi": "3.1.0",
        "paths": {
            "/a": {
                "post": {
                    "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/S0"}}}}
                }
            }
        },
        "components": {
            "schemas": {
                f"S{n}": {"type": "object", "properties": {"next": {"$ref": f"#/components/schemas/S{n + 1}"}}}
                for n in range(9)
            }
        },
    }
    spec["components"]["schemas"]["S9"] = {"type": "string"}
    schema = load_tool_documents(spec)[0].to_dict()["parameters"]
    depth = 0
    while "next" in schema.get("properties", {}):
        schema = schema["properties"]["next"]
        depth += 1
    assert depth == 4
    assert schema["x-ref"] == "S4"


def test_references_with_odd_names():
    spec = copy.deepcopy(SPEC)
    spec["components"]["schemas"]["a/b~c d"] = {"type": "boolean"}
    spec["paths"] = {
        "/x": {
            "get": {
                "parameters": [{"name": "n", "in": "query", "schema": {"$ref": "#/components/schemas/a~1b~0c%20d"}}]
            }
        },
        "/y": {"$ref": "#/paths/~1x"},
    }
    first, second = load_tool_documents(spec)
    assert first.signature() == "GET /x(n?: boolean)"
    assert second.signature() == "GET /y(n?: boolean)"


def broken(**changes):
    spec = copy.deepcopy(SPEC)
    for key, value in changes.items():
        target = spec["paths"]["/shelves/{id}"]["get"]
        target[key] = value
    return spec


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            broken(parameters=[{"$ref": "#/components/parameters/None"}]),
            "the reference '#/components/parameters/None' leads nowhere",
        ),
        (
            broken(parameters=[{"$ref": "other.yaml#/P"}]),
            r"expected a local reference \(#/\.\.\.\), got 'other\.yaml#/P'",
        ),
        (broken(parameters=[{"in": "query"}]), "expected a parameter with a name"),
        (
            broken(parameters=[{"name": "a", "schema": {"type": "string", "minLength": -1}}]),
            r"at \$\.properties\.a\.minLength",
        ),
        (broken(summary=["x"]), "expected text under 'summary', got list"),
        (
            broken(responses={"200": {"content": {"application/json": {"schema": 3}}}}),
            "expected a JSON Schema object, got int",
        ),
    ],
)
def test_one_bad_operation_costs_one_tool(tmp_path, spec, message):
    path = write(tmp_path, "a.yaml", spec)
    line = 1 + path.read_text().split("\n").index("    get:")
    with pytest.raises(DataError, match=message) as caught:
        load_tool_documents(path)
    assert caught.value.line == line
    loaded = load_tool_documents(path, on_error="skip")
    assert [document.name for document in loaded] == ["PUT /shelves/{id}", "addBooks", "drop"]
    assert [problem.line for problem in loaded.report.problems] == [line]
    with pytest.raises(DataError, match=r"at paths\./shelves/\{id\}\.get: "):
        load_tool_documents(spec)


def test_a_property_may_be_called_ref():
    schema = {"type": "object", "properties": {"$ref": {"type": "string"}}}
    document = load_tool_documents(broken(parameters=[{"name": "a", "in": "query", "schema": schema}]))[0]
    assert document.to_dict()["parameters"]["properties"]["a"] == {**schema, "x-in": "query"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"swagger": "2.0", "paths": {}}, r"expected OpenAPI 3\.0 or 3\.1, got Swagger 2\.0; convert"),
        ({"openapi": "4.0.0", "paths": {}}, "got '4.0.0'"),
        ({"openapi": 3.0, "paths": {}}, r"got 3\.0"),
        ({"openapi": "3.0.0"}, "expected an object under 'paths'"),
        ({"openapi": "3.1.0", "webhooks": {}}, "expected at least one tool, found none"),
        ({"openapi": "3.0.0", "paths": {"/a": 3}}, r"at paths\./a: expected an object of operations, got int"),
        ({"openapi": "3.0.0", "paths": {"/a": {"get": 3}}}, "expected an operation object, got int"),
        ({"openapi": "3.0.0", "paths": {"/a": {"$ref": "#/paths/~1a"}}}, "leads back to itself"),
    ],
)
def test_what_is_no_openapi(spec, message):
    with pytest.raises(DataError, match=message):
        load_tool_documents(spec)


def test_the_same_operation_twice_is_an_error():
    spec = copy.deepcopy(SPEC)
    spec["paths"]["/other"] = {"get": {"operationId": "drop"}}
    with pytest.raises(DataError, match=r"duplicate id 'Shelf API/drop': another document is the one at paths\./books"):
        load_tool_documents(spec)
