"""A miniature of ToolBench's release, written by us in its folder layout, and grids cut down to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.specs import BaseSpec, BudgetSpec

#: Category -> tool -> its APIs.
APIS = {
    "Kitchen": {"Kettle Master": ["boil", "cool"], "oven.io": ["heat", "clean"]},
    "Garden": {"hedge": ["cut", "water"], "Pond Care": ["fill", "drain"]},
    "Music": {"piano_api": ["tune", "play"], "Radio!": ["scan", "record"]},
}
#: Test file -> number of queries.
TESTS = {
    **{"G1_instruction": 2, "G1_tool": 1, "G1_category": 1},
    **{"G2_instruction": 2, "G2_category": 1, "G3_instruction": 1},
}
_TAILS = ("at once", "for my aunt", "when it rains", "by tomorrow", "on the hill")


def write_miniature(folder: Path) -> Path:
    """Write tools, queries and trajectories."""
    pairs = [(tool, api) for tools in APIS.values() for tool, apis in tools.items() for api in apis]
    for category, tools in APIS.items():
        place = folder / "toolenv" / "tools" / category
        place.mkdir(parents=True)
        for tool, apis in tools.items():
            listed = [_api(tool, api) for api in apis]
            text = {"tool_name": tool, "tool_description": f"All about {tool}.", "api_list": listed}
            (place / f"{tool.lower().replace(' ', '_').rstrip('!')}.json").write_text(json.dumps(text))
    (folder / "instruction").mkdir()
    (folder / "test_instruction").mkdir()
    for number, group in enumerate(("G1", "G2", "G3")):
        rows = []
        for place, (tool, api) in enumerate(pairs):
            labels = [(tool, api)] if group == "G1" else [(tool, api), pairs[(place + 3 + number) % len(pairs)]]
            for tail in _TAILS[:3]:
                rows.append(_query(labels, f"{tail} {group}"))
        (folder / "instruction" / f"{group}_query.json").write_text(json.dumps(rows))
    for place, (name, count) in enumerate(TESTS.items()):
        rows = []
        for row in range(count):
            labels = [pairs[(5 * place + 2 * row) % len(pairs)]]
            if not name.startswith("G1"):
                labels.append(pairs[(5 * place + 2 * row + 4) % len(pairs)])
            rows.append(_query(labels, f"{_TAILS[3]} {name}"))
        (folder / "test_instruction" / f"{name}.json").write_text(json.dumps(rows))
    (folder / "toolllama_G123_dfs_train.json").write_text(json.dumps([_dialogue(*pair) for pair in pairs]))
    return folder


def _api(tool: str, api: str) -> dict[str, Any]:
    parameter = {"name": "place", "type": "STRING", "description": "where", "default": "home"}
    return {
        "name": api,
        "description": f"Will {api} the {tool}.",
        "method": "GET",
        "required_parameters": [parameter],
        "optional_parameters": [],
        "tool_name": tool,
        "api_name": api,
    }


def _query(labels: list[tuple[str, str]], tail: str) -> dict[str, Any]:
    words = " and ".join(f"{api} with {tool}" for tool, api in labels)
    listed = [{"category_name": "x", "tool_name": tool, "api_name": api} for tool, api in labels]
    return {"api_list": listed, "query": f"please {words} {tail}", "relevant APIs": [list(pair) for pair in labels]}


def _dialogue(tool: str, api: str) -> dict[str, Any]:
    from toolscaler.data.sources.toolbench import function_name

    answer = json.dumps({"return_type": "give_answer", "final_answer": "It is done."})
    question = f"please {api} with {tool} {_TAILS[4]}"
    turns = [
        ("system", "You can use many tools."),
        ("user", f"\n{question}\nBegin!\n"),
        (
            "assistant",
            f'\nThought: First {api}.\nAction: {function_name(tool, api)}\nAction Input: {{"place": "home"}}',
        ),
        ("function", '{"error": "", "response": "fine"}'),
        ("assistant", f"\nThought: That is all.\nAction: Finish\nAction Input: {answer}"),
    ]
    return {"id": f"Step 2: {question}", "conversations": [{"from": who, "value": text} for who, text in turns]}


#: A base of some ten thousand parameters, and a few steps of everything.
TINY_RUN: dict[str, Any] = {
    "base": {
        "scratch": {
            **{"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
            **{"num_attention_heads": 2, "num_train_epochs": 0},
        }
    },
    "compression": {
        "trainer": {
            **{"train_base": True, "max_steps": 2, "save_strategy": "no", "eval_strategy": "no"},
            "load_best_model_at_end": False,
        }
    },
    "codebook": {"num_centroids": 4, "reduced_dim": 4},
    "retrieval": {"trainer": {"save_strategy": "no", "eval_strategy": "no"}},
    "rounds": {"trainer": {"max_steps": 2, "max_length": 1024}},
    "trajectory": {"trainer": {"save_strategy": "no", "per_device_train_batch_size": 2, "max_length": 1024}},
}


def cut_down(config: ExperimentConfig, output: Path) -> ExperimentConfig:
    """Make a grid small: the same systems, settings, data layout and tables; tiny bases, few steps, no downloads."""
    config.output_dir = str(output)
    config.run = TINY_RUN
    # One tiny base under every name, so that grids of several bases train it once.
    config.bases = {name: BaseSpec("scratch", label=spec.label) for name, spec in config.bases.items()}
    config.budget = BudgetSpec(steps=2, batch=4, trajectory_steps=1)
    config.evaluation.beams, config.evaluation.resamples = 5, 100
    config.calling.agent = {"max_steps": 2, "max_tokens": 24}
    for dataset in config.datasets.values():
        dataset.split.validation_size = 4
    if len(config.shares) > 1:
        config.shares = [0.5, 1.0]
    for system in config.systems.values():
        if "encoder" in system.options:
            if system.kind == "tool_retriever":
                del system.options["encoder"]  # then the base itself
            else:
                system.options["encoder"] = "lsa"
    return config


def chat_model(request: dict[str, Any]) -> dict[str, Any]:
    """Answer as a judge, as an agent with tools, or as one that writes its actions as text."""
    from agent.servers.chat_server import calls, text
    from toolscaler.evaluation.tool_calling.judge import PROMPTS

    first, last = request["messages"][0]["content"], request["messages"][-1]
    done = "It is done" in str(last["content"])
    if first == PROMPTS["solved"]:
        return text(json.dumps({"reason": "read", "verdict": "solved" if done else "unsolved"}))
    if first == PROMPTS["preferred"]:
        return text(json.dumps({"reason": "read", "verdict": "first"}))
    offered = [tool["function"]["name"] for tool in request.get("tools", []) if tool["function"]["name"] != "Finish"]
    if offered and last["role"] != "tool":
        return calls((offered[0], {"place": "home"}))
    if "Action Input" in first:
        answer = json.dumps({"return_type": "give_answer", "final_answer": "It is done."})
        return text(f"Thought: That is all.\nAction: Finish\nAction Input: {answer}")
    return text("It is done. boil the kettle")
