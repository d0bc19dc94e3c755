"""Contract: whatever a model's weights are, with grounding the values of its calls are the conversation's."""

from __future__ import annotations

import json
import re

import jsonschema
import numpy as np
import pytest
import torch

from toolscaler.agent.code_planner import CodePlanner
from toolscaler.agent.grounding import Grounding
from toolscaler.agent.planning import PlanRequest
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import FINISH_TOOL, ToolCall, TrajectoryMessage, finish_document
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.errors import ConfigError
from toolscaler.tokenization import ToolscalerTokenizer

pytest.importorskip("llguidance")

NUMBER, TEXT = {"type": "number"}, {"type": "string"}


def obj(**properties) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


DOCUMENTS = {
    "add": ToolDocument("add", "Add 55 to 66.", parameters=obj(a=NUMBER, b={"type": "integer"})),
    "name": ToolDocument("name", "Name a place.", parameters=obj(place=TEXT)),
    FINISH_TOOL: finish_document(),
}
ASKED = "What is 39.62 and 4,800 in New York?"
RESULT = '{"total": -7, "place": "Oslo"}'
NUMBERS = {39.62, 4800, -7}


@pytest.fixture(scope="module")
def make(make_tiny_tokenizer, make_tiny_model):
    """Give ``make(number=0, **options)`` -> planner with a random model."""

    def made(number: int = 0, **options) -> CodePlanner:
        tokenizer = ToolscalerTokenizer.from_tokenizer(
            make_tiny_tokenizer(), codes=[[0, 1], [2, 3], [3, 2]], tool_ids=list(DOCUMENTS), code_sizes=(4, 4)
        )
        model = make_tiny_model("llama", tokenizer, seed=number)
        model.config.max_position_embeddings = 4096
        initialize_code_embeddings(model, tokenizer, init="random")
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.mul_(6.0)
        return CodePlanner(
            model, tokenizer, **{"max_thought_tokens": 4, "max_argument_tokens": 40, "max_parallel_calls": 1, **options}
        )

    return made


def call_of(planner, tool):
    messages = (
        TrajectoryMessage("user", ASKED),
        TrajectoryMessage("assistant", "", (ToolCall("add", {"a": 1, "b": 2}),)),
        TrajectoryMessage("tool", RESULT),
    )
    plans = planner.plan(PlanRequest(messages, (tool, "name", "add"), DOCUMENTS, max_tokens=500,
                                     exclude=frozenset({"name", "add"} - {tool})))  # fmt: skip
    shown = ""
    while True:
        try:
            delta = next(plans)
            shown += delta.text if delta.part == "arguments" else ""
        except StopIteration as end:
            return end.value.calls[0], shown


@pytest.mark.parametrize("seed", range(3))
def test_every_value_is_the_conversations(make, seed) -> None:
    planner = make(seed, grounding=True)
    for tool, document in DOCUMENTS.items():
        made, shown = call_of(planner, tool)
        assert made.tool == tool
        assert not made.error
        assert json.dumps(made.arguments, ensure_ascii=False).startswith(shown)
        jsonschema.validate(made.arguments, document.to_dict()["parameters"])
    made, _ = call_of(planner, "add")
    assert set(made.arguments.values()) <= NUMBERS
    assert call_of(planner, "name")[0].arguments["place"] in ASKED + "\n" + RESULT
    answer = call_of(planner, FINISH_TOOL)[0].arguments["final_answer"]
    for number in re.findall(r"[\d.,]*\d", answer):
        assert float(number.replace(",", "")) in {39.62, 39.6, 40, 4800, 7}
    assert len(planner.grammars) == len(DOCUMENTS)


def test_without_it_values_are_made_up(make) -> None:
    """The negative: the same models write numbers and texts that stand nowhere."""
    found = [call_of(make(seed), tool)[0].arguments for seed in range(3) for tool in ("add", "name")]
    assert any(set(arguments.values()) - NUMBERS for arguments in found[::2])
    assert any(arguments["place"] not in ASKED + RESULT for arguments in found[1::2])


def test_off_is_as_ever(make) -> None:
    plain, off = make(1), make(1, grounding=False)
    for tool in DOCUMENTS:
        assert call_of(plain, tool) == call_of(off, tool)


def test_a_part_of_it(make) -> None:
    planner = make(0, grounding={"strings": False, "answer": False})
    assert planner.grounder.settings == Grounding(strings=False, answer=False)
    plain = make(0)
    for tool in ("name", FINISH_TOOL):
        assert call_of(planner, tool) == call_of(plain, tool)
    assert set(call_of(planner, "add")[0].arguments.values()) <= NUMBERS


def test_settings_are_checked_first() -> None:
    for wrong in ("true", {"words": True}, Grounding):
        with pytest.raises(ConfigError, match="grounding"):
            CodePlanner(None, None, grounding=wrong)


def test_the_setting_of_a_run_file_arrives(make, tmp_path) -> None:
    planner = make(2)
    planner.model.save_pretrained(tmp_path)
    planner.tokenizer.save_pretrained(tmp_path)
    settings = json.loads('{"grounding": true, "max_argument_tokens": 40, "max_thought_tokens": 4}')
    loaded = CodePlanner.from_pretrained(tmp_path, device="cpu", **settings)
    assert loaded.grounder.settings == Grounding()
    assert set(call_of(loaded, "add")[0].arguments.values()) <= NUMBERS
    with pytest.raises(ConfigError):
        CodePlanner.from_pretrained(tmp_path, device="cpu", grounding="yes")


def test_a_planner_goes_on_without_where_the_engine_refuses(make, monkeypatch, caplog) -> None:
    from toolscaler.agent.grounding import ConversationValues
    from toolscaler.errors import DecodingError

    def refused(self, grammar):
        raise DecodingError("too large")

    monkeypatch.setattr(ConversationValues, "narrowed", refused)
    planner = make(0, grounding=True)
    plain = make(0)
    assert [call_of(planner, tool) for tool in DOCUMENTS] == [call_of(plain, tool) for tool in DOCUMENTS]
    assert sum("not held" in record.message for record in caplog.records) == 1


def test_random_answers_of_a_temperature(make) -> None:
    planner = make(1, grounding=True, temperature=3.0, seed=4)
    drawn = [call_of(planner, "add")[0].arguments for _ in range(6)]
    assert {number for arguments in drawn for number in arguments.values()} <= NUMBERS
    assert np.unique([json.dumps(arguments) for arguments in drawn]).size > 1
