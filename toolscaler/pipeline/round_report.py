"""What a post-guided round changed: codes, distances between tools that are used together, and retrieval."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler._files import atomic_folder, read_json, write_json, write_text
from toolscaler.codebook.translation import TRANSLATION_FILE, CodeTranslation, co_used_pairs, pair_distances
from toolscaler.data.trajectories import FINISH_TOOL

if TYPE_CHECKING:
    from toolscaler.pipeline.rounds import RoundRun

#: Files in the run folder: one line a round.
ROUNDS_JSON, ROUNDS_TABLE = "rounds.json", "rounds.md"

_SYSTEM = "toolscaler"


def co_used_groups(run: RoundRun) -> list[list[str]]:
    """Give the tools of each training trajectory, and of each training query that several tools answer.

    Finish is left out: it stands in every trajectory.
    """
    groups = [list(query.tools) for query in run.queries("train")]
    if run.config.data.trajectories is not None:
        groups += [list(trajectory.tools) for trajectory in run.trajectories()]
    groups = [[tool for tool in dict.fromkeys(group) if tool != FINISH_TOOL] for group in groups]
    return [group for group in groups if len(group) > 1]


def round_report_stage(run: RoundRun) -> dict[str, Any]:
    """Compare a round with the one before, and draw it like the first one.

    Writes ``report/`` in the round's folder (``round.json`` and the plots of :func:`report_stage`) and, over all rounds
    so far, ``rounds.json`` and ``rounds.md`` in the run folder.

    Returns:
        The main numbers.
    """
    from toolscaler.pipeline.plots import draw_run

    translation = CodeTranslation.load(run.folder / "vocabulary" / TRANSLATION_FILE)
    pairs = co_used_pairs(co_used_groups(run), translation.tool_ids)
    before = {"round": run.number - 1, **_round_numbers(run.previous, translation.old_codes, pairs)}
    after = {"round": run.number, **_round_numbers(run.folder, translation.new_codes, pairs)}
    after |= {
        "tools": len(translation),
        "changed": int(translation.changed.sum()),
        "changed_up_to_names": int(translation.changed_up_to_names().sum()),
        "differences": _differences(run),
    }
    for entry in (before, after):
        entry["seconds"] = _seconds(run.root.folder, entry["round"])
    with atomic_folder(run.folder / "report") as folder:
        write_json(folder / "round.json", after)
        draw_run(run, folder)
    earlier = read_json(run.root.folder / ROUNDS_JSON) if run.number > 1 else [before]
    rounds = [entry for entry in earlier if entry["round"] < run.number] + [after]
    write_json(run.root.folder / ROUNDS_JSON, rounds)
    write_text(run.root.folder / ROUNDS_TABLE, rounds_table(rounds))
    return _summary(before, after)


def _round_numbers(folder: Path, codes: Any, pairs: Any) -> dict[str, Any]:
    """Give distances and metrics of one round."""
    metrics = read_json(folder / "evaluation" / "metrics.json")
    ours = next(result for result in metrics["results"] if result["name"] == _SYSTEM)
    names = [f"ndcg@{k}" for k in metrics["ks"]] + [f"completeness@{max(metrics['ks'])}"]
    found = {"distances": pair_distances(codes, pairs), "queries": metrics["n"]}
    found["metrics"] = {name: ours["metrics"][name] for name in names}
    agent = folder / "agent" / "metrics.json"
    if agent.is_file():
        found["agent"] = read_json(agent)[0]["metrics"]
    return found


def _seconds(folder: Path, number: int) -> float:
    """Add up the time of a round's stages, as the manifest has it; the running stage is not in it yet."""
    stages = read_json(folder / "manifest.json")["stages"]
    prefix = f"round-{number}/"
    own = [name for name in stages if (name.startswith(prefix) if number else "/" not in name)]
    return round(sum(stages[name]["seconds"] for name in own), 1)


def _differences(run: RoundRun) -> dict[str, dict[str, float]]:
    """Compare NDCG with the round before, query by query."""
    from toolscaler.evaluation.metrics import ndcg_at_k
    from toolscaler.evaluation.statistics import paired_bootstrap_interval, paired_randomization_test

    rows = [_per_query(folder / "evaluation" / "per_query.jsonl") for folder in (run.folder, run.previous)]
    section, found = run.config.evaluation, {}
    for k in sorted(set(section.ks)):
        values = [
            [ndcg_at_k([tool["tool"] for tool in row["systems"][_SYSTEM]], row["relevant"], k) for row in part]
            for part in rows
        ]
        mean, low, high = paired_bootstrap_interval(*values, seed=section.seed)
        p = paired_randomization_test(*values, seed=section.seed)
        found[f"ndcg@{k}"] = {"mean": mean, "low": low, "high": high, "p": p}
    return found


def _per_query(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _summary(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    first = next(iter(after["metrics"]))
    shown: dict[str, Any] = {"changed": after["changed"], "changed_up_to_names": after["changed_up_to_names"]}
    for name in ("co_used", "random"):
        pair = [entry["distances"][name] for entry in (before, after)]
        if None not in pair:
            shown[f"{name}_distance"] = f"{pair[0]:.3f} -> {pair[1]:.3f}"
    values = [entry["metrics"][first]["mean"] for entry in (before, after)]
    return {**shown, first: f"{values[0]:.4f} -> {values[1]:.4f}", "p": round(after["differences"][first]["p"], 4)}


def rounds_table(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Give all rounds as a Markdown table.

    Args:
        rounds: Entries of ``rounds.json``, round 0 first.
    """
    names = list(rounds[0]["metrics"])
    head = ["round", *names, "change of " + names[0], "codes changed", "beyond names", "co-used", "random", "minutes"]
    agents = any("agent" in entry for entry in rounds)
    head += ["agent success"] if agents else []
    lines = [f"| {' | '.join(head)} |", f"|{'---:|' * len(head)}"]
    for entry in rounds:
        cells = [str(entry["round"])]
        cells += [_interval(entry["metrics"][name]) for name in names]
        change = entry.get("differences", {}).get(names[0])
        cells.append("" if change is None else f"{_interval(change, sign='+')}, p {change['p']:.3f}")
        cells += [
            f"{entry[key]} of {entry['tools']}" if key in entry else "" for key in ("changed", "changed_up_to_names")
        ]
        cells += [_number(entry["distances"][key]) for key in ("co_used", "random")]
        cells.append(f"{entry['seconds'] / 60:.1f}")
        if agents:
            cells.append(_interval(entry["agent"]["success"]) if "agent" in entry else "")
        lines.append(f"| {' | '.join(cells)} |")
    last = rounds[-1]["distances"]
    note = (
        f"\nn = {rounds[-1]['queries']} held-out queries; per cent with 95 % intervals over queries; the change is "
        "paired, with the round before. Co-used and random: mean Hamming distance of code sequences over "
        f"{last['co_used_pairs']} pairs of tools of one training trajectory or query, and over {last['random_pairs']} "
        "other pairs. Beyond names: tools that changed after the best one-to-one renaming of each position's codes.\n"
    )
    return "\n".join(lines) + "\n" + note


def _interval(value: Mapping[str, float], sign: str = "") -> str:
    return f"{100 * value['mean']:{sign}.1f} [{100 * value['low']:{sign}.1f}, {100 * value['high']:{sign}.1f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
