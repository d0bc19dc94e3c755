"""Contract: with any weights, temperature, number of beams and budget, ``generate`` gives whole, valid arguments."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator

from toolscaler import ToolscalerTokenizer
from toolscaler.errors import ConfigError, DecodingError

pytest.importorskip("llguidance")

from toolscaler.agent.argument_processor import ArgumentLogitsProcessor
from toolscaler.agent.arguments import ArgumentGrammar

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "count": {"type": "integer", "minimum": 2, "maximum": 40},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
        "where": {
            "type": "object",
            "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
            "required": ["x", "y"],
        },
    },
    "required": ["name", "count"],
}
OTHER = {"type": "object", "properties": {"flag": {"type": "boolean"}}, "required": ["flag"]}


@pytest.fixture(scope="module")
def tokenizer(make_tiny_tokenizer):
    return ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(), codes=[[0, 1], [2, 3]], tool_ids=["x", "y"], code_sizes=(4, 4)
    )


@pytest.fixture(scope="module")
def model(tokenizer, make_tiny_model):
    """A head wider than the tokenizer, as after padding to a multiple."""
    made = make_tiny_model(tokenizer=tokenizer)
    made.resize_token_embeddings(len(tokenizer) + 24, mean_resizing=False)
    return made


def generated(model, tokenizer, grammars, *, rows=1, budget=120, guard=True, **options) -> list[str]:
    prompt = torch.tensor([tokenizer.encode("Call the tool with: ")] * rows)
    processor = ArgumentLogitsProcessor(grammars, prompt.shape[1], max_tokens=budget if guard else None)
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        logits_processor=[processor],
        max_new_tokens=budget,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    tails = [row[: row.index(tokenizer.eos_token_id)] for row in out[:, prompt.shape[1] :].tolist()]
    return [tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in tails]


MODES = {
    "greedy": {"do_sample": False},
    "cold": {"do_sample": True, "temperature": 0.3},
    "hot": {"do_sample": True, "temperature": 3.0, "top_k": 0},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 3},
    "beam sampling": {"do_sample": True, "num_beams": 2, "temperature": 2.0},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("budget", [120, 40])
def test_generation_is_valid(model, tokenizer, mode, budget) -> None:
    torch.manual_seed(budget)
    grammar = ArgumentGrammar(tokenizer, SCHEMA)
    for text in generated(model, tokenizer, grammar, rows=3, budget=budget, **MODES[mode]):
        Draft202012Validator(SCHEMA).validate(json.loads(text))
        assert grammar.parse(text) == json.loads(text)


def test_one_grammar_for_each_item(model, tokenizer) -> None:
    torch.manual_seed(0)
    grammars = [ArgumentGrammar(tokenizer, SCHEMA), ArgumentGrammar(tokenizer, OTHER)]
    texts = generated(model, tokenizer, grammars, rows=2, num_beams=2, num_return_sequences=2, do_sample=False)
    assert len(texts) == 4
    for text, schema in zip(texts, (SCHEMA, SCHEMA, OTHER, OTHER), strict=True):
        Draft202012Validator(schema).validate(json.loads(text))


def needed(tokenizer, schema) -> int:
    return len(ArgumentGrammar(tokenizer, schema).matcher().closing_tokens(500)) + 1


def test_no_budget_cuts_arguments_off(model, tokenizer) -> None:
    """From the least budget on; one token less is refused before anything is generated."""
    grammar, least = ArgumentGrammar(tokenizer, SCHEMA), needed(tokenizer, SCHEMA)
    for budget in range(least, least + 60, 4):
        torch.manual_seed(budget)
        (text,) = generated(model, tokenizer, grammar, budget=budget, do_sample=True, temperature=5.0, top_k=0)
        assert grammar.parse(text)
    with pytest.raises(DecodingError, match=f"more than {least - 1} tokens"):
        ArgumentLogitsProcessor(grammar, 0, max_tokens=least - 1)


def test_a_nested_choice_near_the_end_does_not_break_the_budget(model, tokenizer) -> None:
    leaf = {"type": "object", "properties": {f"k{n}": {"type": "number"} for n in range(4)}}
    leaf["required"] = list(leaf["properties"])
    items = {"type": "array", "items": leaf}
    schema = {"type": "object", "properties": {"a": items, "b": items, "c": leaf}}
    grammar = ArgumentGrammar(tokenizer, schema)
    for seed in range(12):
        torch.manual_seed(seed)
        budget = 30 + 23 * seed
        (text,) = generated(model, tokenizer, grammar, budget=budget, do_sample=True, temperature=4.0, top_k=0)
        Draft202012Validator(schema).validate(json.loads(text))


def test_the_mask_is_the_matchers(tokenizer) -> None:
    """Row by row, with rows reordered at random as beams are, and rows that left the grammar."""
    rng, end = np.random.default_rng(0), tokenizer.eos_token_id
    grammar = ArgumentGrammar(tokenizer, SCHEMA)
    processor = ArgumentLogitsProcessor(grammar, 2)
    width = len(tokenizer) + 5
    rows = [grammar.matcher() for _ in range(4)]
    for _ in range(30):
        rows = [rows[index].copy() for index in rng.integers(0, 4, 4)]
        lengths = {len(row.tokens) for row in rows}
        assert len(lengths) == 1
        ids = torch.tensor([[7, 8, *row.tokens] for row in rows])
        scores = torch.randn(4, width, generator=torch.Generator().manual_seed(len(ids[0])))
        masked = processor(ids, scores.clone())
        for row, line, before in zip(rows, masked, scores, strict=True):
            expected = np.zeros(width, dtype=bool)
            expected[: len(tokenizer)] = row.allowed()
            assert torch.equal(line != -torch.inf, torch.from_numpy(expected))
            assert torch.equal(line[expected], before[expected])
        for row in rows:
            row.accept(int(rng.choice(np.flatnonzero(row.allowed()))))
    off = processor(torch.tensor([[7, 8, 50, 51]] * 2), torch.zeros(2, width))
    assert torch.nonzero(off[0] != -torch.inf).flatten().tolist() == [end]


def test_settings_are_checked(tokenizer) -> None:
    grammar = ArgumentGrammar(tokenizer, OTHER)
    for wrong in ([], [grammar, "schema"], None):
        with pytest.raises((DecodingError, TypeError)):
            ArgumentLogitsProcessor(wrong, 0)
    with pytest.raises(ConfigError):
        ArgumentLogitsProcessor(grammar, -1)
    with pytest.raises(ConfigError):
        ArgumentLogitsProcessor(grammar, 0, max_tokens=0)
    with pytest.raises(DecodingError, match="end token"):
        ArgumentLogitsProcessor(ArgumentGrammar(tokenizer, OTHER, end_token_ids=()), 0)
    with pytest.raises(DecodingError, match="2 grammars"):
        ArgumentLogitsProcessor([grammar, grammar], 0)(torch.zeros(3, 1).long(), torch.zeros(3, 500))
    with pytest.raises(DecodingError, match="at least 4"):
        ArgumentLogitsProcessor(grammar, 4)(torch.zeros(1, 2).long(), torch.zeros(1, 500))
    with pytest.raises(DecodingError, match="columns"):
        ArgumentLogitsProcessor(grammar, 0)(torch.zeros(1, 0).long(), torch.zeros(1, 2))
