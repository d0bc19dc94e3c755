"""The decoding benchmark runs as its page says, and what it compares agrees; the figures themselves are not judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))  # benchmarks are no part of the installed package


def test_quick_run_checks_every_method_and_writes_json_tables_and_plots(tmp_path):
    command = [sys.executable, "-m", "benchmarks.decoding", "--quick", "--output", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "decoding.json").read_text())
    assert sorted(results) == ["build", "changes", "masks", "retrieval", "small"]
    for case in results["masks"].values():
        assert case["masks_checked"] > 3 * sum(case["nodes"][:3])  # every prefix, three ways of ours
    for part in ("retrieval", "small"):
        for case in results[part].values():
            assert case["equality"]["equal_ranks"] == case["equality"]["ranks"] > 0
    page = (tmp_path / "decoding.md").read_text()
    assert page.strip() in done.stdout
    assert "toolscaler, reuse_buffer" in page
    assert {path.name for path in tmp_path.iterdir()} >= {"masks.png", "retrieval.png"}

    from benchmarks.decoding.__main__ import main

    assert main(["--quick", "--only", "changes", "--output", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "decoding.json").read_text())
    assert again["changes"] != results["changes"]
    assert {**again, "changes": None} == {**results, "changes": None}  # what was not asked for stays


def test_goals_are_judged_on_our_figures():
    from benchmarks.decoding.masks import FLOOR, REUSED, TORCH
    from benchmarks.decoding.report import goals

    def case(tools: int, ms: float):
        rows = {
            "640": {
                FLOOR: {"ms": 100.0, "share": 1.0},
                REUSED: {"ms": ms, "share": ms / 100},
                TORCH: {"operations": 22, "waits": 1},
            }
        }
        return {"tools": tools, "rows": rows}

    results = {"masks": {str(n): case(n, ms) for n, ms in ((46_985, 2.0), (1_000_000, 3.0), (10_000_000, 4.0))}}
    judged = {what: (value, met) for what, value, _, met in goals(results)}
    assert judged == {
        "mask at 1 M tools, 640 rows, share of full_like": (0.03, True),
        "mask, growth from 47 k to 10 M tools, 640 rows": (2.0, False),
        "torch path, operations a step, 640 rows": (22, True),
        "torch path, waits a step, 640 rows": (1, False),
    }


def test_synthetic_codes_are_unique_and_as_skewed_as_said():
    from benchmarks.decoding.catalogue import draw_codes, level_sizes

    codes = draw_codes(46_985)
    sizes = level_sizes(codes)
    assert codes.shape == (46_985, 4)
    assert 0 <= codes.min() <= codes.max() < 512
    assert sizes[0] == 512
    assert sizes[3] == 46_985
    assert [sizes[1] / sizes[0], sizes[2] / sizes[1], sizes[3] / sizes[2]] == pytest.approx([64, 1.39, 1.04], rel=0.02)


@pytest.fixture
def run_folder(tmp_path, make_tiny_tokenizer, make_tiny_model):
    from toolscaler.embedding import initialize_code_embeddings
    from toolscaler.tokenization import ToolscalerTokenizer

    codes = [[a, b, c] for a in range(3) for b in range(3) for c in range(4)]
    names = [f"tool_{row}" for row in range(len(codes))]
    tokenizer = ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(), codes=codes, tool_ids=names, code_sizes=(3, 3, 4)
    )
    model = make_tiny_model(tokenizer=tokenizer)
    initialize_code_embeddings(model, tokenizer, init="random")
    tokenizer.save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    rows = [{"query": f"query {row}", "tools": [names[row]], "id": str(row), "split": ""} for row in range(6)]
    (tmp_path / "data" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_beam_width_finds_everything_with_as_many_beams_as_tools(run_folder):
    from benchmarks.decoding.beam_width import main

    target = run_folder / "widths.json"
    main([str(run_folder), "--beams", "5", "36", "--batch", "4", "--json", str(target)])
    result = json.loads(target.read_text())
    assert (result["queries"], result["tools"]) == (6, 36)
    assert result["widths"]["36"]["overlap"] == result["widths"]["36"]["certified"] == 1
    assert result["widths"]["36"]["ndcg"] == pytest.approx(result["exact_ndcg"])
    assert 0 < result["widths"]["5"]["overlap"] <= 1
