"""Contract: the benchmark of the constraints' cost counts the same tokens on both sides and writes what it measured."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("llguidance")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # benchmarks are no part of the installed package

from benchmarks import agent_overhead
from benchmarks.agent_overhead import SHAPES, Bench, main, make_tokenizer, measure

TINY = replace(SHAPES[0], name="tiny", vocabulary=900, hidden=32, intermediate=64, layers=1, whole_layers=3, tokens=10)


def test_the_same_tokens_are_counted_and_only_one_side_is_bound():
    bench = Bench(TINY)
    bench.check()
    for tokens, free, bound in bench.pairs().values():
        one, two = free(tokens), bound(tokens)
        assert len(one) == len(two) == tokens
        assert one != two
    (tool,) = bench.tokenizer.decode_tool(bench.by_trie(4))
    assert tool.startswith("tool_")
    # The agent's way and transformers' choose alike.
    assert bench.agent(10, schema=True) == bench.by_schema(10)
    assert bench.agent(10, schema=False) == bench.generate(10)


def test_the_tokenizer_has_the_size_that_is_asked_for():
    made = make_tokenizer(TINY)
    assert len(made) == TINY.vocabulary + 4 * TINY.codes
    assert made.decode(made("thequick fox: {1}", add_special_tokens=False)["input_ids"]) == "thequick fox: {1}"


def test_figures_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(agent_overhead, "SHAPES", (TINY,))
    monkeypatch.setattr("sys.argv", ["agent_overhead", "--rounds", "2", "--output", str(tmp_path / "figures.json")])
    assert main() == 0
    rows = json.loads((tmp_path / "figures.json").read_text())
    assert [row["tokens"] for row in rows] == [4, 10, 10]
    assert all(row["free_ms"] > 0 and row["bound_ms"] > 0 and row["rounds"] == 2 for row in rows)
    table = (tmp_path / "figures.md").read_text()
    assert table.count("| tiny |") == 3
    assert table in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["agent_overhead", "--only", "nosuch"])
    with pytest.raises(SystemExit, match="tiny"):
        main()
    assert len(measure(TINY, 1)) == 3
