"""Attacks on the agent: how often each was tried, and how often it got through. The goal is never.

Run: python benchmarks/agent_attacks.py [--scale 1.0] [--only injection tokens ...] [--output attacks.json]

Writes the counts as JSON, and as a Markdown table beside it. The exit status is 1 where something got through. The
attacks themselves are those of tests/agent/attacks, at larger counts.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Attacks on the agent: tried and got through.")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply every count by this (default: 1.0)")
    parser.add_argument("--seed", type=int, default=0, help="order of the cases (default: 0)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these attacks only")
    parser.add_argument("--output", type=Path, default=Path("agent_attacks.json"), help="where the counts go")
    return parser


def markdown(rows: list[dict[str, Any]]) -> str:
    """Give the counts as a table."""
    lines = ["| attack | tried | got through | seconds |", "|---|---:|---:|---:|"]
    lines += [f"| {row['attack']} | {row['tried']:,} | {row['through']} | {row['seconds']:.0f} |" for row in rows]
    tried, through = (sum(row[key] for row in rows) for key in ("tried", "through"))
    return "\n".join([*lines, f"| **all** | **{tried:,}** | **{through}** | |", ""])


def main() -> int:
    arguments = make_parser().parse_args()
    from agent.attacks.catalogue import ATTACKS

    names = arguments.only or list(ATTACKS)
    unknown = [name for name in names if name not in ATTACKS]
    if unknown:
        raise SystemExit(f"no such attack: {unknown}; there are {list(ATTACKS)}")
    logging.getLogger("toolscaler").addHandler(logging.NullHandler())
    logging.getLogger("toolscaler").propagate = "secrets" in names  # that attack reads what is logged
    logging.lastResort = None
    rows: list[dict[str, Any]] = []
    for name in names:
        attack, _, count = ATTACKS[name]
        began = time.perf_counter()
        tally = attack(max(1, round(count * arguments.scale)), arguments.seed)
        row = {"name": name, "attack": tally.name, "tried": tally.tried, "through": len(tally.through)}
        rows.append({**row, "seconds": time.perf_counter() - began, "examples": tally.through[:20]})
        print(f"{tally.name}: {tally.tried:,} tried, {len(tally.through)} got through", flush=True)
        for example in tally.through[:5]:
            print(f"    {example}")
        arguments.output.write_text(json.dumps({"seed": arguments.seed, "attacks": rows}, indent=1, ensure_ascii=True))
        arguments.output.with_suffix(".md").write_text(markdown(rows))
    print(markdown(rows))
    return int(any(row["through"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
