"""The starter's labelled queries, read from the JSON lines files beside this module."""

from __future__ import annotations

import json
from importlib import resources

from toolscaler.data.queries import ToolQuery
from toolscaler.errors import ConfigError
from toolscaler.starter.registry import PROVIDER

_SPLITS = ("train", "test")


def load_starter_queries(split: str | None = None) -> list[ToolQuery]:
    """Give the starter's queries.

    Each line of a ``queries_*.jsonl`` file is ``{"tools": ["add_days"], "train": ["...", ...], "test": ["...", ...]}``:
    the user texts that need exactly these tools, in call order, apart by split. Test texts are held out: no training
    stage sees them.

    Args:
        split: ``"train"``, ``"test"`` or ``None`` for both.

    Raises:
        ConfigError: Another split name.
    """
    if split is not None and split not in _SPLITS:
        raise ConfigError("split", split, "'train', 'test' or None")
    folder = resources.files("toolscaler.starter") / "resources"
    queries: list[ToolQuery] = []
    for file in sorted(folder.iterdir(), key=lambda item: item.name):
        if not (file.name.startswith("queries_") and file.name.endswith(".jsonl")):
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            tools = tuple(f"{PROVIDER}/{name}" for name in record["tools"])
            for part in _SPLITS if split is None else (split,):
                queries += [ToolQuery(text, tools, split=part) for text in record.get(part, ())]
    return queries
