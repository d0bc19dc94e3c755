"""Contract: tools are held back with every query that names one of them, and a table holds the cells of every call."""

from __future__ import annotations

import json

from benchmarks.added_tools import HYBRIDS, MODEL, markdown, read_cells, split_tools
from toolscaler.data import ToolDocument, ToolQuery


def test_a_query_with_one_held_tool_is_kept_from_training():
    documents = [ToolDocument(id=f"t{n}", name=f"t{n}", description="does something") for n in range(10)]
    queries = [ToolQuery(id=str(n), text=f"query {n}", tools=(f"t{n % 10}", f"t{n % 7}")) for n in range(50)]
    old, added, known, fresh = split_tools(documents, queries, 0.2, seed=1)
    held = {item.id for item in added}
    assert len(held) == 2
    assert held.isdisjoint(item.id for item in old)
    assert len(old) == 8
    assert {q.id for q in known} | {q.id for q in fresh} == {q.id for q in queries}
    assert all(held.isdisjoint(q.tools) for q in known)
    assert all(held.intersection(q.tools) for q in fresh)
    assert {item.id for item in split_tools(documents, queries, 0.2, seed=2)[1]} != held


def test_the_table_holds_the_cells_of_earlier_calls(tmp_path):
    for name, seed in (("toole", 0), ("toole", 1), ("ultratool", 0)):
        values = {"added_recall": [1.0, seed], "added_first": [0.0, 0.0], "intruded": [0.0]}
        values |= {"old_first_before": [1.0], "old_first_after": [1.0]}
        cell = {"catalogue": name, "seed": seed, "tools": 10, "added": 2, "dense": "lsa", "systems": {MODEL: values}}
        (tmp_path / f"{name}-{seed}").mkdir()
        (tmp_path / f"{name}-{seed}" / "cell.json").write_text(json.dumps(cell))
    (tmp_path / "toole-2").mkdir()  # one that was only begun
    (tmp_path / "toole-2" / "cell.json").write_text(json.dumps({**cell, "systems": {}}))
    text = markdown(read_cells(tmp_path))
    assert "### toole: 2 of 10 tools added after training, 2 seeds" in text
    assert "### ultratool: 2 of 10 tools added after training, 1 seeds" in text
    assert "75.00" in text
    assert "50.00" in text
    assert "calibrated" in HYBRIDS
