"""Every tokenization strategy through one trainer: it learns, it is saved, and a fresh interpreter finds the tools."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from toolscaler.data import ToolDocument, ToolQuery, retrieval_rows
from toolscaler.decoding import GenerativeRetriever
from toolscaler.embedding import initialize_first_rows
from toolscaler.errors import TrainingError
from toolscaler.tokenization.strategies import STRATEGIES, make_strategy
from toolscaler.training.retrieval import RetrievalConfig, retrieval_trainer

TOOLS = ["get", "get_weather", "get_weather_week", "convert_length", "convert", "week_day", "word_count"]
QUERIES = [
    "fetch it",
    "is it raining",
    "rain next week",
    "feet in metres",
    "turn into other",
    "which day",
    "how many words",
]
OPTIONS = {
    "toolscaler": {"settings": {"num_levels": 2, "num_centroids": 3, "reduced_dim": 3}},
    "hierarchical": {"branching": 3},
}
_FRESH = """
import json, sys
from toolscaler import GenerativeRetriever
for name in sys.argv[3:]:
    retriever = GenerativeRetriever.from_pretrained(f"{sys.argv[1]}/{name}")
    found = retriever.retrieve(json.loads(sys.argv[2]), 2)
    names = [[tool.name for tool in ranking] for ranking in found]
    print(json.dumps([retriever.tokenizer.strategy, names]))
"""


def config(folder, **changes) -> RetrievalConfig:
    values = {
        "output_dir": str(folder / "checkpoints"),
        "per_device_train_batch_size": 7,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 150,
        "learning_rate": 5e-3,
        "disable_tqdm": True,
        "save_strategy": "no",
        **changes,
    }
    return RetrievalConfig(**values)


def system(name, make_tiny_tokenizer, make_tiny_model):
    documents = [ToolDocument(text) for text in TOOLS]
    gists = np.random.default_rng(0).normal(size=(len(TOOLS), 2, 32)).astype(np.float32)
    base = make_tiny_tokenizer()
    catalogue = make_strategy(name, OPTIONS.get(name)).tokenize(documents, base, gists)
    model = initialize_first_rows(make_tiny_model("llama", base, num_layers=1), catalogue, gists)
    tokenizer = catalogue.tokenizer
    queries = [ToolQuery(text, (tool,)) for text, tool in zip(QUERIES, TOOLS, strict=True)]
    rows = retrieval_rows(queries, {tool: tokenizer.tool_code_text(tool) for tool in TOOLS})
    return model, tokenizer, rows


@pytest.fixture(scope="module")
def trained(make_tiny_tokenizer, make_tiny_model, tmp_path_factory):
    """Every strategy's trained model, and the folder it is saved in."""
    folder, found = tmp_path_factory.mktemp("trained"), {}
    for name in STRATEGIES:
        model, tokenizer, rows = system(name, make_tiny_tokenizer, make_tiny_model)
        retrieval_trainer(model, tokenizer, rows, config(folder, prompt_token_dropout=0.1)).train()
        found[name] = GenerativeRetriever(model, tokenizer)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return found, folder


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_learns(trained, name) -> None:
    assert [ranking[0].name for ranking in trained[0][name].retrieve(QUERIES, 2)] == TOOLS


def test_a_fresh_interpreter_finds_the_same(trained, tmp_path) -> None:
    found, folder = trained
    command = [sys.executable, "-c", _FRESH, str(folder), json.dumps(QUERIES), *found]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    for (name, retriever), line in zip(found.items(), output.splitlines()[-len(found) :], strict=True):
        names = [[tool.name for tool in ranking] for ranking in retriever.retrieve(QUERIES, 2)]
        assert json.loads(line) == [name, names]


@pytest.mark.parametrize("name", ["semantic", "atomic"])
def test_an_adapter_trains_the_rows_that_there_are(name, make_tiny_tokenizer, make_tiny_model, tmp_path) -> None:
    model, tokenizer, rows = system(name, make_tiny_tokenizer, make_tiny_model)
    settings = config(tmp_path, use_lora=True, lora_r=4, lora_alpha=8, num_train_epochs=2)
    trainer = retrieval_trainer(model, tokenizer, rows, settings)
    trainer.train()
    indices = trainer.model.peft_config["default"].trainable_token_indices
    ids = list(range(tokenizer.first_code_id, len(tokenizer)))
    assert indices == ({"model.embed_tokens": ids, "lm_head": ids} if ids else None)


def test_first_steps_do_not_join_codes_that_look_like_text(make_tiny_tokenizer, make_tiny_model, tmp_path) -> None:
    from datasets import Dataset

    model, tokenizer, rows = system("semantic", make_tiny_tokenizer, make_tiny_model)
    steps = Dataset.from_dict({"input_ids": [[1]], "labels": [[1]]})
    with pytest.raises(TrainingError, match="semantic"):
        retrieval_trainer(model, tokenizer, rows, config(tmp_path), step_rows=steps)
