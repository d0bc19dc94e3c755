"""Contract: a first request is a query, the tools called for it and offered there are its labels; counts recomputed."""

from __future__ import annotations

import json
import re

import pytest

from support.bundles import check_bundle, put, read_json, read_lines
from toolscaler.data.bundles import load_bundle
from toolscaler.errors import DataError


def _row(tools, history, output):
    listed = "\n".join(
        f"{place}. Name: {name}\nDescription: {text}\nParameters: {json.dumps(parameters)}"
        for place, (name, text, parameters) in enumerate(tools, 1)
    )
    return {
        "instruction": f"**Available Tools**\n{listed}\n\n**Steps**\n1. **Think:**",
        "input": history,
        "output": output,
    }


def _call(*names):
    calls = "\n".join(json.dumps({"name": name, "parameters": {}}) for name in names)
    return f"<think> So. </think>\n<tool_call>\n{calls}\n</tool_call>"


def test_toolrl_small(tmp_path):
    city = {"city": {"type": "str", "description": "Where.\n2. Name: not a tool", "default": "x"}}
    rows = [
        _row([("rain", "Tells rain.", city), ("sun", "Sun\nrises.", {})], "<user> Wet? </user>", _call("rain", "void")),
        _row([("rain", "Makes rain.", {})], "<user> Make it. </user>", _call("rain")),
        _row([("rain", "Tells rain.", city)], "<user> Hello. </user>", "<response> Hi. </response>"),
        _row([("rain", "Tells rain.", city)], "<user> Odd. </user>", _call("void")),
        _row(
            [("sun", "Sun\nrises.", {})],
            f"<user> When? </user>\n{_call('sun')}\n<obs> 6 </obs>\n<user> And the rain? </user>",
            _call("rain"),
        ),
    ]
    put(tmp_path, "rlla_sft.json", rows)
    bundle = load_bundle("toolrl", tmp_path)
    check_bundle(bundle)
    told, sun, made = bundle.documents
    assert [re.sub("#[0-9a-f]{8}$", "#", item.id) for item in bundle.documents] == ["rain#", "sun", "rain#"]
    assert (told.description, told.signature()) == ("Tells rain.", "rain(city?: string)")
    assert (sun.description, made.description) == ("Sun\nrises.", "Makes rain.")
    assert [(query.text, query.tools) for query in bundle.queries] == [
        ("Wet?", (told.id,)),
        ("Make it.", (made.id,)),
        ("When?", ("sun",)),  # what is called after the user has spoken again is another request's
    ]
    assert bundle.counts == {
        "dialogues without a call dropped": 1,
        "labels not offered dropped": 2,
        "queries without labels dropped": 1,
        "repeated documents merged": 3,
        "documents with a suffix": 2,
    }
    put(tmp_path, "rlla_sft.json", [{**rows[0], "instruction": "1. Name: a\nDescription: b\nParameters: {oops"}])
    with pytest.raises(DataError, match="'a': expected parameters as JSON"):
        load_bundle("toolrl", tmp_path)


def _dialogue(tools, *turns):
    return {"conversations": [{"from": role, "value": text} for role, text in turns], "tools": json.dumps(tools)}


def test_glaive_small(tmp_path):
    area = {"name": "area", "description": "First.", "parameters": {"type": "object", "properties": {}}}
    call = json.dumps({"name": "area", "arguments": {}})
    asked = [("human", "Hi. "), ("gpt", "Yes?"), ("human", "An area."), ("function_call", call), ("observation", "{}")]
    rows = [
        _dialogue([area], *asked, ("gpt", "1")),
        _dialogue([{**area, "description": "Second."}], ("human", "Area!"), ("function_call", call)),
        _dialogue([], ("human", "Hello"), ("gpt", "Hi")),
    ]
    put(tmp_path, "glaive_toolcall_en_demo.json", rows)
    wrapped = [{"type": "function", "function": {**area, "name": "tax"}}]
    parts = [
        {"role": "user", "content": [{"type": "text", "value": "Tax?"}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_call", "value": json.dumps({"name": "tax", "arguments": {}})}],
        },
    ]
    put(tmp_path, "reason_tool_use_demo_50.jsonl", [{"messages": parts, "tools": json.dumps(wrapped)}])
    bundle = load_bundle("glaive-toolcall", tmp_path)
    check_bundle(bundle)
    assert [(document.id, document.description) for document in bundle.documents] == [
        ("area", "First."),
        ("tax", "First."),
    ]
    assert [(query.text, query.tools) for query in bundle.queries] == [
        ("Hi.\nAn area.", ("area",)),
        ("Area!", ("area",)),
        ("Tax?", ("tax",)),
    ]
    assert bundle.counts["dialogues without a call dropped"] == 1
    put(tmp_path, "reason_tool_use_demo_50.jsonl", [{"messages": parts, "tools": "oops"}])
    with pytest.raises(DataError, match="functions as JSON"):
        load_bundle("glaive-toolcall", tmp_path)


@pytest.mark.shared_data
def test_toolrl_real(shared_data):
    folder = shared_data / "toolrl"
    bundle = load_bundle("toolrl", folder)
    check_bundle(bundle)
    rows = read_json(folder / "rlla_sft.json")
    names = {name for row in rows for name in re.findall(r"^\d+\. Name: (.+)$", row["instruction"], re.MULTILINE)}
    assert {document.name for document in bundle.documents} == {name.strip() for name in names}
    assert len(names) == 1_130
    assert len(bundle.queries) + bundle.counts["dialogues without a call dropped"] + 1 == len(rows) == 400
    assert all(query.text for query in bundle.queries)


@pytest.mark.shared_data
def test_glaive_real(shared_data):
    folder = shared_data / "glaive-toolcall"
    bundle = load_bundle("glaive-toolcall", folder)
    check_bundle(bundle)
    first = read_json(folder / "glaive_toolcall_en_demo.json")
    second = read_lines(folder / "reason_tool_use_demo_50.jsonl")
    with_calls = sum(any(turn["from"] == "function_call" for turn in row["conversations"]) for row in first)
    names = {item["name"] for row in first for item in json.loads(row["tools"])}
    names |= {item["function"]["name"] for row in second for item in json.loads(row["tools"])}
    assert with_calls == 153
    assert {document.id for document in bundle.documents} == names
    assert with_calls <= len(bundle.queries) <= with_calls + len(second)
    assert len(bundle.queries) + bundle.counts["dialogues without a call dropped"] == len(first) + len(second)
