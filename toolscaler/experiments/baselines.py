"""Systems that learn nothing from queries: BM25 and embedding similarity (paper section 5.1)."""

from __future__ import annotations

from toolscaler.experiments.systems import JobContext, LoadedSystem, SystemKind, register_system


def _bm25(context: JobContext) -> LoadedSystem:
    from toolscaler.evaluation.baselines import BM25Retriever

    return LoadedSystem(BM25Retriever(context.data.documents, **context.options))


def _embsim(context: JobContext) -> LoadedSystem:
    from toolscaler.evaluation.baselines import EmbeddingRetriever

    retriever = EmbeddingRetriever(context.data.documents, **{"encoder": "lsa", **context.options})
    facts = {"dimensions": int(retriever.embeddings.shape[1])}
    return LoadedSystem(retriever, facts=facts)


register_system(SystemKind("bm25", _bm25, options=("k1", "b")))
register_system(
    SystemKind(
        "embsim",
        _embsim,
        options=("encoder", "batch_size", "query_prefix", "document_prefix"),
        model_options=("encoder",),
    )
)
