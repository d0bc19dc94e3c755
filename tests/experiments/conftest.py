"""A small catalogue on disk, and grids over it; nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolscaler.experiments.config import ExperimentConfig

THINGS = ("kettle", "lamp", "door", "radio", "heater", "camera", "fence", "piano")
VERBS = ("open", "close", "measure")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tools.json`` and ``queries.jsonl``: 24 tools of 8 providers, 4 queries a tool and 8 with two tools."""
    folder = tmp_path_factory.mktemp("source")
    tools, queries = [], []
    for thing in THINGS:
        for verb in VERBS:
            tools.append({"name": f"{verb}_{thing}", "provider": thing, "description": f"Will {verb} the {thing}."})
            for text in ("please {} the {}", "{} {} in the hall", "can you {} my {} now", "i want to {} a {}"):
                queries.append({"query": text.format(verb, thing), "tools": [f"{thing}/{verb}_{thing}"]})
        both = [f"{thing}/open_{thing}", f"{thing}/close_{thing}"]
        queries.append({"query": f"open and close the {thing} again", "tools": both})
    (folder / "tools.json").write_text(json.dumps(tools))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    return folder


@pytest.fixture
def grid(source: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Give ``make(**changes)`` -> a grid of two lexical systems on the small catalogue, as plain data."""

    def make(**changes: Any) -> dict[str, Any]:
        split = {"by": "both", "test_size": 0.25, "unseen_tools": 0.2, "validation_size": 0.1}
        plain = {
            "name": "small",
            "output_dir": str(tmp_path / "out"),
            "data_root": str(source),
            "datasets": {"home": {"tools": "tools.json", "queries": {"all": "queries.jsonl"}, "split": split}},
            "systems": {
                "bm25": {"kind": "bm25"},
                "flat": {"kind": "bm25", "label": "BM25, b = 0", "options": {"b": 0.0}},
            },
        }
        return {**plain, **changes}

    return make


@pytest.fixture
def config(grid: Callable[..., dict[str, Any]]) -> ExperimentConfig:
    """The grid without changes."""
    return ExperimentConfig.from_dict(grid())
