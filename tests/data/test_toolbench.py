"""ToolBench documentation in each of its forms: names kept to the letter, types normalised, every API found."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.data.schema import check_arguments_schema
from toolscaler.data.sources.base import ReadOptions
from toolscaler.data.sources.loading import load_tool_documents
from toolscaler.data.sources.opening import Source
from toolscaler.data.sources.toolbench import (
    StandardNames,
    ToolBenchReader,
    api_document,
    describe_api,
    finish_document,
    function_name,
    parse_virtual_token,
    standardize_name,
    toolbench_id,
)
from toolscaler.errors import ConfigError, DataError

_FORECAST = {
    "category_name": "Weather",
    "tool_name": "Sky Watch ",
    "api_name": "10/day: forecast",
    "api_description": " Forecast of a place. ",
    "required_parameters": [
        {"name": "place", "type": "STRING", "description": "Where", "default": "Oslo"},
        {"name": "from", "type": "DATE (YYYY-MM-DD)", "description": "", "default": ""},
    ],
    "optional_parameters": [{"name": "days", "type": "NUMBER", "description": "How many", "default": 3}],
    "method": "GET",
    "template_response": {"rain": "bool"},
}
_ALERTS = {"category_name": "Weather", "tool_name": "Sky Watch ", "api_name": "alerts", "api_description": " "}


def _read(source: Source, **options):
    reader = ToolBenchReader(**options)
    assert reader.sniff(source)
    found = list(reader.read(source, ReadOptions()))
    assert not [item for _, item in found if isinstance(item, str)]
    return [item for _, item in found]


def _file(folder, name, value, *, lines=False):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, value)) if lines else json.dumps(value, indent=1)
    path.write_text(text, encoding="utf-8")
    return Source.open(path)


def test_an_api_record_becomes_a_document():
    document = api_document(_FORECAST, tool_description="Weather for all.")
    assert (document.id, document.provider, document.name) == (
        "Sky Watch /10/day: forecast",
        "Sky Watch ",
        "10/day: forecast",
    )
    assert document.category == "Weather"
    assert document.description == "Forecast of a place.\nSky Watch: Weather for all."
    assert json.loads(document.code) == {"rain": "bool"}
    parameters = {parameter.name: parameter for parameter in document.iter_parameters()}
    assert [(name, item.type, item.required) for name, item in parameters.items()] == [
        ("place", "string", True),
        ("from", "string", True),
        ("days", "number", False),
    ]
    assert parameters["place"].schema["examples"] == ("Oslo",)  # a value to try, no default
    assert parameters["days"].schema["default"] == 3
    assert parameters["from"].schema["format"] == "date"
    assert "examples" not in parameters["from"].schema
    check_arguments_schema(document.to_dict()["parameters"])


def test_descriptions_of_api_and_tool_are_joined():
    assert describe_api("Does x.", "Box", "") == "Does x."
    assert describe_api("  ", "Box", "A box. ") == "Box: A box."
    assert describe_api("A box.", "Box", " A box.") == "A box."


@pytest.mark.parametrize("lines", [True, False])
def test_api_records_from_a_file(tmp_path, lines):
    documents = _read(_file(tmp_path, "docs.json", [_FORECAST, _ALERTS], lines=lines))
    assert [document.name for document in documents] == ["10/day: forecast", "alerts"]
    assert documents[1].description == ""
    assert documents[1].parameters == {"type": "object", "properties": {}}


def test_a_tool_file_takes_its_category_from_its_folder(tmp_path):
    tool = {
        "tool_name": "Sky Watch ",
        "tool_description": "Weather for all.",
        "api_list": [{"name": "alerts", "description": "Warnings.", "code": "import requests", "method": "GET"}],
    }
    document = _read(_file(tmp_path, "toolenv/tools/Weather/sky_watch.json", tool))[0]
    assert (document.category, document.id, document.code) == ("Weather", "Sky Watch /alerts", "import requests")
    assert document.description == "Warnings.\nSky Watch: Weather for all."
    assert _read(_file(tmp_path, "downloads/sky_watch.json", tool))[0].category == ""
    listed = _read(_file(tmp_path, "tools.json", [{**tool, "category": "Sky"}, tool]))
    assert [document.category for document in listed] == ["Sky", ""]


def test_query_files_give_each_api_once(tmp_path):
    queries = [
        {"query": "a", "api_list": [_FORECAST, _ALERTS], "relevant APIs": [], "query_id": 1},
        {"query": "b", "api_list": [_ALERTS], "relevant APIs": [], "query_id": 2},
    ]
    assert [document.name for document in _read(_file(tmp_path, "q.json", queries))] == ["10/day: forecast", "alerts"]


def test_draft_form():
    guideline = {"name": "alerts", "description": "Warnings.", "required_parameters": [], "optional_parameters": []}
    tool = {
        "ID": "1",
        "category": "Weather",
        "tool_name": "Sky",
        "tool_description": "All.",
        "tool_guidelines": {"alerts": guideline},
    }
    document = _read(Source({"1": tool}))[0]
    assert (document.id, document.category, document.description) == ("Sky/alerts", "Weather", "Warnings.\nSky: All.")


def test_token_files_split_at_the_first_ampersands_and_strip_nothing(tmp_path):
    path = tmp_path / "virtual_tokens.txt"
    path.write_text("<<Finish>>\n<< Sky&&a && b >>\n<<'>>x&&y>>\n", encoding="utf-8")
    documents = _read(Source.open(path))
    assert [(document.provider, document.name) for document in documents] == [
        ("", "Finish"),
        (" Sky", "a && b "),
        ("'>>x", "y"),
    ]
    assert documents[0] == finish_document()
    assert [document.id for document in _read(Source.open(path), finish=False)] == [" Sky/a && b ", "'>>x/y"]


@given(
    st.text(min_size=1).filter(lambda text: "&&" not in text and not text.endswith("&") and text.strip()),
    st.text(min_size=1).filter(lambda text: text.strip()),
)
def test_tokens_are_read_back(tool, api):
    assert parse_virtual_token(f"<<{tool}&&{api}>>") == (tool, api)


@pytest.mark.parametrize("token", ["<<sky>>", "sky&&rain", "<<&&rain>>", "<<sky&& >>", "", "<<sky&&rain>> "])
def test_other_text_is_no_token(token):
    with pytest.raises(DataError, match="expected a token"):
        parse_virtual_token(token)


def test_clashes_of_categories_need_the_three_part_key():
    other = {**_ALERTS, "category_name": "Sports"}
    assert len({document.id for document in _read(Source([_ALERTS, other]))}) == 1
    ids = [document.id for document in _read(Source([_ALERTS, other]), identity="category")]
    assert ids == ["Weather/Sky Watch /alerts", "Sports/Sky Watch /alerts"]
    assert toolbench_id("t", "a", "", identity="category") == "t/a"
    with pytest.raises(ConfigError, match="identity"):
        ToolBenchReader("name")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"api_name": "  "}, "expected a name under 'api_name'"),
        ({"tool_name": 5}, "expected a name under 'tool_name', got int"),
        ({"required_parameters": {}}, None),
        ({"required_parameters": {"a": 1}}, "expected a list under 'required_parameters', got dict"),
        ({"required_parameters": [{"type": "STRING"}]}, "required_parameters: expected a parameter with a name"),
        ({"optional_parameters": [{"name": "x", "type": 5}]}, "parameter 'x': expected the name of a type, got 5"),
        ({"api_description": ["x"]}, "expected text under 'api_description', got list"),
    ],
)
def test_bad_records_are_reported_with_their_place(tmp_path, change, message):
    source = _file(tmp_path, "docs.json", [_ALERTS, {**_FORECAST, **change}])
    found = list(ToolBenchReader().read(source))
    assert not isinstance(found[0][1], str)
    if message is None:
        assert not isinstance(found[1][1], str)
    else:
        assert message in found[1][1]
        assert source.line_of(found[1][0]) == source.text[: source.text.rindex('"category_name"')].count("\n")


def test_bad_lines_of_a_token_file_are_reported(tmp_path):
    path = tmp_path / "virtual_tokens.txt"
    path.write_text("<<a&&b>>\n" * 25 + "<<a>>\n", encoding="utf-8")
    source = Source.open(path)
    assert ToolBenchReader().sniff(source)
    record, message = list(ToolBenchReader().read(source))[-1]
    assert (record.line, message) == (26, "expected a token <<tool&&api>>, got '<<a>>'")


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        [{"name": "x", "description": "y"}],
        {"tools": []},
        [{"query": "x", "tools": ["y"]}],
        {"type": "function", "function": {"name": "x"}},
        {"openapi": "3.0.0", "paths": {}},
        [{"api_name": "x", "field": "y"}],
    ],
)
def test_other_formats_are_left_alone(value):
    assert not ToolBenchReader().sniff(Source(value))


def test_other_text_files_are_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("<<a&&b>>\nhello\n", encoding="utf-8")
    assert not ToolBenchReader().sniff(Source.open(path))


def test_standardised_names():
    assert standardize_name("/v4/Sports/{sport}/ odds") == "v4_sports_sport_odds"
    assert standardize_name("4K Wallpapers!") == "get_4k_wallpapers"
    assert standardize_name("天气 API") == "天气_api"
    assert function_name("Sky Watch ", "10/day: forecast") == "get_10_day_forecast_for_sky_watch"
    assert function_name("t" * 60, "abcdef") == ("abcdef_for_" + "t" * 60)[-64:]


def test_the_way_back_gives_all_candidates():
    names = StandardNames([("Sky", "Rain"), ("sky", "rain "), ("Sky", "Snow"), ("Sky", "Rain")])
    assert names.find("sky", "rain") == (("Sky", "Rain"), ("sky", "rain "))
    assert names.find("SKY", "snow!") == (("Sky", "Snow"),)
    assert names.find("sky", "hail") == ()
    assert names.find_function("snow_for_sky") == (("Sky", "Snow"),)
    assert len(names.find_function("rain_for_sky")) == 2
    long = StandardNames([("t" * 60, "one_abc"), ("t" * 60, "two_abc")])
    assert len(long.find_function("abc_for_" + "t" * 60)) == 2


def test_the_front_door_finds_the_format(tmp_path):
    tool = {"tool_name": "Sky", "api_list": [{"name": "alerts", "description": "Warnings."}]}
    for value in ([_FORECAST, _ALERTS], tool, [tool], [{"query": "a", "api_list": [_ALERTS]}]):
        documents = load_tool_documents(_file(tmp_path, "source.json", value).path)
        assert documents.report.formats == {"toolbench": len(documents)}
    with pytest.raises(DataError, match=r"docs.jsonl:2: duplicate id 'Sky Watch /alerts'"):
        load_tool_documents(_file(tmp_path, "docs.jsonl", [_ALERTS, _ALERTS], lines=True).path)


# --- real files ---------------------------------------------------------------------------------------------------


def _tokens(shared_data):
    lines = (shared_data / "toolbench/virtual_tokens.txt").read_bytes().decode("utf-8").split("\n")
    return [tuple(line[2:-2].split("&&", 1)) for line in lines if "&&" in line]


@pytest.mark.shared_data
def test_real_token_file(shared_data):
    documents = _read(Source.open(shared_data / "toolbench/virtual_tokens.txt"))
    assert len(documents) == len({document.id for document in documents}) == 46_985
    assert documents[0].name == "Finish"
    assert [(document.provider, document.name) for document in documents[1:]] == _tokens(shared_data)
    assert len({document.provider for document in documents}) == 10_387 + 1
    assert sum(document.name != document.name.strip() for document in documents) > 0


@pytest.mark.shared_data
def test_real_api_records(shared_data):
    path = shared_data / "toolbench/api_docs.jsonl"
    raw = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    documents = _read(Source.open(path))
    assert len(documents) == len(raw) == 3_235
    assert len({document.id for document in documents}) == 3_221
    assert len({document.id for document in _read(Source.open(path), identity="category")}) == 3_235
    assert len({document.category for document in documents}) == 47
    assert sum(not document.description for document in documents) == 281
    for document, row in zip(documents, raw, strict=True):
        assert (document.provider, document.name) == (row["tool_name"], row["api_name"])
        required = {item["name"] for item in row["required_parameters"]}
        assert {item.name for item in document.iter_parameters() if item.required} == required
        assert {item.type for item in document.iter_parameters()} <= {"string", "number", "boolean", "array", "object"}
        check_arguments_schema(document.to_dict()["parameters"])


@pytest.mark.shared_data
def test_real_files_through_the_front_door(shared_data):
    folder = shared_data / "toolbench"
    with pytest.raises(DataError, match=r"api_docs.jsonl:\d+: duplicate id"):
        load_tool_documents(folder / "api_docs.jsonl")
    documents = load_tool_documents(folder / "api_docs.jsonl", on_error="skip")
    assert (documents.report.read, documents.report.skipped) == (3_221, 14)
    assert len(load_tool_documents(folder / "virtual_tokens.txt")) == 46_985
    assert len(load_tool_documents(folder / "draft_tool_instruction_initial.json")) == 1_006
    path = folder / "solvable_queries/test_instruction/G1_tool.json"
    rows = json.loads(path.read_text("utf-8"))
    threes = {(api["category_name"], api["tool_name"], api["api_name"]) for row in rows for api in row["api_list"]}
    pairs = {three[1:] for three in threes}
    documents = load_tool_documents(path, on_error="skip")
    assert (documents.report.read, documents.report.skipped) == (len(pairs), len(threes) - len(pairs))


@pytest.mark.shared_data
def test_real_draft_file(shared_data):
    path = shared_data / "toolbench/draft_tool_instruction_initial.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    documents = _read(Source.open(path))
    assert len(documents) == len({document.id for document in documents}) == 1_006
    wanted = [(tool["tool_name"], name) for tool in raw.values() for name in tool["tool_guidelines"]]
    assert [(document.provider, document.name) for document in documents] == wanted
    assert len({document.provider for document in documents}) == 282


@pytest.mark.shared_data
def test_real_query_files_document_the_api_records(shared_data):
    known = {
        (row["category_name"], row["tool_name"], row["api_name"])
        for row in map(json.loads, (shared_data / "toolbench/api_docs.jsonl").read_text(encoding="utf-8").splitlines())
    }
    files = sorted((shared_data / "toolbench/full_queries/test_instruction").glob("*.json.gz"))
    assert len(files) == 4
    seen = set()
    for path in files:
        raw = json.loads(gzip.decompress(path.read_bytes()))
        wanted = {(api["category_name"], api["tool_name"], api["api_name"]) for row in raw for api in row["api_list"]}
        documents = _read(Source.open(path))
        assert Counter((item.category, item.provider, item.name) for item in documents) == Counter(wanted)
        seen |= wanted
    assert seen <= known


@pytest.mark.shared_data
def test_real_trajectories_find_their_apis(shared_data):
    names = StandardNames(_tokens(shared_data))
    called = set()
    for path in (shared_data / "toolbench/data_example/answer").glob("*/*.json"):
        answer = json.loads(path.read_text(encoding="utf-8"))["answer_generation"]
        called |= {function["name"] for function in answer["function"]} - {"Finish"}
    assert len(called) > 50
    assert [name for name in called if len(names.find_function(name)) != 1] == []


@pytest.mark.shared_data
def test_real_standardised_names_map_at_least_as_far_as_the_data_card_says(shared_data):
    keys = _tokens(shared_data)
    names = StandardNames(keys)
    # Slow twin, without the prefix for digits: the counts of the data card.
    plain = defaultdict(set)
    for tool, api in keys:
        plain[tuple(re.sub("[^0-9a-z]+", "_", name.lower()).strip("_") for name in (tool, api))].add((tool, api))
    folder = shared_data / "toolbench-g3-mgtoolbench/coarse_instruction"
    steps = []
    rows = {}
    for kind in ("tool", "api"):
        text = gzip.decompress((folder / f"{kind}_instruction_5000.json.gz").read_bytes()).decode("utf-8")
        rows[kind] = {row["path"]: row["query"] for row in map(json.loads, text.splitlines())}
    for path, query in rows["tool"].items():
        lists = [
            text.rsplit("\n", 1)[1].split(": ", 1)[1].rstrip(".").split(", ") for text in (query, rows["api"][path])
        ]
        steps += list(zip(*lists, strict=True))
    assert len(steps) == 14_432
    assert sum(step in plain for step in steps) == 13_880
    assert sum(len(plain.get(step, ())) == 1 for step in steps) == 13_712
    found = [names.find(*step) for step in steps]
    assert sum(map(bool, found)) == 14_350
    assert sum(len(keys) == 1 for keys in found) == 14_182
    for step, candidates in zip(steps, found, strict=True):
        assert plain.get(step, set()) <= set(candidates)
