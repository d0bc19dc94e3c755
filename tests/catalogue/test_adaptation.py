"""Contract: an adaptation learns added tools, rehearses old ones, says what it forgot, and leaves a whole artefact."""

from __future__ import annotations

import pytest
from safetensors.numpy import load_file

from toolscaler.catalogue import ToolCatalogue
from toolscaler.catalogue.adaptation import adaptation_rows
from toolscaler.data import ToolQuery
from toolscaler.errors import CatalogueError
from toolscaler.hub import Artifact


def old_queries(parts) -> list[ToolQuery]:
    return [
        ToolQuery(f"please {item.name.replace('_', ' ')} {n}", (item.id,)) for item in parts.documents() for n in "ab"
    ]


def test_rows_are_of_added_tools_and_as_many_rehearsed(parts):
    new = parts.extra_documents(2)
    text = {item.id: f"<a_{n}>" for n, item in enumerate([*parts.documents(), *new])}
    queries = [ToolQuery("both", ("units/extra_0", "units/count_words")), ToolQuery("gone", ("nobody",))]
    rehearsal = [*old_queries(parts), ToolQuery("added", ("units/extra_1",)), ToolQuery("gone", ("nobody",))]
    rows, rehearsed = adaptation_rows(new, queries, rehearsal, text, ratio=0.5)
    assert {row["completion"] for row in rows} == {"<a_16>", "<a_17>"}
    assert {"prompt": "both", "completion": "<a_16>"} in rows
    assert len(rehearsed) == round(0.5 * len(rows))
    assert {row["completion"] for row in rehearsed} <= {f"<a_{n}>" for n in range(16)}
    again = adaptation_rows(new, queries, rehearsal, text, ratio=0.5)
    assert (rows, rehearsed) == again


def test_the_command_adapts_and_says_what_was_forgotten(folder, parts, tmp_path, capsys):
    import json

    from toolscaler.cli import main

    path = tmp_path / "old.jsonl"
    rows = [{"query": query.text, "tools": list(query.tools)} for query in old_queries(parts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ToolCatalogue.open(folder).add(parts.extra_documents(2), embeddings=parts.gists(2))
    words = ["tools", "adapt", str(folder), "--rehearsal", str(path), "--check_old", str(path), "--epochs", "1"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "tools 2, rows" in out
    assert "ndcg@1 of old tools, after" in out
    assert "n = 32" in out
    assert ToolCatalogue.open(folder).log[-1].verb == "adapt"


def test_a_model_is_adapted_in_one_step_and_its_forgetting_measured(catalogue, parts, tmp_path):
    from toolscaler.training.retrieval import RetrievalConfig

    with pytest.raises(CatalogueError, match="added since"):
        catalogue.adapt(old_queries(parts))
    new = parts.extra_documents(3)
    catalogue.add(new, embeddings=parts.gists(3))
    with pytest.raises(CatalogueError, match="rehearsal"):
        catalogue.adapt([])
    weights, index = load_file(catalogue.folder / "model.safetensors"), catalogue.index
    config = RetrievalConfig(
        output_dir=str(tmp_path / "work"),
        num_train_epochs=6,
        learning_rate=3e-3,
        gradient_accumulation_steps=1,
        save_strategy="no",
        disable_tqdm=True,
    )
    asked = [ToolQuery(item.description, (item.id,)) for item in new]
    done = catalogue.adapt(
        old_queries(parts), config=config, check_added=asked, check_old=old_queries(parts)[:8], note="a little"
    )
    assert done.tools == tuple(item.id for item in new)
    assert done.rehearsal == min(done.rows, 32)
    assert done.after.added_recall.mean() > done.before.added_recall.mean()
    assert len(done.before.old_first_after) == len(done.after.old_first_after) == 8
    assert (done.entry.verb, done.entry.note) == ("adapt", "a little")
    assert catalogue.untrained == ()
    opened = ToolCatalogue.open(catalogue.folder)
    assert opened.index == index
    changed = load_file(catalogue.folder / "model.safetensors")
    assert changed.keys() == weights.keys()
    assert any((changed[name] != weights[name]).any() for name in weights)
    Artifact.from_pretrained(catalogue.folder).load_model()
    assert [path.name for path in catalogue.folder.parent.iterdir() if path.name.startswith(".artefact")] == []
