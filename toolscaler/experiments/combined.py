"""Systems made of others: a draft that the generative model verifies, and reciprocal-rank fusion."""

from __future__ import annotations

from typing import Any

from toolscaler.experiments.systems import JobContext, LoadedSystem, SystemKind, register_system


def _hybrid(context: JobContext) -> LoadedSystem:
    from toolscaler.decoding import HybridRetriever

    draft, model = context.load_part("draft"), context.load_part("model")
    options = dict(context.options)
    # Tools without a training query: the model has seen their documents at most.
    unseen = without_training(context) if options.pop("unseen", True) else ()
    max_loss = options.pop("max_loss", None)
    options = {"num_beams": context.evaluation.get("beams"), **options}
    retriever: Any = HybridRetriever(draft.retriever, model.retriever, unseen=unseen, **options)  # type: ignore[arg-type]
    facts = {"unseen_tools": len(unseen), **model.facts}
    if max_loss is not None and unseen:
        known = context.data.queries("validation")
        facts["temperature"] = retriever.calibrate([q.text for q in known], [q.tools for q in known], max_loss=max_loss)
        facts["unseen_weight"] = retriever.unseen_weight
    return LoadedSystem(retriever, facts=facts)


def without_training(context: JobContext) -> tuple[str, ...]:
    """Give the tools of the catalogue that no training query names."""
    trained = {tool for query in context.data.queries("train") for tool in query.tools}
    return tuple(document.id for document in context.data.documents if document.id not in trained)


def _fusion(context: JobContext) -> LoadedSystem:
    from toolscaler.decoding import FusionRetriever

    parts = [context.load_part(role) for role in context.spec["parts"]]
    return LoadedSystem(FusionRetriever([part.retriever for part in parts], **context.options))


register_system(
    SystemKind(
        "hybrid",
        _hybrid,
        options=(
            "draft_k",
            "mode",
            "alpha",
            "normalise",
            "temperature",
            "union_k",
            "unseen",
            "hold_unseen",
            "max_loss",
        ),
        roles=("draft", "model"),
    )
)
register_system(SystemKind("fusion", _fusion, options=("k", "weights", "depth"), roles=None))
