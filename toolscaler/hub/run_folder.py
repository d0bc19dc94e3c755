"""A run folder goes in, the facts for its model card come out; files that a run lacks are left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolscaler._files import read_bytes, read_json
from toolscaler.errors import ArtifactError
from toolscaler.hub.card import CardFacts

# Of the settings of a run, those that a reader of the card wants: dotted key -> how the card calls it.
_SETTINGS = {
    "data.split": "split of queries",
    "compression.num_gist_tokens": "gist tokens a tool",
    "codebook.num_levels": "levels",
    "codebook.num_centroids": "centroids a level",
    "codebook.collisions": "collisions",
    "embedding.init": "first rows of codes",
    "retrieval.trainer.num_train_epochs": "epochs of retrieval",
    "retrieval.trainer.learning_rate": "learning rate",
    "retrieval.trainer.use_lora": "LoRA",
    "seed": "seed",
}


def run_facts(folder: str | Path, *, repo_id: str, **more: Any) -> CardFacts:
    """Read what a run has left about itself.

    Args:
        folder: Run folder of ``toolscaler run``.
        repo_id: Where the model will be published.
        **more: Fields of :class:`CardFacts` that the run does not know (``license``, ``kind``, ``notes``, ...), or
            that are to be other than it says.

    Returns:
        The facts.

    Raises:
        ArtifactError: The folder is no run folder, or one of its files is damaged.
    """
    root = Path(folder)
    if not (root / "manifest.json").is_file():
        raise ArtifactError("expected a run folder with manifest.json; give one that `toolscaler run` made", path=root)
    config = run_config(root)
    index = read_json(root / "model" / "tool_index.json", what="the tool index of the trained model")
    statistics = _json(root / "codebook" / "statistics.json")
    facts: dict[str, Any] = {
        "repo_id": repo_id,
        "kind": "model",
        "num_tools": len(index["tools"]),
        "code_sizes": tuple(index["code_sizes"]),
        "base_model": base_name(config),
        "datasets": _data_name(config),
        "settings": {name: value for key, name in _SETTINGS.items() if (value := _get(config, key)) is not None},
        "statistics": statistics,
        "metrics": _json(root / "evaluation" / "metrics.json"),
        "agent_metrics": _json(root / "agent" / "metrics.json"),
        "examples": _examples(_json(root / "evaluation" / "examples.json")),
        "has_documents": (root / "model" / "tools.jsonl").is_file(),
    }
    return CardFacts(**{**facts, **more})


def run_config(folder: Path) -> dict[str, Any]:
    """Read the settings of a run.

    Raises:
        ArtifactError: They are missing or damaged.
    """
    import yaml

    path = folder / "config.yaml"
    try:
        data = yaml.safe_load(read_bytes(path, 1 << 22, "the settings of a run"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(
            f"expected the settings of a run, got: {' '.join(str(error).split())[:200]}", path=path
        ) from error
    if not isinstance(data, dict):
        raise ArtifactError("expected the settings of a run as a table", path=path)
    return data


def base_name(config: Mapping[str, Any]) -> str | None:
    """Give the Hub id of a run's base; ``None`` where it was made from scratch or lies in a folder."""
    from toolscaler.hub.manifest import REPO_ID

    name = _get(config, "base.model")
    named = isinstance(name, str) and REPO_ID.fullmatch(name) and name != "scratch" and not Path(name).exists()
    return str(name) if named else None


def _data_name(config: Mapping[str, Any]) -> tuple[str, ...]:
    tools = _get(config, "data.tools")
    if not isinstance(tools, str):
        return ()
    # The name of a bundle or the starter; of a file its last part, since nobody is told where it lies.
    return (tools.removeprefix("bundle:").rpartition("/")[2],)


def _examples(data: Any) -> tuple[str, ...]:
    queries = data.get("queries", []) if isinstance(data, dict) else []
    hits = [row["query"] for row in queries if row.get("hit")]
    return tuple(hits or [row["query"] for row in queries])


def _get(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None
