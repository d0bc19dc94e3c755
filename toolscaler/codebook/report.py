"""Report of a run's codebook: a run folder goes in, figures, a table and pictures come out; no model is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolscaler._files import read_json, write_json, write_text
from toolscaler.codebook.codebook import Codebook
from toolscaler.codebook.plots import plot_codebook_usage
from toolscaler.codebook.report_plots import plot_code_map, plot_code_tree, plot_level_distances, preserved_distances
from toolscaler.codebook.statistics import CodebookStatistics, codebook_statistics
from toolscaler.errors import ArtifactError

# A second fit with another seed takes as long as the first; beyond this many tools it is left out unless asked for.
_RESEED_TOOLS = 50_000
# Names that the encode stage gives; this room may not import the one that writes them.
_INDEX_NAME = "embeddings.index.json"


def codebook_report(
    run_folder: str | Path,
    output_folder: str | Path | None = None,
    *,
    reseed: bool | None = None,
    plots: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure the codebook of a run and write ``report.json``, ``report.md`` and pictures.

    Args:
        run_folder: Folder of a run whose codebook stage is done: ``codebook/``, ``embeddings/``, and
            ``data/tools.jsonl`` for the purity of prefixes (left out where there is no such file).
        output_folder: Where to write; ``codebook_report`` in the run folder if ``None``.
        reseed: Also fit with another seed for the stability figure; ``None``: up to 50,000 tools.
        plots: Draw ``usage.png``, ``tree.png``, ``map.png`` and ``distances.png``.
        seed: Seed of every random choice.

    Returns:
        What ``report.json`` holds: sizes, settings, every figure of
        :class:`~toolscaler.codebook.CodebookStatistics`, ``distance_preserved`` (rank correlation of distances in E and
        after l levels, per level), and ``files``.

    Raises:
        ArtifactError: A file of the run is missing or damaged, or its parts are of different catalogues.
        MissingDependencyError: ``plots`` without matplotlib.
    """
    folder = Path(run_folder)
    codebook = Codebook.from_pretrained(folder / "codebook")
    ids, embeddings = _read_embeddings(folder / "embeddings")
    if tuple(ids) != codebook.tool_ids:
        raise ArtifactError("the embeddings are those of another catalogue than the codebook's", path=folder)
    documents = _read_documents(folder / "data" / "tools.jsonl", len(ids))
    again = len(ids) <= _RESEED_TOOLS if reseed is None else reseed
    statistics = codebook_statistics(codebook, embeddings, seed=seed, documents=documents, reseed=again)
    preserved = preserved_distances(codebook, embeddings, seed=seed)
    target = folder / "codebook_report" if output_folder is None else Path(output_folder)
    target.mkdir(parents=True, exist_ok=True)
    files = ["report.json", "report.md"]
    if plots:
        plot_codebook_usage(codebook, target / "usage.png")
        plot_code_tree(codebook, target / "tree.png")
        plot_code_map(codebook, embeddings, target / "map.png", seed=seed)
        plot_level_distances(preserved, target / "distances.png")
        files += ["usage.png", "tree.png", "map.png", "distances.png"]
    result = {
        "num_gists": codebook.num_gists,
        "code_sizes": list(codebook.code_sizes),
        "collision_policy": codebook.collisions,
        "settings": codebook.settings.to_dict(),
        **statistics.to_dict(),
        "distance_preserved": list(preserved),
        "files": files,
    }
    write_text(target / "report.md", _table(codebook, statistics, preserved))
    result = json.loads(json.dumps(result))  # lists for tuples: the same value as the file gives
    write_json(target / "report.json", result)
    return dict(result)


def _read_embeddings(folder: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Read the shards of the encode stage: ids, and float32 (N, V, D) in their order."""
    from safetensors import SafetensorError, safe_open

    index = read_json(folder / _INDEX_NAME)
    try:
        ids, shape, shards = list(index["ids"]), tuple(index["shape"]), [entry["file"] for entry in index["shards"]]
        embeddings = np.full(shape, np.nan, dtype=np.float32)
        for name in shards:
            with safe_open(str(folder / name), framework="numpy") as file:
                embeddings[file.get_tensor("positions")] = file.get_tensor("embeddings")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(f"expected whole shards of gist embeddings, got: {error}", path=folder) from error
    if len(ids) != len(embeddings) or np.isnan(embeddings).any():
        raise ArtifactError("some tools are in no shard; finish the encode stage", path=folder)
    return ids, embeddings


def _read_documents(path: Path, count: int) -> list[dict[str, Any]] | None:
    if not path.exists():
        return None
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise ArtifactError(f"expected one JSON object a line, got: {error}", path=path) from error
    if len(rows) != count or not all(isinstance(row, dict) for row in rows):
        raise ArtifactError(f"expected {count} tools as the embeddings have, got {len(rows)}", path=path)
    return rows


def _table(codebook: Codebook, found: CodebookStatistics, preserved: Sequence[float]) -> str:
    lengths = range(1, codebook.code_length + 1)

    def row(name: str, values: Sequence[float]) -> str:
        cells = [f"{value:.4g}" for value in values] + [""] * (codebook.code_length - len(values))
        return f"| {name} | {' | '.join(cells)} |"

    single = {
        "tools": found.num_tools,
        "collision rate before the policy": found.collisions.rate,
        "of these harmful": found.collisions.harmful,
        "of these exact duplicates": found.collisions.duplicate,
        "collision rate left": found.remaining_collisions.rate,
        "tools moved": found.moved,
        "relative error": found.relative_error,
        "relative error before the policy": found.nearest_relative_error,
        "relative error in all D dimensions": found.full_relative_error,
        "effective code count": found.effective_codes,
        "embedding hit rate": found.hit_rate,
    }
    lines = [f"# Codebook: {codebook.settings.quantizer}", "", "| figure | value |", "|---|---|"]
    lines += [f"| {name} | {value:.6g} |" for name, value in single.items()]
    lines += ["", f"| position or prefix length | {' | '.join(map(str, lengths))} |"]
    lines.append("|---" * (codebook.code_length + 1) + "|")
    per_position = {
        "codes": codebook.code_sizes,
        "utilisation": found.utilisation,
        "perplexity": found.perplexity,
        "Gini": found.gini,
        "prefix perplexity": found.prefix_perplexity,
        f"neighbour recall ({found.num_neighbours} neighbours)": found.neighbour_recall,
        "the same for random pairs": found.random_prefix_sharing,
        f"codes kept under noise of {found.perturbation:g}": found.perturbation_stability,
        "agreement with another seed": found.reseeding_stability,
        **{f"purity against {name}": values for name, values in found.prefix_purity.items()},
        "distance preserved after this many levels": preserved,
    }
    lines += [row(name, values) for name, values in per_position.items() if len(values)]
    return "\n".join(lines) + "\n"
