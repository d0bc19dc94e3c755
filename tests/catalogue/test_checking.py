"""Contract: what added tools do is counted query by query; a draft serves what the model was not trained on."""

from __future__ import annotations

import numpy as np
import pytest

from toolscaler.catalogue.checking import check_added_tools, synthetic_queries
from toolscaler.data import ToolQuery
from toolscaler.decoding.result import Ranking, RetrievedTool
from toolscaler.errors import CatalogueError


class Scripted:
    """Ranks what stands in a table, as far as it is allowed."""

    def __init__(self, table: dict[str, list[str]]) -> None:
        self.table = table

    def retrieve(self, queries, top_k, *, tools=None):
        allowed = None if tools is None else set(tools)
        rows = [[name for name in self.table[query] if allowed is None or name in allowed] for query in queries]
        return [Ranking(RetrievedTool(name, -float(n), ()) for n, name in enumerate(row[:top_k])) for row in rows]


def test_measures_by_hand():
    table = {
        "new 1": ["n1", "a"],
        "new 2": ["a", "b", "n2"],
        "new 3": ["a", "b", "c"],
        "new 4": ["a", "n1"],  # of two labels one was added
        "old 1": ["a", "n1"],
        "old 2": ["n1", "b"],  # an added tool has come in
        "old 3": ["c", "n2", "n1", "b"],  # and here it pushes the label out of the first three
        "old 4": ["n2", "c"],  # an added tool is a label too: no intrusion
    }
    added = [ToolQuery("new 1", ("n1",)), ToolQuery("new 2", ("n2", "n1")), ToolQuery("new 3", ("n2",))]
    added += [ToolQuery("new 4", ("n1", "b")), ToolQuery("new 1", ("a",))]
    old = [
        ToolQuery("old 1", ("a",)),
        ToolQuery("old 2", ("b",)),
        ToolQuery("old 3", ("b",)),
        ToolQuery("old 4", ("c", "n2")),
        ToolQuery("nobody", ("gone",)),
    ]
    found = check_added_tools(Scripted(table), ["a", "b", "c", "n1", "n2"], ["n1", "n2"], added, old, k=3)
    assert found.added_recall.tolist() == [1.0, 0.5, 0.0, 1.0]
    assert found.added_first.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert found.old_first_before.tolist() == [1.0, 1.0, 0.0, 1.0]
    assert found.old_first_after.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert found.old_recall_before.tolist() == [1.0, 1.0, 1.0, 0.5]
    assert found.old_recall_after.tolist() == [1.0, 1.0, 0.0, 1.0]
    assert found.intruded.tolist() == [0.0, 1.0, 0.0, 0.0]
    assert (found.added, found.left_out) == (2, 2)
    assert found.values()["loss of ndcg@1 on old tools"].tolist() == [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(("tools", "added"), [(["a"], ["a"]), (["a"], []), (["a"], ["b"])], ids=["all", "none", "no"])
def test_what_cannot_be_measured_is_refused(tools, added):
    with pytest.raises(CatalogueError, match="expected added"):
        check_added_tools(Scripted({}), tools, added, [], [])


def test_synthetic_queries_are_of_the_document_s_words_and_said_to_be(parts):
    tool = parts.document("count_words", "Count the words of a text. API keys are not needed.")
    queries = synthetic_queries([tool, parts.document("bare_name", " ")], 3)
    assert [query.tools for query in queries] == [("units/count_words",)] * 3 + [("units/bare_name",)] * 3
    assert queries[0].text == "I need something that can count the words of a text"
    assert queries[1].text == "API keys are not needed, please"
    assert "bare name" in queries[3].text
    assert all(query.metadata == {"synthetic": True} for query in queries)
    assert len({query.text for query in queries}) == 6
    with pytest.raises(CatalogueError, match="per_tool"):
        synthetic_queries([tool], 0)


def test_a_retriever_follows_the_catalogue_and_a_draft_serves_added_tools(catalogue, parts):
    from toolscaler.evaluation.baselines import BM25Retriever

    plain = catalogue.retriever(device="cpu")
    hybrid = catalogue.retriever(hybrid=BM25Retriever, hybrid_options={"draft_k": 5}, device="cpu")
    new = parts.document("prune_roses", "Prune roses in the garden in spring.")
    catalogue.add([new], embeddings=parts.gists(1))
    assert hybrid.unseen == {new.id}
    (ranking,) = hybrid.retrieve("prune the roses in my garden", 3)
    assert ranking[0].name == new.id
    assert new.id in [tool.name for tool in plain.retrieve("x", 17)[0]]
    catalogue.remove([new.id])
    assert hybrid.unseen == frozenset()
    assert new.id not in [tool.name for tool in hybrid.retrieve("prune the roses in my garden", 3)[0]]
    assert new.id not in [tool.name for tool in plain.retrieve("x", 17)[0]]


def test_a_draft_that_is_made_already_is_taken_as_it_is(catalogue, parts):
    from toolscaler.evaluation.baselines import BM25Retriever

    draft = BM25Retriever(catalogue.documents())
    hybrid = catalogue.retriever(hybrid=draft, device="cpu")
    catalogue.remove(["units/count_words"])
    assert hybrid.draft is draft


def test_the_command_prints_measures_with_intervals(folder, parts, tmp_path, capsys):
    import json

    from toolscaler.catalogue import ToolCatalogue
    from toolscaler.cli import main

    assert main(["tools", "check", str(folder)]) == 2
    assert "--added" in capsys.readouterr().err
    ToolCatalogue.open(folder).add(parts.extra_documents(2), embeddings=parts.gists(2))
    path = tmp_path / "queries.jsonl"
    path.write_text(json.dumps({"query": "the number that came later", "tools": ["units/extra_1"]}) + "\n")
    words = ["tools", "check", str(folder), "--queries", str(path), "--hybrid", "bm25", "--max_old", "8"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["synthetic"], found["synthetic_old"], found["added_tools"]) == (False, True, 2)
    assert found["measures"]["recall@5 of added tools"] == {"n": 1, "mean": 1.0, "low": 1.0, "high": 1.0}
    before, after = (found["measures"][f"ndcg@1 of old tools, {when}"]["mean"] for when in ("before", "after"))
    assert np.isclose(found["measures"]["loss of ndcg@1 on old tools"]["mean"], before - after)
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "n = 8" in out
    assert "Queries for old tools were made from their documents" in out
