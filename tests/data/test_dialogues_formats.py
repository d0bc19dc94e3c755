"""Each format of dialogues, in small files written for the tests: every message, call and result as the format says."""

from __future__ import annotations

import contextlib
import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolscaler.data.dialogues import TRAJECTORY_FORMATS, load_trajectories
from toolscaler.errors import DataError, ToolscalerError


def node(kind, text, children=(), **more):
    return {"node_type": kind, "description": text, "children": list(children), **more}


def step(tool, arguments, observation, code, children=()):
    inner = node("Action Input", arguments, children, observation=observation, observation_code=code)
    return node("Action", tool, [inner])


ANSWER = '{"return_type": "give_answer", "final_answer": "It is 7."}'
FINISH = step("Finish", ANSWER, '{"response":"successfully giving the final answer."}', 3)
GIVE_UP = step("Finish", '{"return_type": "give_up_and_restart"}', '{"response":"chose to give up and restart"}', 4)
TREE = {
    "win": True,
    "tree": {
        "tree": node(
            "Action Input",
            "",
            [
                step(
                    "add_for_my_sums",
                    '{"a": 3, "b": 4}',
                    '{"error": "", "response": "7"}',
                    0,
                    [
                        node("Thought", "I am lost.", [GIVE_UP]),
                        step("add_for_my_sums", "", '{"error": "No input", "response": ""}', 11),
                        node("Thought", "First this.", [node("Thought", "It is seven.", [FINISH])]),
                    ],
                ),
                node("Thought", "No idea at all."),
            ],
        )
    },
    "answer_generation": {
        "query": "What is 3 plus 4?",
        "function": [{"name": "add_for_my_sums"}, {"name": "Finish"}],
    },
}
CHAIN = {
    "win": True,
    "trys": [
        {
            "chain": [
                {"node_type": "Thought", "description": "Add."},
                {"node_type": "Action", "description": "add_for_my_sums"},
                {
                    "node_type": "Action Input",
                    "description": '{"a": 3, "b": 4}',
                    "observation": "7",
                    "observation_code": 0,
                },
                {"node_type": "Action", "description": "Finish"},
                {"node_type": "Action Input", "description": ANSWER, "observation": "", "observation_code": 3},
            ]
        }
    ],
    "answer_generation": {"query": "What is 3 plus 4?", "function": []},
}


def converted_tool(name, arguments, response, following=()):
    message = {"name": name, "arguments": arguments, "response": response}
    return {"role": "tool", "message": message, "next": list(following)}


CONVERTED = {
    "12": {
        "query": "What is 3 plus 4?",
        "available_tools": [{"name": "add_for_my_sums"}],
        "answer": {
            "method": "CoT@1",
            "answer_details": [
                {
                    "role": "system",
                    "message": "",
                    "next": [
                        {
                            "role": "user",
                            "message": "",
                            "next": [
                                converted_tool(
                                    "add_for_my_sums",
                                    '{"a": 3, "b": 4}',
                                    '{"error": "busy", "response": ""}',
                                    [
                                        {
                                            "role": "assistant",
                                            "message": "I know it.",
                                            "next": [converted_tool("Finish", ANSWER, "")],
                                        }
                                    ],
                                )
                            ],
                        }
                    ],
                }
            ],
        },
    }
}
TOOLLLAMA = {
    "id": "Step 3: What is 3 plus 4?",
    "conversations": [
        {"from": "system", "value": "You have tools."},
        {
            "from": "user",
            "value": "\nWhat is 3 plus 4?\nTool_Tag: my_sums.\nTag_Trace: add_for_my_sums, Finish.\nBegin!\n",
        },
        {"from": "assistant", "value": '\nThought: Let us add.\nAction: add_for_my_sums\nAction Input: {\n "a": 3\n}'},
        {"from": "function", "value": '{"error": "b is missing", "response": "'},
        {"from": "user", "value": "This is not the first time you try this task, all previous trails failed. ..."},
        {"from": "assistant", "value": '\nThought: \nAction: add_for_my_sums\nAction Input: {"a": 3, "b": 4}'},
        {"from": "function", "value": '{"error": "", "response": "7"}'},
        {"from": "assistant", "value": f"\nThought: Done.\nAction: Finish\nAction Input: {ANSWER}"},
        {"from": "function", "value": '{"response":"successfully giving the final answer."}'},
    ],
}
TOOLGEN = {
    "id": 5,
    "conversations": [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "What is 3 plus 4?"},
        {"role": "assistant", "content": "I shall add."},
        {"role": "user", "content": "Generate the action."},
        {"role": "assistant", "content": "<<My Sums&&Add / plus>>"},
        {"role": "user", "content": "Please give the input. Here is the documentation: {'name': 'Add'}"},
        {"role": "assistant", "content": '{"a": 3, "b": 4}'},
        {"role": "function", "content": '{"error": "", "response": "7"}'},
        {"role": "assistant", "content": "<<Finish>>"},
        {"role": "user", "content": "Please give the input. Here is the documentation: Finish"},
        {"role": "assistant", "content": ANSWER},
    ],
}
TOOLALPACA_GOLDEN = {
    "Name": "Zoo",
    "Function_Description": {"find": "Find an animal", "feed": "Feed it", "components": "..."},
    "Instructions": ["Feed the lion.", "Do something odd."],
    "Golden_Answers": [
        [
            {"Action": "find", "Action_Input": '{"name": "lion"}'},
            {"Action": "feed", "Action_Input": '{"id": ${id from find}, "amount": 2}'},
        ],
        [],
    ],
}
LOG = "I look.\nASSISTANT Action: find\nASSISTANT Action Input: {}"
TOOLALPACA_TRAINING = {
    "Name": "Zoo",
    "Function_Description": {"find": "Find an animal", "components": ""},
    "Instances": [
        {
            "input": "Where is the lion?",
            "output": "In cage 3.",
            "Final Thought": "I have it.",
            "intermediate_steps": [
                [["find", '{"name": "lio"}', LOG], "Status Code: 404. Response: no"],
                [["find", '{"name": "lion"}', ""], 'Status Code: 200. Response: {"cage": 3}'],
            ],
        }
    ],
}
ENVELOPE = {"api_name": "Clock", "input": {}, "output": {"time": "10:00"}, "exception": None}
API_BANK_TURNS = [
    {"role": "User", "text": "What time is it?"},
    {"role": "AI", "text": "One moment."},
    {"role": "API", "api_name": "Clock", "param_dict": {"zone": "UTC"}, "result": ENVELOPE},
    {"role": "API", "api_name": "Alarm", "param_dict": {}, "result": {**ENVELOPE, "exception": "no such alarm"}},
    {"role": "AI", "text": "It is ten."},
]
API_BANK_STEPS = [
    {
        "instruction": "Call an API.",
        "input": '{"apiCode": "Clock"}\nUser: What time is it\nin Rome?\nGenerate API Request: ',
        "output": "API-Request: [Clock(zone='Rome')]",
    },
    {
        "instruction": "Call an API.",
        "input": '{"apiCode": "Clock"}\nUser: What time is it\nin Rome?\nAPI-Request: [Clock(zone=\'Rome\')]->'
        "{'api_name': 'Clock', 'input': {}, 'output': {'time': '11:00'}, 'exception': None}\n"
        "API-Request: [Clock(zone=Rome), Clock(zone='it's')]->{'time': 1}, {'time': 2}\nGenerate AI Response: ",
        "output": "AI: Eleven.",
    },
]
API_BANK_TASK = {
    "requirement": "What time is it?",
    "response": "Ten.",
    "apis": [{"api_name": "Clock", "input": {"zone": "UTC"}, "output": ENVELOPE}],
}
ULTRATOOL = {
    "question": "Write the date into a file.\n",
    "domain": "Document",
    "tools": [{"name": "today"}, {"name": "file_write"}],
    "plan": [
        {"step": "1. Write", "tool": "null"},
        {"step": "1.1 Ask for the date", "tool": "today()"},
        {"step": "1.2 Think", "tool": "No tool required"},
        {"step": "1.3 Write", "tool": "file_write(path='today's.txt', text=<the date>, options={'new': true}, n=-2)"},
        {"step": "1.4 Check", "tool": "不需要工具"},
    ],
}
SEAL_CALLS = [
    {"api": "getZoo", "parameters": {"city": "Rome"}, "responses": ["API_call_0", "API_call_1"]},
    {"api": "getLion", "parameters": {"zoo": "API_call_1 response"}, "responses": ["API_call_2"]},
]
SEAL_ROW = {"id": "dev-0", "query": "Find the lion.", "calling": SEAL_CALLS}
SEAL_OLD = [SEAL_CALLS, "Find the lion."]
SEAL_CONVERSATION = {
    "id": "dev-0",
    "conversations": [
        {"from": "human", "value": 'Choose.\napi_list = []\ntask_instruction = "Find the lion."\nOutput:\n'},
        {"from": "gpt", "value": str(SEAL_CALLS)},
    ],
}
NESTFUL = {
    "input": "Book the first flight.",
    "output": [
        {"name": "search", "arguments": {"to": "Rome"}, "label": "var1"},
        {"name": "book", "arguments": {"flight": "$var1.id$", "seats": [1, "$var1.seat$"]}, "label": "$var2"},
        {"name": "var_result", "arguments": {"ticket": "$var2$"}},
    ],
}
TWO_CALLS = [{"name": "clock", "arguments": {}}, {"name": "joke", "arguments": '{"n": 1}'}]
TWO_RESULTS = [{"name": "clock", "content": {"h": 10}}, {"name": "joke", "content": "ha"}]
GLAIVE = {
    "conversations": [
        {"from": "human", "value": "Tell me the time and a joke."},
        {"from": "function_call", "value": json.dumps(TWO_CALLS)},
        {"from": "observation", "value": json.dumps(TWO_RESULTS)},
        {"from": "gpt", "value": "It is ten. Ha."},
        {"from": "human", "value": "Thanks!"},
        {"from": "gpt", "value": "You are welcome."},
    ],
    "tools": '[{"name": "clock"}, {"type": "function", "function": {"name": "joke"}}]',
}


def part(kind, value):
    return {"type": kind, "value": value}


GLAIVE_PARTS = {
    "messages": [
        {"role": "system", "content": [part("text", "Reason.")]},
        {"role": "user", "content": [part("text", "The time?")]},
        {
            "role": "assistant",
            "content": [part("reasoning", "I ask."), part("tool_call", '{"name": "clock", "arguments": {}}')],
        },
        {"role": "tool", "content": [part("text", "10:00")]},
        {"role": "assistant", "content": [part("reasoning", "I know."), part("text", "Ten.")]},
    ],
    "tools": '[{"name": "clock"}]',
}
GLAIVE_TEXT = {
    "system": 'SYSTEM: You have these functions - {\n "name": "clock", "parameters": {}}\n{"name": "joke"}',
    "chat": 'USER: The time?\n\n\nASSISTANT: I look. <functioncall> {"name": "clock", "arguments": \'{"zone": '
    '"it\\\'s"}\'} <|endoftext|>\n\n\nFUNCTION RESPONSE: {"h": 10}\n\n\nASSISTANT: Ten. <|endoftext|>',
}
TOOLRL = {
    "instruction": "**Available Tools**\n1. Name: Get Time\nDescription: x\nParameters: {}\n2. Name: Joke \n",
    "input": "**Dialogue Records History**\n<user> The time? </user>\n\n"
    "<think> I use <tool_call>. </think>\n<tool_call>\n"
    '{"name": "Get Time", "parameters": {"zone": "<user>"}}\n{"name": "Joke", "parameters": {}}\n</tool_call>\n'
    '<obs> [{"name": "Get Time", "results": {"h": 10}}, {"name": "Joke", "results": "ha"}] </obs>\n\n'
    "<think> Clear. </think>\n<response> Ten. </response>\n\n<user> And now? </user>",
    "output": '<think> Again. </think>\n<tool_call>\n{"name": "Get Time", "parameters": {}}\n</tool_call>',
}
OPENAI = {
    "id": "a",
    "messages": [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "The time"}, {"type": "text", "text": "in Rome?"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "I ask twice.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "Rome"}'}},
                {"id": "c2", "type": "function", "function": {"name": "joke", "arguments": {}}},
            ],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "ha"},
        {"role": "tool", "tool_call_id": "c1", "content": "11:00"},
        {"role": "assistant", "content": "", "function_call": {"name": "clock", "arguments": ""}},
        {"role": "function", "name": "clock", "content": "10:00"},
        {"role": "assistant", "content": "Eleven."},
    ],
    "tools": [{"type": "function", "function": {"name": "clock"}}],
}
OWN = {
    "messages": [
        {"role": "user", "content": "The time?"},
        {"role": "assistant", "content": "", "tool_calls": [{"tool": "clock", "arguments": {}}]},
        {"role": "tool", "content": "broken", "is_error": True},
    ],
    "split": "train",
}

EXAMPLES = {
    "tree": ("toolbench", [TREE]),
    "chain": ("toolbench", [CHAIN]),
    "converted": ("toolbench", [CONVERTED]),
    "toolllama": ("toolllama", [TOOLLLAMA]),
    "toolgen": ("toolgen", [TOOLGEN]),
    "toolalpaca-golden": ("toolalpaca", [TOOLALPACA_GOLDEN]),
    "toolalpaca-training": ("toolalpaca", [TOOLALPACA_TRAINING]),
    "api-bank-turns": ("api-bank", API_BANK_TURNS),
    "api-bank-steps": ("api-bank", API_BANK_STEPS),
    "api-bank-task": ("api-bank", [API_BANK_TASK]),
    "ultratool": ("ultratool", [ULTRATOOL]),
    "seal-row": ("seal-tools", [SEAL_ROW]),
    "seal-old": ("seal-tools", [SEAL_OLD]),
    "seal-conversation": ("seal-tools", [SEAL_CONVERSATION]),
    "nestful": ("nestful", [NESTFUL]),
    "glaive": ("glaive", [GLAIVE]),
    "glaive-parts": ("glaive", [GLAIVE_PARTS]),
    "glaive-text": ("glaive", [GLAIVE_TEXT]),
    "toolrl": ("toolrl", [TOOLRL]),
    "openai": ("openai", [OPENAI]),
    "own": ("trajectories", [OWN]),
}


def brief(trajectory):
    """Give each message in a form that is easy to compare: role, content, calls or error."""
    rows = []
    for message in trajectory.messages:
        row = [message.role, message.content]
        if message.tool_calls:
            row.append([(call.tool, dict(call.arguments)) for call in message.tool_calls])
        if message.is_error:
            row.append("error")
        rows.append(tuple(row))
    return rows


FINISHED = ("Finish", {"return_type": "give_answer", "final_answer": "It is 7."})
ADD = ("add_for_my_sums", {"a": 3, "b": 4})


def test_every_format_has_an_example():
    assert {format for format, _ in EXAMPLES.values()} == set(TRAJECTORY_FORMATS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_format_is_found_in_memory_in_json_and_in_lines(name, tmp_path):
    format, rows = EXAMPLES[name]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = load_trajectories(rows)
    assert found.report.formats == {format: len(found)}
    assert len(found) > 0
    for path in ("a.json", "b.jsonl"):
        again = load_trajectories(tmp_path / path)
        assert again.report.formats == found.report.formats
        assert [brief(item) for item in again] == [brief(item) for item in found]


def test_tree_keeps_the_successful_path():
    (found,) = load_trajectories([TREE])
    assert brief(found) == [
        ("user", "What is 3 plus 4?"),
        ("assistant", "", [ADD]),
        ("tool", '{"error": "", "response": "7"}'),
        ("assistant", "First this.\nIt is seven.", [FINISHED]),
    ]
    assert found.metadata == {"win": True, "branch": 2, "candidate_tools": ["add_for_my_sums"]}


def test_tree_gives_failed_branches_too():
    found = load_trajectories([TREE], branches="all")
    assert [item.outcome for item in found] == ["give_up", "open", "answer", "open"]
    assert [item.metadata["win"] for item in found] == [False, False, True, False]
    assert [item.metadata.get("shared_calls") for item in found] == [1, 1, None, 0]
    assert brief(found[1])[3:] == [
        ("assistant", "", [("add_for_my_sums", {})]),
        ("tool", '{"error": "No input", "response": ""}', "error"),
    ]
    assert found[3].metadata["unfinished"] == "No idea at all."
    assert brief(found[3]) == [("user", "What is 3 plus 4?")]
    assert found.report.left_out == {}


def test_tree_without_success_is_counted():
    tree = copy.deepcopy(TREE)
    tree["tree"]["tree"]["children"][0]["children"][0]["children"].pop()
    found = load_trajectories([tree])
    assert list(found) == []
    assert found.report.left_out == {"answers without a successful path": 1, "failed paths": 3}
    assert "1 answers without a successful path left out" in str(found.report)


def test_finish_that_the_search_refused_is_no_success():
    tree = copy.deepcopy(TREE)
    text = json.dumps(tree).replace('"observation_code": 3', '"observation_code": 1')
    assert load_trajectories([json.loads(text)]).report.left_out["answers without a successful path"] == 1


def test_chain_and_converted_form():
    (chain,) = load_trajectories([CHAIN])
    assert brief(chain)[1:] == [("assistant", "Add.", [ADD]), ("tool", "7"), ("assistant", "", [FINISHED])]
    (converted,) = load_trajectories(CONVERTED)
    assert converted.id == "12"
    assert brief(converted)[1:] == [
        ("assistant", "", [ADD]),
        ("tool", '{"error": "busy", "response": ""}', "error"),
        ("assistant", "I know it.", [FINISHED]),
    ]


def test_answer_file_is_named_by_its_file(tmp_path):
    (tmp_path / "12_DFS.json").write_text(json.dumps(TREE), encoding="utf-8")
    assert load_trajectories(tmp_path)[0].id == "12_DFS"
    assert [item.id for item in load_trajectories(tmp_path, branches="all")] == [f"12_DFS#{n}" for n in range(4)]


def test_toolllama():
    (found,) = load_trajectories([TOOLLLAMA])
    assert brief(found) == [
        ("user", "What is 3 plus 4?"),
        ("assistant", "Let us add.", [("add_for_my_sums", {"a": 3})]),
        ("tool", '{"error": "b is missing", "response": "', "error"),
        ("assistant", "", [ADD]),
        ("tool", '{"error": "", "response": "7"}'),
        ("assistant", "Done.", [FINISHED]),
    ]
    assert found.metadata["retries"] == 1
    assert found.metadata["tags"].splitlines()[0] == "Tool_Tag: my_sums."


def test_toolgen():
    (found,) = load_trajectories([TOOLGEN])
    assert brief(found) == [
        ("user", "What is 3 plus 4?"),
        ("assistant", "I shall add.", [("My Sums/Add / plus", {"a": 3, "b": 4})]),
        ("tool", '{"error": "", "response": "7"}'),
        ("assistant", "", [FINISHED]),
    ]
    assert found.id == "5"


def test_toolgen_rows_of_queries_are_refused():
    row = {"conversations": [*TOOLGEN["conversations"][:2], {"role": "assistant", "content": "<<My Sums&&Add>>"}]}
    with pytest.raises(ToolscalerError, match="no format of dialogues fits"):
        load_trajectories([row])
    with pytest.raises(ToolscalerError, match="rows of queries"):
        load_trajectories([row], "toolgen")


def test_toolalpaca_golden_calls():
    found = load_trajectories([TOOLALPACA_GOLDEN])
    assert [item.id for item in found] == ["Zoo/0", "Zoo/1"]
    assert brief(found[0]) == [
        ("user", "Feed the lion."),
        ("assistant", "", [("Zoo/find", {"name": "lion"})]),
        ("assistant", "", [("Zoo/feed", {"id": "${id from find}", "amount": 2})]),
    ]
    assert found[0].metadata == {"candidate_tools": ["Zoo/find", "Zoo/feed"], "references": ["${id from find}"]}
    assert brief(found[1]) == [("user", "Do something odd.")]


def test_toolalpaca_dialogues():
    (found,) = load_trajectories([TOOLALPACA_TRAINING])
    assert brief(found) == [
        ("user", "Where is the lion?"),
        ("assistant", "I look.", [("Zoo/find", {"name": "lio"})]),
        ("tool", "Status Code: 404. Response: no", "error"),
        ("assistant", "", [("Zoo/find", {"name": "lion"})]),
        ("tool", 'Status Code: 200. Response: {"cage": 3}'),
        ("assistant", "I have it.", [("Finish", {"return_type": "give_answer", "final_answer": "In cage 3."})]),
    ]


def test_api_bank_turns_are_one_dialogue(tmp_path):
    path = tmp_path / "Clock-1.jsonl"
    path.write_text("\n".join(map(json.dumps, API_BANK_TURNS)), encoding="utf-8")
    (found,) = load_trajectories(path)
    assert found.id == "Clock-1"
    assert brief(found) == [
        ("user", "What time is it?"),
        ("assistant", "One moment.", [("Clock", {"zone": "UTC"})]),
        ("tool", '{"time": "10:00"}'),
        ("assistant", "", [("Alarm", {})]),
        ("tool", "no such alarm", "error"),
        ("assistant", "It is ten."),
    ]


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "reversed"])
def test_api_bank_steps_join_to_the_longest(order):
    found = load_trajectories(API_BANK_STEPS[::order])
    assert found.report.left_out == {"steps that a longer row repeats": 1}
    assert brief(found[0]) == [
        ("user", "What time is it\nin Rome?"),
        ("assistant", "", [("Clock", {"zone": "Rome"})]),
        ("tool", '{"time": "11:00"}'),
        ("assistant", "", [("Clock", {"zone": "Rome"}), ("Clock", {"zone": "it's"})]),
        ("tool", '{"time": 1}'),
        ("tool", '{"time": 2}'),
        ("assistant", "Eleven."),
    ]
    assert found[0].metadata == {"repaired": 1, "unquoted": ["Rome"]}


def test_api_bank_task():
    (found,) = load_trajectories(API_BANK_TASK)
    assert brief(found)[1:] == [
        ("assistant", "", [("Clock", {"zone": "UTC"})]),
        ("tool", '{"time": "10:00"}'),
        ("assistant", "Ten."),
    ]


def test_ultratool():
    (found,) = load_trajectories([ULTRATOOL])
    assert brief(found) == [
        ("user", "Write the date into a file."),
        ("assistant", "1. Write\n1.1 Ask for the date", [("today", {})]),
        (
            "assistant",
            "1.2 Think\n1.3 Write",
            [("file_write", {"path": "today's.txt", "text": "<the date>", "options": {"new": True}, "n": -2})],
        ),
    ]
    assert found.metadata == {
        "domain": "Document",
        "candidate_tools": ["today", "file_write"],
        "references": ["<the date>"],
        "repaired": 1,
        "closing_steps": "1.4 Check",
    }


@pytest.mark.parametrize("row", [SEAL_ROW, SEAL_OLD, SEAL_CONVERSATION], ids=["row", "old", "conversation"])
def test_seal_tools(row):
    (found,) = load_trajectories([row])
    assert brief(found) == [
        ("user", "Find the lion."),
        ("assistant", "", [("getZoo", {"city": "Rome"})]),
        ("assistant", "", [("getLion", {"zoo": "API_call_1 response"})]),
    ]
    assert found.metadata == {
        "references": ["API_call_1"],
        "responses": [["API_call_0", "API_call_1"], ["API_call_2"]],
    }


def test_nestful():
    (found,) = load_trajectories([NESTFUL])
    assert brief(found)[2] == ("assistant", "", [("book", {"flight": "$var1.id$", "seats": [1, "$var1.seat$"]})])
    assert [call.id for call in found.calls] == ["var1", "var2"]
    assert found.metadata == {"references": ["$var1.id$", "$var1.seat$"], "result": {"ticket": "$var2$"}}


def test_nestful_with_calls_as_text_and_underscored_labels():
    text = json.dumps(NESTFUL["output"]).replace("var1", "var_1")
    (found,) = load_trajectories([{"input": "Book.", "output": text, "sample_id": "s1", "gold_answer": 3}])
    assert (found.id, found.metadata["gold_answer"]) == ("s1", 3)
    assert found.metadata["references"] == ["$var_1.id$", "$var_1.seat$"]


def test_glaive():
    (found,) = load_trajectories([GLAIVE])
    assert brief(found) == [
        ("user", "Tell me the time and a joke."),
        ("assistant", "", [("clock", {}), ("joke", {"n": 1})]),
        ("tool", '{"h": 10}'),
        ("tool", "ha"),
        ("assistant", "It is ten. Ha."),
        ("user", "Thanks!"),
        ("assistant", "You are welcome."),
    ]
    assert found.metadata == {"candidate_tools": ["clock", "joke"]}


def test_glaive_with_reasoning():
    (found,) = load_trajectories([GLAIVE_PARTS])
    assert brief(found) == [
        ("system", "Reason."),
        ("user", "The time?"),
        ("assistant", "I ask.", [("clock", {})]),
        ("tool", "10:00"),
        ("assistant", "I know.", [("Finish", {"return_type": "give_answer", "final_answer": "Ten."})]),
    ]


def test_glaive_as_text():
    (found,) = load_trajectories([GLAIVE_TEXT])
    assert brief(found) == [
        ("user", "The time?"),
        ("assistant", "I look.", [("clock", {"zone": "it's"})]),
        ("tool", '{"h": 10}'),
        ("assistant", "Ten."),
    ]
    assert found.metadata == {"candidate_tools": ["clock", "joke"]}


def test_toolrl():
    (found,) = load_trajectories([TOOLRL])
    assert brief(found) == [
        ("user", "The time?"),
        ("assistant", "I use <tool_call>.", [("Get Time", {"zone": "<user>"}), ("Joke", {})]),
        ("tool", '{"h": 10}'),
        ("tool", "ha"),
        ("assistant", "Clear.", [("Finish", {"return_type": "give_answer", "final_answer": "Ten."})]),
        ("user", "And now?"),
        ("assistant", "Again.", [("Get Time", {})]),
    ]
    assert found.metadata == {"candidate_tools": ["Get Time", "Joke"]}


def test_openai_messages():
    (found,) = load_trajectories([OPENAI])
    assert brief(found) == [
        ("system", "Be short."),
        ("user", "The time\nin Rome?"),
        ("assistant", "I ask twice.", [("clock", {"zone": "Rome"}), ("joke", {})]),
        ("tool", "ha"),
        ("tool", "11:00"),
        ("assistant", "", [("clock", {})]),
        ("tool", "10:00"),
        ("assistant", "Eleven."),
    ]
    pairs = [(call.id, result.content) for call, result in found.results()[2]]
    assert pairs == [("c1", "11:00"), ("c2", "ha")]
    assert (found.id, found.metadata) == ("a", {"candidate_tools": ["clock"]})


def test_openai_conversation_without_a_row_around_it():
    bare = load_trajectories(OPENAI["messages"])
    listed = load_trajectories([OPENAI["messages"], OPENAI["messages"]])
    assert [len(bare), len(listed)] == [1, 2]
    assert brief(bare[0]) == brief(listed[1]) == brief(load_trajectories([OPENAI])[0])


def test_own_rows_are_read_back_and_rows_without_calls_do_not_hide_them():
    plain = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    found = load_trajectories([plain, plain, OWN], split="dev")
    assert found.report.formats == {"trajectories": 3}
    assert [item.split for item in found] == ["dev", "dev", "train"]
    assert brief(found[2])[2] == ("tool", "broken", "error")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=True) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def places(value, at=()):
    """Give the path to every value inside a JSON value."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


@given(st.data())
def test_a_damaged_row_is_a_problem_and_nothing_worse(data):
    name = data.draw(st.sampled_from(sorted(EXAMPLES)))
    format, rows = EXAMPLES[name]
    rows = copy.deepcopy(rows)
    at = data.draw(st.sampled_from([place for place in places(rows) if place]))
    target = rows
    for key in at[:-1]:
        target = target[key]
    if data.draw(st.booleans()) and isinstance(target, dict):
        del target[at[-1]]
    else:
        target[at[-1]] = data.draw(JSON)
    try:
        found = load_trajectories(rows, format, on_error="skip", branches="all")
    except DataError as error:  # a list of instructions may have become empty
        if "at least one dialogue" not in error.message:
            raise
        return
    assert found.report.read == len(found)
    assert found.report.skipped == len(found.report.problems)
    with contextlib.suppress(ToolscalerError):  # the damage may hide the format
        load_trajectories(rows)
