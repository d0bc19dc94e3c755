"""Contract: a run goes from embeddings to numbers with every kind of quantiser, and its model takes new tools."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from support.quantizers import KINDS
from toolscaler.decoding import GenerativeRetriever
from toolscaler.pipeline import RunConfig, run_pipeline
from toolscaler.pipeline.stages import Run

THINGS, VERBS = ["kettle", "lamp", "door", "radio", "heater", "camera", "oven", "fan"], ["open", "close", "measure"]
# One of each kind, and of each way to unequal positions.
CHOSEN = ["balanced", "product", "hierarchical", "fsq_larger", "fsq_suffix", "rqvae"]


def settings(source: Path, output: Path, codebook: dict) -> RunConfig:
    scratch = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return RunConfig.from_dict(
        {
            "output_dir": str(output),
            "data": {"tools": str(source / "tools.json"), "queries": str(source / "queries.jsonl"), "test_size": 0.2},
            "base": {"model": "scratch", "scratch": {**scratch, "num_train_epochs": 0}},
            "compression": {"trainer": {"train_base": True, "num_train_epochs": 1}},
            "codebook": {"num_centroids": 6, "reduced_dim": 4, **codebook},
            "embedding": {"start_from": "compressor"},
            "retrieval": {"trainer": {"max_steps": 3, "save_strategy": "no", "disable_tqdm": True}},
            "evaluation": {"baselines": [], "num_beams": 4, "ks": [1, 2]},
        }
    )


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Source files, and a run that is done up to the embeddings."""
    source = tmp_path_factory.mktemp("source")
    tools = [
        {"name": f"{verb}_{thing}", "description": f"Will {verb} the {thing}.", "parameters": {}}
        for thing in THINGS
        for verb in VERBS
    ]
    queries = [
        {"query": text.format(tool["name"].replace("_", " the ")), "tools": [tool["name"]]}
        for tool in tools
        for text in ("please {}", "can you {} now")
    ]
    (source / "tools.json").write_text(json.dumps(tools))
    (source / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    return source, run_pipeline(settings(source, source / "run", {}), until="encode")


@pytest.mark.parametrize("kind", CHOSEN)
def test_a_small_run(encoded, tmp_path, kind):
    source, done = encoded
    shutil.copytree(done, tmp_path / "run")
    config = settings(source, tmp_path / "run", KINDS[kind][0])
    folder = run_pipeline(config)
    run = Run(config, folder)
    codebook, statistics = run.load_codebook(), json.loads((folder / "codebook" / "statistics.json").read_text())
    assert codebook.settings.quantizer == config.codebook.quantizer
    assert statistics["num_tools"] == len(codebook) == len(THINGS) * len(VERBS)
    assert len(statistics["utilisation"]) == codebook.code_length
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert 0 <= metrics["results"][0]["metrics"]["ndcg@1"]["mean"] <= 1
    retriever = GenerativeRetriever.from_pretrained(str(folder / "model"))
    assert retriever.tokenizer.code_sizes == codebook.code_sizes
    if codebook.collisions == "suffix":
        return  # a full suffix refuses new tools; that has tests of its own
    new = run.load_embeddings()[:2] + np.float32(0.1)
    retriever.tokenizer.add_tools(["new_one", "new_two"], embeddings=new)
    found = retriever.retrieve("please open the new thing", 2, tools=["new_one", "new_two"])[0]
    assert sorted(tool.name for tool in found) == ["new_one", "new_two"]
