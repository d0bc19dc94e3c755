"""Contract: a query with one held-back tool is kept from training; a table is of all seeds, of earlier calls too."""

from __future__ import annotations

import json

import pytest

from benchmarks.added_tools import CATALOGUES, MODEL, markdown, read_cells, split_tools
from toolscaler.data import ToolDocument, ToolQuery, load_bundle


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
    assert "### ultratool: 2 of 10 tools added after training, 1 seed," in text
    assert "75.00" in text
    assert "50.00" in text


def test_held_back_tools_are_in_no_training_query():
    documents = [ToolDocument(name=f"t{n}") for n in range(20)]
    queries = [ToolQuery(f"q{n}", (f"t{n % 20}", f"t{n * 7 % 20}")) for n in range(60)] + [ToolQuery("none", ())]
    old, added, known, fresh = split_tools(documents, queries, 0.2, seed=1)
    held = {item.id for item in added}
    assert (len(old), len(held)) == (16, 4)
    assert {item.id for item in old} | held == {item.id for item in documents}
    assert not any(held.intersection(query.tools) for query in known)
    assert all(held.intersection(query.tools) for query in fresh)
    assert len(known) + len(fresh) == 60
    assert split_tools(documents, queries, 0.2, seed=1) == (old, added, known, fresh)
    assert {item.id for item in split_tools(documents, queries, 0.2, seed=2)[1]} != held


def test_the_table_pools_seeds_and_takes_the_model_before_as_the_reference():
    def column(after: float) -> dict:
        values = {"added_recall": [after], "added_first": [0.0], "intruded": [0.0]}
        return {**values, "old_first_before": [1.0, 1.0], "old_first_after": [1.0, after]}

    facts = {"catalogue": "toole", "tools": 10, "added": 2, "dense": "lsa"}
    cells = [{**facts, "seed": n, "systems": {MODEL: column(1.0), "dense": column(float(n))}} for n in (0, 1)]
    lines = markdown(cells).splitlines()
    assert lines[0].startswith("### toole: 2 of 10 tools added after training, 2 seeds")
    row = next(line for line in lines if line.startswith("| dense"))
    cell = [part.strip() for part in row.strip("|").split("|")]
    assert cell[1].startswith("50.00 [")
    assert cell[4].startswith("75.00 [")  # of 1, 0, 1, 1
    assert cell[5].startswith("25.00 [")
    assert "4 old and 2 added queries" in lines[-1]


@pytest.mark.shared_data
def test_the_catalogues_of_the_experiment_can_be_split(shared_data):
    for name, (options, _, _) in CATALOGUES.items():
        bundle = load_bundle(name, shared_data / name, **options)
        _, added, known, fresh = split_tools(bundle.documents, bundle.queries, 0.2, seed=0)
        assert len(added) == round(0.2 * len(bundle.documents))
        assert len(known) > 100
        assert len(fresh) > 100
