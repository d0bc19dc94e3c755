"""Contract: a retriever takes what its docstring says, refuses the rest before the model runs, and survives saving."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from toolscaler import GenerativeRetriever, RetrievedTool, ToolscalerTokenizer
from toolscaler.errors import (
    ArtifactError,
    ConfigError,
    DecodingError,
    EmptyCatalogueError,
    TokenizationError,
    UnknownToolError,
)

QUERIES = ["How many feet are twelve metres?", "Count", "Fetch the last mined block number.", ""]


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer(12)


@pytest.fixture(scope="module")
def model(make_model, tokenizer):
    return make_model(tokenizer)


@pytest.fixture(scope="module")
def retriever(model, tokenizer):
    return GenerativeRetriever(model, tokenizer)


def test_forms_of_queries(retriever):
    one = retriever.retrieve(QUERIES[0])
    assert len(one) == 1
    assert len(one[0]) == 5
    assert retriever.retrieve(QUERIES[:1]) == one
    assert retriever.retrieve((QUERIES[0],)) == one
    assert retriever.retrieve(iter(QUERIES[:1])) == one
    assert retriever.retrieve([]) == []
    first, second = retriever.retrieve([QUERIES[0], QUERIES[0]], batch_size=1)
    assert first == second == one[0]
    assert [len(row) for row in retriever.retrieve(QUERIES, top_k=1000)] == [12] * len(QUERIES)
    (three,) = retriever.retrieve(QUERIES[0], np.int64(3), num_beams=np.int64(12))
    assert [tool.name for tool in three] == [tool.name for tool in one[0][:3]]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"top_k": 0}, ConfigError, "top_k: got 0"),
        ({"top_k": 2.5}, ConfigError, "top_k"),
        ({"top_k": True}, ConfigError, "top_k"),
        ({"num_beams": 0}, ConfigError, "num_beams"),
        ({"batch_size": -1}, ConfigError, "batch_size"),
        ({"max_batch_tokens": 0}, ConfigError, "max_batch_tokens"),
        ({"scores": "children"}, ConfigError, "scores: got 'children'.*full.*group"),
        ({"tools": "tool_1"}, DecodingError, "tools: expected a collection"),
        ({"tools": [1]}, DecodingError, "tools: expected tool ids as text"),
        ({"tools": []}, EmptyCatalogueError, "at least one"),
        ({"tools": iter(())}, EmptyCatalogueError, "at least one"),
        ({"tools": ["tool_1", "tol_2"]}, UnknownToolError, "nearest: 'tool_2'"),
        ({"queries": ["a", None]}, TokenizationError, "query"),
        ({"queries": 3}, DecodingError, "queries: expected text"),
        ({"queries": {"a": 1}}, DecodingError, "queries: expected text"),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),  # the same in every process
)
def test_bad_requests(retriever, monkeypatch, options, error, match):
    monkeypatch.setattr(retriever, "_engine", None)  # each is refused before the model runs
    with pytest.raises(error, match=match):
        retriever.retrieve(**{"queries": QUERIES, **options})


def test_without_an_end_token_only_group_scores(make_model, make_tokenizer, monkeypatch):
    tokenizer = make_tokenizer(12)
    retriever = GenerativeRetriever(make_model(tokenizer), tokenizer)
    expected = retriever.retrieve("Count", 12, scores="group")
    retriever.retrieve("Count")  # fills the cache of tries
    tokenizer.eos_token = None
    assert tokenizer.eos_token_id is None  # premise
    assert retriever.retrieve("Count", 12, scores="group") == expected
    monkeypatch.setattr(retriever, "_engine", None)
    with pytest.raises(DecodingError, match=r"set tokenizer\.eos_token"):
        retriever.retrieve("Count")


def test_without_a_padding_token(make_model, make_tokenizer):
    tokenizer = make_tokenizer(12)
    retriever = GenerativeRetriever(make_model(tokenizer), tokenizer)
    expected = retriever.retrieve(QUERIES)
    tokenizer.pad_token = None
    assert retriever.retrieve(QUERIES) == expected


def test_a_prompt_of_no_token_is_refused(make_model, make_tiny_tokenizer):
    tokenizer = ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(), codes=[[0]], tool_ids=["t"], code_sizes=(2,), retrieval_template="{query}"
    )
    with pytest.raises(DecodingError, match="query 1: expected a prompt of at least one token"):
        GenerativeRetriever(make_model(tokenizer), tokenizer).retrieve(["fine", ""])


def test_numbers_that_are_none_are_an_error(make_model, make_tokenizer):
    tokenizer = make_tokenizer(4)
    model = make_model(tokenizer)
    with torch.no_grad():
        model.lm_head.weight[5] = torch.nan
    with pytest.raises(DecodingError, match="NaN"):
        GenerativeRetriever(model, tokenizer).retrieve("Count")


def test_models_that_do_not_fit(make_tiny_model, make_tiny_tokenizer, make_model, tokenizer):
    with pytest.raises(DecodingError, match=r"embedding rows, got \d+; call toolscaler.initialize_code_embeddings"):
        GenerativeRetriever(make_tiny_model("llama", make_tiny_tokenizer()), tokenizer)
    model = make_model(tokenizer)
    model.lm_head = torch.nn.Linear(32, 400, bias=False)
    with pytest.raises(DecodingError, match="output rows, got 400"):
        GenerativeRetriever(model, tokenizer)
    model = make_model(tokenizer)
    model.config.is_encoder_decoder = True
    with pytest.raises(DecodingError, match="decoder-only"):
        GenerativeRetriever(model, tokenizer)


# Saved and loaded


def test_round_trip_in_a_fresh_interpreter(make_model, tokenizer, tmp_path):
    model = make_model(tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    script = (
        "import json, sys; from toolscaler import GenerativeRetriever; "
        "retriever = GenerativeRetriever.from_pretrained(sys.argv[1], device='cpu'); "
        "assert not retriever.model.training; "
        "rows = retriever.retrieve(json.loads(sys.argv[2]), 12); "
        "print(json.dumps([[(t.name, t.score, t.codes) for t in row] for row in rows]))"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path), json.dumps(QUERIES)]
    printed = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    expected = GenerativeRetriever(model, tokenizer).retrieve(QUERIES, 12)
    for got, ranking in zip(json.loads(printed), expected, strict=True):
        loaded = [RetrievedTool(name, score, tuple(codes)) for name, score, codes in got]
        assert [(tool.name, tool.codes) for tool in loaded] == [(tool.name, tool.codes) for tool in ranking]
        assert [tool.score for tool in loaded] == pytest.approx([tool.score for tool in ranking], abs=1e-4)


def test_from_pretrained_passes_arguments_on(make_model, tokenizer, tmp_path):
    inner = tmp_path / "inner"
    make_model(tokenizer).save_pretrained(inner)
    tokenizer.save_pretrained(inner)
    retriever = GenerativeRetriever.from_pretrained(tmp_path, device="cpu", subfolder="inner", dtype=torch.bfloat16)
    assert retriever.model.dtype == torch.bfloat16
    assert len(retriever.retrieve("Count")[0]) == 5


def test_incomplete_folders_are_refused(make_tiny_tokenizer, make_model, tokenizer, tmp_path):
    model = make_model(tokenizer)
    model.save_pretrained(tmp_path, state_dict={k: v for k, v in model.state_dict().items() if k != "lm_head.weight"})
    make_tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match=r"tool_index\.json"):
        GenerativeRetriever.from_pretrained(tmp_path, device="cpu")
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match=r"lm_head\.weight"):  # transformers would draw it at random
        GenerativeRetriever.from_pretrained(tmp_path, device="cpu")
