"""Public files of every format: exact counts and contents against an independent reading."""

from __future__ import annotations

import collections
import gzip
import json

import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from toolscaler.data import load_tool_documents
from toolscaler.errors import DataError

pytestmark = pytest.mark.shared_data

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
SPECS = {  # file -> operations, as the data card gives them or as counted by hand
    "openapi/oai/api-with-examples.yaml": 2,
    "openapi/oai/callback-example.yaml": 1,
    "openapi/oai/link-example.yaml": 6,
    "openapi/oai/petstore-expanded.yaml": 4,
    "openapi/oai/petstore.yaml": 3,
    "openapi/oai/uspto.yaml": 3,
    "openapi/swagger-petstore/openapi.yaml": 19,
    "openapi/pokeapi/openapi.yml": 100,
    "openapi/openai/openapi.json.gz": 288,
    "restbench/specs/tmdb_oas.json": 54,
    "restbench/specs/spotify_oas.json": 40,
}


def text(path):
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return file.read()


def rows(path):
    return [json.loads(line) for line in text(path).splitlines() if line.strip()]


def operations(spec):
    return [
        (f"{method.upper()} {path}", item[method])
        for path, item in spec["paths"].items()
        for method in item
        if method in METHODS
    ]


def check(documents):
    assert len({document.id for document in documents}) == len(documents)
    for document in documents:
        for schema in (document.to_dict()["parameters"], document.to_dict()["returns"] or {}):
            validator_for(schema, default=Draft202012Validator).check_schema(schema)


def check_spec(spec, documents):
    found = operations(spec)
    assert [document.code for document in documents] == [call for call, _ in found]
    for document, (call, operation) in zip(documents, found, strict=True):
        assert document.name == operation.get("operationId", call)
        assert document.provider == spec["info"]["title"]
        assert document.category == (operation.get("tags") or [""])[0]
        assert "$ref" not in json.dumps(document.to_dict())
        # Every parameter that is written in place, and not hidden behind a reference, is an argument.
        for parameter in operation.get("parameters", []):
            if "name" in parameter and not (parameter["in"] == "header" and parameter["name"] == "Authorization"):
                assert parameter["name"] in document.parameters["properties"]
                if parameter.get("required") in (True, "true"):  # one document writes "false" as text
                    assert parameter["name"] in document.parameters["required"]


@pytest.mark.parametrize("name", SPECS)
def test_openapi(shared_data, name):
    documents = load_tool_documents(shared_data / name)
    assert len(documents) == SPECS[name]
    assert documents.report.formats == {"openapi": SPECS[name]}
    content = text(shared_data / name)
    check_spec(json.loads(content) if ".json" in name else yaml.safe_load(content), documents)
    if "openai" not in name:  # the full validator takes 10 s on its 288 operations
        check(documents)
    assert max(len(json.dumps(document.to_dict())) for document in documents) < 300_000


def test_openapi_cycles_are_cut_by_name(shared_data):
    documents = load_tool_documents(shared_data / "openapi/openai/openapi.json.gz")
    assert sum('"x-ref"' in json.dumps(document.to_dict()) for document in documents) > 10


def test_openapi_folder(shared_data):
    documents = load_tool_documents(shared_data / "restbench" / "specs")
    assert documents.report.formats == {"openapi": 94}


def test_openapi_in_strings(shared_data):
    counts = {}
    for name in ("eval_real", "eval_simulated"):
        counts[name] = 0
        for entry in json.loads(text(shared_data / "toolalpaca" / f"{name}.json")):
            spec = json.loads(entry["Documentation"])
            documents = load_tool_documents(spec, category=entry["Category"])
            check(documents)
            assert [document.code for document in documents] == [call for call, _ in operations(spec)]
            assert all(document.category for document in documents)
            counts[name] += len(documents)
    assert counts == {"eval_real": 40, "eval_simulated": 54}


def test_mcp_specification(shared_data):
    folder = shared_data / "mcp-spec-examples"
    files = sorted(folder.rglob("*.json"))
    answers = [path for path in files if path.parent.name != "ListToolsRequest"]
    assert (len(files), len(answers)) == (9, 8)
    for path in answers:
        data = json.loads(text(path))
        data = data.get("result", data)
        tool = data["tools"][0] if "tools" in data else data
        (document,) = load_tool_documents(path)
        plain = document.to_dict()
        assert (document.name, document.description) == (tool["name"], tool["description"])
        assert plain["parameters"] == tool["inputSchema"]
        assert plain["returns"] == tool.get("outputSchema")
    with pytest.raises(DataError, match=r"list-tools-request\.json: no reader fits"):
        load_tool_documents(folder)
    loaded = load_tool_documents(folder, on_error="skip")
    names = collections.Counter(load_tool_documents(path)[0].name for path in answers)
    assert [document.name for document in loaded] == list(names)
    # The request, and every repeat of a name: the two listings share a tool, and two drafts describe one function.
    assert loaded.report.skipped == 1 + sum(names.values()) - len(names) == 3
    same, other = sorted(problem.message for problem in loaded.report.problems if "duplicate" in problem.message)[::-1]
    assert "'get_weather': the same document" in same
    assert "'calculate_sum': another document" in other


def test_mcp_servers(shared_data):
    path = shared_data / "livemcpbench" / "tools.json"
    expected = {
        (tool["name"], tool.get("description") or "", listing.get("server_name") or key): project["category"]
        for project in json.loads(text(path))
        for key, listing in project["tools"].items()
        for tool in listing["tools"]
    }
    loaded = load_tool_documents(path, on_error="skip")
    assert (loaded.report.read, loaded.report.skipped) == (526, 1)
    assert "exclusiveMinimum: True is not of type 'number'" in loaded.report.problems[0].message
    assert '"inputSchema"' in "\n".join(text(path).split("\n")[loaded.report.problems[0].line - 1 :][:12])
    assert {(d.name, d.description, d.provider): d.category for d in loaded}.items() <= expected.items()
    assert len(expected) == 527
    check(loaded)
    with pytest.raises(
        DataError, match=rf"tools\.json:{loaded.report.problems[0].line}: parameters: invalid JSON Schema"
    ):
        load_tool_documents(path)
    tools = [t for project in json.loads(text(path)) for x in project["tools"].values() for t in x["tools"]]
    inner = load_tool_documents({"tools": tools[:20]})  # a bare tools/list result
    hints = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
    hinted = 0
    for document, tool in zip(inner, tools[:20], strict=True):
        noted = (tool.get("annotations") or {}).items()
        given = {key: value for key, value in noted if key in hints and isinstance(value, bool)}
        hinted += bool(given)
        expected_schema = {**tool["inputSchema"], **({"x-annotations": given} if given else {})}
        assert document.to_dict()["parameters"] == expected_schema
    assert 0 < hinted < 20


def test_rows_by_column_mapping(shared_data):
    path = shared_data / "seal-tools" / "tool.jsonl"
    columns = {
        "name": "api_name",
        "description": "api_description",
        "category": "field",
        "parameters": "parameters",
        "required": "required",
        "returns": "responses",
    }
    loaded = load_tool_documents(path, columns=columns)
    assert loaded.report.formats == {"table": 4076}
    check(loaded[::40])
    for document, row in zip(loaded, rows(path), strict=True):
        assert (document.name, document.description, document.category) == (
            row["api_name"],
            row["api_description"],
            row["field"],
        )
        assert list(document.parameters["properties"]) == list(row["parameters"])
        assert {p.name for p in document.iter_parameters() if p.required} == set(row["required"])
        assert list(document.returns["properties"]) == list(row["responses"])
    with pytest.raises(DataError, match="no reader fits"):
        load_tool_documents(path)


def test_schemas_by_column_mapping(shared_data):
    for language in ("English", "Chinese"):
        path = shared_data / "ultratool" / f"{language}-dataset" / "tools.jsonl"
        columns = {"name": "name", "description": "description", "parameters": "arguments", "returns": "results"}
        loaded = load_tool_documents(path, columns=columns)
        check(loaded[::10])
        expected = rows(path)
        assert len(loaded) == len(expected) == 436
        for document, row in zip(loaded, expected, strict=True):
            assert (document.name, document.description) == (row["name"], row["description"])
            assert set(document.parameters["properties"]) == set(row["arguments"].get("properties", {}))


def test_descriptions(shared_data):
    path = shared_data / "toole" / "plugin_des.json"
    loaded = load_tool_documents(path)
    assert {document.name: document.description for document in loaded} == json.loads(text(path))
    assert loaded.report.formats == {"descriptions": 199}
    with pytest.raises(DataError, match=r"columns \['Query', 'Tool'\] are no fields"):
        load_tool_documents(shared_data / "toole" / "all_clean_data.csv")


def test_invalid_schemas_are_counted_line_by_line(shared_data):
    folder = shared_data / "bfcl" / "multi_turn_func_doc"
    expected = {(path.name, number) for path in folder.glob("*.json") for number, _ in enumerate(rows(path), 1)}
    loaded = load_tool_documents(folder, on_error="skip")  # every schema there says "dict"
    assert (len(loaded), loaded.report.skipped) == (0, 128)
    assert {(problem.path.name, problem.line) for problem in loaded.report.problems} == expected
    columns = {"name": "name", "description": "description", "parameters": "parameters", "returns": "response"}
    read = load_tool_documents(folder, columns=columns, on_error="skip")
    check(read)
    names = collections.Counter(row["name"] for path in sorted(folder.glob("*.json")) for row in rows(path))
    assert [document.name for document in read] == list(names)
    assert read.report.skipped == sum(names.values()) - len(names)
