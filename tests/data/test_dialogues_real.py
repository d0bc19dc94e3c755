"""Public dialogues of every format: read completely, with counts and contents against an independent reading."""

from __future__ import annotations

import ast
import collections
import gzip
import json
import re
from typing import NamedTuple

import pytest

from toolscaler.data import load_bundle, read_trajectories, save_trajectories
from toolscaler.data.dialogues import load_trajectories
from toolscaler.errors import DataError

pytestmark = pytest.mark.shared_data


class Expected(NamedTuple):
    """What a source gives: trajectories, calls (Finish apart), results, bad rows, and what is left out."""

    format: str
    trajectories: int
    calls: int
    results: int
    skipped: int = 0
    left_out: int = 0


MGTOOLBENCH = "toolbench-g3-mgtoolbench/answer/G3_plan_gen_eval_1020_G3_3tag_whole_prefixTagTraceAll.json.gz"
STABLE = "toolbench/stabletoolbench_data_example"
SOURCES = {
    # 15 trees, of which 9 have an answer; each other leaf is a failed path.
    "toolbench/data_example/answer/G1_answer": Expected("toolbench", 4, 12, 12, 0, 13),
    "toolbench/data_example/answer/G2_answer": Expected("toolbench", 2, 5, 5, 0, 46),
    "toolbench/data_example/answer/G3_answer": Expected("toolbench", 3, 9, 9, 0, 94),
    f"{STABLE}/answer/virtual_chatgpt_cot/G1_instruction": Expected("toolbench", 2, 4, 4, 0, 2),
    f"{STABLE}/answer/virtual_chatgpt_dfs/G1_instruction": Expected("toolbench", 3, 8, 8, 0, 12),
    f"{STABLE}/model_predictions_converted/virtual_chatgpt_cot/G1_instruction.json": Expected(
        "toolbench", 2, 4, 4, 0, 2
    ),
    f"{STABLE}/model_predictions_converted/virtual_chatgpt_dfs/G1_instruction.json": Expected("toolbench", 3, 8, 8),
    # 161 rows are prompts of a planner and have no user turn; one has a comment inside its arguments.
    MGTOOLBENCH: Expected("toolllama", 136, 349, 233, 162),
    # Golden arguments that are no JSON even with the references quoted.
    "toolalpaca/eval_real.json": Expected("toolalpaca", 110, 137, 0, 4),
    "toolalpaca/eval_simulated.json": Expected("toolalpaca", 98, 151, 0, 2),
    # Steps: a row that another one goes on from is left out.
    "api-bank/training-data/lv3-train.json": Expected("api-bank", 339, 909, 907, 0, 906),
    "api-bank/test-data/level-1-api.json": Expected("api-bank", 222, 414, 192, 0, 177),
    "api-bank/test-data/level-2-api.json": Expected("api-bank", 65, 153, 88, 0, 70),
    "api-bank/test-data/level-3.json": Expected("api-bank", 50, 245, 245),
    "api-bank/test-data/level-3-batch-inf.json": Expected("api-bank", 50, 245, 195, 0, 195),
    # One of the 264 files is empty.
    "api-bank/lv1-lv2-samples/level-1-given-desc": Expected("api-bank", 213, 389, 389, 1),
    "api-bank/lv1-lv2-samples/level-2-toolsearcher": Expected("api-bank", 50, 119, 119),
    "ultratool/English-dataset/test.json.gz": Expected("ultratool", 800, 1920, 0),
    "ultratool/Chinese-dataset/test.json.gz": Expected("ultratool", 800, 1920, 0),
    "seal-tools/dev.jsonl": Expected("seal-tools", 700, 1804, 0),
    "seal-tools/test_in_domain.jsonl": Expected("seal-tools", 350, 888, 0),
    "seal-tools/dataset_in_old_format/dev.jsonl": Expected("seal-tools", 700, 1804, 0),
    "seal-tools/dataset_for_finetune/dev.json.gz": Expected("seal-tools", 700, 1804, 0),
    "nestful/data/executable/executable-data.json": Expected("nestful", 85, 233, 0),
    "nestful/data/non-executable/non-executable-glaive-data.json": Expected("nestful", 169, 469, 0),
    "nestful/data/non-executable/non-executable-sgd-data.json": Expected("nestful", 46, 98, 0),
    "glaive-toolcall/glaive_toolcall_en_demo.json": Expected("glaive", 300, 211, 211),
    # The last message of 11 dialogues is a call; of 42 results, 5 are divided among 2, 3, 2, 2 and 2 calls.
    "glaive-toolcall/reason_tool_use_demo_50.jsonl": Expected("glaive", 50, 68, 48),
    "toolrl/rlla_sft.json": Expected("toolrl", 400, 628, 52),
}


def text(path):
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return file.read()


def rows(path):
    try:
        value = json.loads(text(path))
    except json.JSONDecodeError:
        value = [json.loads(line) for line in text(path).splitlines() if line.strip()]
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_read_completely(shared_data, tmp_path, name):
    expected = SOURCES[name]
    found = load_trajectories(shared_data / name, on_error="skip")
    report = found.report
    assert report.formats == {expected.format: expected.trajectories}
    messages = [message for item in found for message in item.messages]
    counts = (
        len(found),
        sum(len(item.tools) for item in found),
        sum(message.role == "tool" for message in messages),
        report.skipped,
        sum(report.left_out.values()),
    )
    assert counts == expected[1:]
    save_trajectories(tmp_path / "all.jsonl", found)
    assert list(read_trajectories(tmp_path / "all.jsonl")) == list(found)
    if expected.skipped:
        with pytest.raises(DataError):
            load_trajectories(shared_data / name)
    else:
        assert len(load_trajectories(shared_data / name)) == len(found)


def test_toolbench_paths_are_those_of_the_training_messages(shared_data):
    checked = 0
    for path in sorted((shared_data / "toolbench").glob("**/answer/*/**/*.json")):
        data = json.loads(text(path))
        found = load_trajectories(path)
        assert len(found) == data["win"]
        if not found:
            continue
        messages = data["answer_generation"]["train_messages"][-1]
        calls = [message["function_call"] for message in messages if message.get("function_call")]
        results = [message["content"] for message in messages if message["role"] == "function"]
        (item,) = found
        assert [(call.tool, call.arguments) for call in item.calls] == [
            (call["name"], json.loads(call["arguments"])) for call in calls
        ]
        assert [message.content for message in item.messages if message.role == "tool"] == results
        assert item.query == data["answer_generation"]["query"].strip()
        thoughts = [message["content"].strip() for message in messages if message.get("content")]
        for message in item.messages:
            for part in filter(None, message.content.split("\n") if message.role == "assistant" else ()):
                assert any(part in thought for thought in thoughts)
        checked += 1
    assert checked == 14


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("toolbench/")])
def test_toolbench_has_a_path_for_each_leaf(shared_data, name):
    leaves = 0
    path = shared_data / name
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        data = text(file)
        # A leaf has no children; a chain has no tree; the converted form has "next".
        leaves += len(re.findall(r'"(?:children|next)": \[\s*\]', data)) + len(re.findall(r'"chain": \[\s*\{', data))
    found = load_trajectories(path, branches="all")
    assert len(found) == leaves
    assert sum(item.metadata["win"] for item in found) == SOURCES[name].trajectories
    codes_that_fail = sum(message.is_error for item in found for message in item.messages)
    assert (codes_that_fail > 0) == ("data_example/answer" in name and "stable" not in name)


def test_mgtoolbench_against_its_text(shared_data):
    data = rows(shared_data / MGTOOLBENCH)
    asked = [row for row in data if any(turn["from"] == "user" for turn in row["conversations"])]
    assert len(data) - len(asked) == 161
    found = {item.id: item for item in load_trajectories(shared_data / MGTOOLBENCH, on_error="skip")}
    for row in asked:
        if row["id"] not in found:
            continue
        turns = [turn["value"] for turn in row["conversations"] if turn["from"] == "assistant"]
        actions = [re.search(r"\nAction: (\S+)\nAction Input:", turn).group(1) for turn in turns]
        item = found[row["id"]]
        assert [call.tool for call in item.calls] == actions
        assert "Tag" not in item.query
        assert "Begin!" not in item.query
        assert item.query in row["id"]
    assert len(found) == 136


@pytest.mark.parametrize("name", [name for name in SOURCES if SOURCES[name].left_out and name.startswith("api-bank")])
def test_api_bank_steps_against_brute_force(shared_data, name):
    data = rows(shared_data / name)
    contexts = [re.split(r"\nGenerate (?:API|AI)", row["input"])[0] for row in data]
    targets = [(row.get("expected_output") or row["output"]).strip() for row in data]
    wholes = [f"{context}\n{target}" for context, target in zip(contexts, targets, strict=True)]
    longest = [whole for whole in wholes if not any(context.startswith(whole) for context in contexts)]
    found = load_trajectories(shared_data / name)
    assert len(found) == len(longest)
    for item, whole in zip(found, longest, strict=True):
        assert item.query == re.search(r"^User: (.*)$", whole, re.MULTILINE).group(1).strip()
        names = re.findall(r"(?:^API-Request: \[?|\), (?=RatioCalculator))(\w+)\(", whole, re.MULTILINE)
        assert list(item.tools) == names


def test_api_bank_dialogues_against_their_lines(shared_data):
    for path in sorted((shared_data / "api-bank/lv1-lv2-samples").glob("*/*.jsonl")):
        lines = [json.loads(line) for line in text(path).splitlines() if line.strip()]
        if not lines:
            continue
        (item,) = load_trajectories(path)
        calls = [line for line in lines if line["role"] == "API"]
        assert list(item.tools) == [line["api_name"] for line in calls]
        assert [call.arguments for call in item.calls] == [line["param_dict"] for line in calls]
        users = [message.content for message in item.messages if message.role == "user"]
        assert users == [line["text"].strip() for line in lines if line["role"] == "User"]


@pytest.mark.parametrize("part", ["English", "Chinese"])
@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_ultratool_against_python_s_own_parser(shared_data, part):
    data = rows(shared_data / f"ultratool/{part}-dataset/test.json.gz")
    found = load_trajectories(shared_data / f"ultratool/{part}-dataset/test.json.gz")
    exact = 0
    for row, item in zip(data, found, strict=True):
        steps = [step["tool"] for step in row["plan"] if "(" in step["tool"]]
        assert list(item.tools) == [step.partition("(")[0].strip() for step in steps]
        assert set(item.tools) == {tool["name"] for tool in row["tools"]}
        for step, call in zip(steps, item.calls, strict=True):
            try:
                parsed = ast.parse(step.strip(), mode="eval").body
                arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in parsed.keywords}
            except (SyntaxError, ValueError):
                continue
            assert call.arguments == arguments
            exact += 1
    assert exact == {"English": 1504, "Chinese": 1662}[part]


def test_seal_tools_three_forms_agree(shared_data):
    folder = shared_data / "seal-tools"
    data = rows(folder / "dev.jsonl")
    dev, old, tuned = (
        load_trajectories(folder / name)
        for name in ("dev.jsonl", "dataset_in_old_format/dev.jsonl", "dataset_for_finetune/dev.json.gz")
    )
    for row, item in zip(data, dev, strict=True):
        assert [(call.tool, call.arguments) for call in item.calls] == [
            (call["api"], call["parameters"]) for call in row["calling"]
        ]
        assert item.id == row["id"]
    calls = {item.query: [(call.tool, call.arguments) for call in item.calls] for item in dev}
    for other in (old, tuned):
        assert {item.query: [(call.tool, call.arguments) for call in item.calls] for item in other} == calls
    references = sum("references" in item.metadata for item in dev)
    assert references == sum("API_call_" in str([call["parameters"] for call in row["calling"]]) for row in data)


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("nestful/")])
def test_nestful_against_its_rows(shared_data, name):
    data = rows(shared_data / name)
    spec = json.loads(text(shared_data / name.replace("-data.json", "-spec.json")))
    found = load_trajectories(shared_data / name, catalogue=list({tool["name"] for tool in spec}))
    for row, item in zip(data, found, strict=True):
        assert [(call.tool, call.arguments, call.id) for call in item.calls] == [
            (call["name"], call["arguments"], call["label"]) for call in row["output"][:-1]
        ]
        assert item.metadata["result"] == row["output"][-1]["arguments"]
    assert sum(found.report.unknown.values()) == (11 if "glaive" in name else 0)
    if "glaive" in name:
        assert len(found.report.unknown) == 7
        assert found.report.unknown["get_news_headlines"] == 3


def test_glaive_against_its_turns(shared_data):
    data = rows(shared_data / "glaive-toolcall/glaive_toolcall_en_demo.json")
    for row, item in zip(
        data, load_trajectories(shared_data / "glaive-toolcall/glaive_toolcall_en_demo.json"), strict=True
    ):
        turns = collections.defaultdict(list)
        for turn in row["conversations"]:
            turns[turn["from"]].append(turn["value"])
        assert [{"name": call.tool, "arguments": call.arguments} for call in item.calls] == [
            json.loads(value) for value in turns["function_call"]
        ]
        assert [message.content for message in item.messages if message.role == "tool"] == turns["observation"]
        assert item.answer == turns["gpt"][-1].strip()
        assert set(item.tools) <= set(item.metadata.get("candidate_tools", ()))


def test_toolalpaca_against_its_rows(shared_data):
    for name in ("eval_real", "eval_simulated"):
        found = {item.id: item for item in load_trajectories(shared_data / f"toolalpaca/{name}.json", on_error="skip")}
        unknown = 0
        for row in rows(shared_data / f"toolalpaca/{name}.json"):
            for number, (asked, answer) in enumerate(zip(row["Instructions"], row["Golden_Answers"], strict=True)):
                item = found.get(f"{row['Name']}/{number}")
                if item is None:
                    continue
                assert item.query == asked.strip()
                assert list(item.tools) == [f"{row['Name']}/{call['Action']}" for call in answer]
                assert ("references" in item.metadata) == ("${" in str(answer))
                unknown += sum(tool not in item.metadata["candidate_tools"] for tool in item.tools)
        assert unknown == {"eval_real": 6, "eval_simulated": 9}[name]


def test_toolrl_against_its_tags(shared_data):
    data = rows(shared_data / "toolrl/rlla_sft.json")
    for row, item in zip(data, load_trajectories(shared_data / "toolrl/rlla_sft.json"), strict=True):
        assert row["output"].startswith("<think>")
        thought, _, rest = row["output"].removeprefix("<think>").partition("</think>")
        last = item.messages[-1]
        assert last.content == thought.strip()
        if rest.strip().startswith("<tool_call>"):
            lines = rest.strip().removeprefix("<tool_call>").removesuffix("</tool_call>").strip().split("\n")
            expected = [json.loads(line) for line in lines if line.strip()]
            assert [(call.tool, call.arguments) for call in last.tool_calls] == [
                (call["name"], call["parameters"]) for call in expected
            ]
        else:
            assert item.answer in rest
            assert last.finishes
        assert sum(message.role == "user" for message in item.messages) == row["input"].count("<user>")


def test_toolbench_names_become_ids(shared_data):
    bundle = load_bundle("toolbench", shared_data / "toolbench")
    known = {document.id for document in bundle.documents}
    source = shared_data / "toolbench/data_example/answer/G1_answer"
    found = load_trajectories(source, catalogue=bundle.documents, on_unknown="raise")
    assert all(set(item.tools) <= known for item in found)
    assert sum(len(item.tools) for item in found) == 12
    # The failed paths hold the names that the model made up.
    failed = load_trajectories(source, catalogue=bundle.documents, branches="all")
    assert failed.report.unknown == {
        "authenticate_authentication_system": 10,
        "invalid_hallucination_function_name": 4,
        "login": 1,
        "check_authentication_token": 2,
        "authenticate_for_currents_news": 5,
        "authenticate_currents_news": 1,
    }


def test_what_is_no_dialogue_fits_no_format(shared_data):
    dialogues = re.compile(
        r"answer/|model_predictions|lv1-lv2|api-bank/t|ultratool/.*test|seal-tools/d.*dev|seal-tools/(dev|test)"
        r"|-data\.json|glaive|rlla|toolalpaca/eval"
    )
    tried = 0
    for path in sorted(shared_data.rglob("*")):
        name = str(path.relative_to(shared_data))
        if re.search(r"\.jsonl?(\.gz)?$", name) and not dialogues.search(name) and path.stat().st_size < 200_000:
            with pytest.raises(DataError):
                load_trajectories(path)
            tried += 1
    assert tried > 60
