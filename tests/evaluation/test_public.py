"""The room's door: names that resolve, and nothing heavy behind the light ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from toolscaler import evaluation
from toolscaler.evaluation import baselines


@pytest.mark.parametrize("module", [evaluation, baselines], ids=lambda module: module.__name__)
def test_every_public_name_resolves(module):
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_metrics_and_statistics_load_nothing_heavy():
    code = (
        "import sys; from toolscaler.evaluation import ToolRetrievalEvaluator, ndcg_at_k, bootstrap_intervals; "
        "import toolscaler.pipeline.evaluation, toolscaler.pipeline.plots; "
        "print([m for m in ('torch', 'transformers', 'sklearn', 'bm25s', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("package", "kind"), [("bm25s", "bm25"), ("sklearn", "lsa"), ("sentence_transformers", "x/y")])
def test_a_missing_package_names_its_extra(monkeypatch, package, kind):
    from toolscaler.data import ToolDocument
    from toolscaler.errors import MissingDependencyError

    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    documents = [ToolDocument(name="a_tool"), ToolDocument(name="b_tool")]
    make = baselines.BM25Retriever if kind == "bm25" else lambda rows: baselines.EmbeddingRetriever(rows, kind)
    with pytest.raises(MissingDependencyError, match=rf"'{package}'.*toolscaler\[eval\]"):
        make(documents)
