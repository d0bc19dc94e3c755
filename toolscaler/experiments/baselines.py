"""The baselines: BM25, embedding similarity, and a bi-encoder that learns from the same pairs (paper section 5.1)."""

from __future__ import annotations

from typing import Any

from toolscaler.experiments.systems import JobContext, LoadedSystem, SystemKind, register_system


def _bm25(context: JobContext) -> LoadedSystem:
    from toolscaler.evaluation.baselines import BM25Retriever

    return LoadedSystem(BM25Retriever(context.data.documents, **context.options))


def _embsim(context: JobContext) -> LoadedSystem:
    from toolscaler.evaluation.baselines import EmbeddingRetriever

    retriever = EmbeddingRetriever(context.data.documents, **{"encoder": "lsa", **context.options})
    facts = {"dimensions": int(retriever.embeddings.shape[1])}
    return LoadedSystem(retriever, facts=facts)


def _train_tool_retriever(context: JobContext) -> dict[str, Any]:
    from toolscaler.evaluation.baselines import train_tool_retriever

    retriever = train_tool_retriever(
        _encoder(context),
        context.data.documents,
        context.data.queries("train"),
        _settings(context),
        output_dir=context.folder,
        resume=True,
    )
    return _trained_facts(context, retriever)


def _encoder(context: JobContext) -> str:
    """Give the encoder to train: the option's, else the base itself, which may have been made by an earlier job."""
    if "encoder" in context.options:
        return str(context.options["encoder"])
    made = context.needs.get("prepare")
    return str(context.places["base"] if made is None else made / "base" / "model")


def _settings(context: JobContext) -> Any:
    """Give the bi-encoder's settings: the common budget, unless an option says otherwise."""
    from toolscaler.evaluation.baselines import ToolRetrieverConfig

    budget = context.spec.get("budget", {})
    common = {"max_steps": budget.get("steps"), "batch_size": budget.get("batch")}
    own = {key: value for key, value in context.options.items() if key != "encoder"}
    given = {key: value for key, value in common.items() if value is not None}
    return ToolRetrieverConfig(**{"seed": context.seed, **given, **own})


def _trained_facts(context: JobContext, retriever: Any) -> dict[str, Any]:
    from toolscaler._files import read_json

    record = read_json(context.folder / "model" / "tool_retriever.json", what="the record of a trained retriever")
    settings, training = record["config"], record.get("training", {})
    steps = training.get("steps")
    parameters = [value for value in retriever.encoder.parameters() if value.requires_grad]
    return {
        "retrieval_steps": steps,
        "retrieval_examples": None if steps is None else steps * settings["batch_size"],
        "retrieval_train_seconds": training.get("seconds"),
        "trainable_parameters": sum(value.numel() for value in parameters),
        "parameters": sum(value.numel() for value in retriever.encoder.parameters()),
    }


def _tool_retriever(context: JobContext) -> LoadedSystem:
    from toolscaler.evaluation.baselines import load_tool_retriever

    retriever: Any = load_tool_retriever(context.needs["train"], context.data.documents)
    return LoadedSystem(retriever, facts={"dimensions": int(retriever.embeddings.shape[1])})


register_system(SystemKind("bm25", _bm25, options=("k1", "b")))
register_system(
    SystemKind(
        "embsim",
        _embsim,
        options=("encoder", "batch_size", "query_prefix", "document_prefix"),
        model_options=("encoder",),
    )
)
register_system(
    SystemKind(
        "tool_retriever",
        _tool_retriever,
        _train_tool_retriever,
        uses_base=True,
        uses_seed=True,
        options=(
            *("encoder", "num_epochs", "max_steps", "batch_size", "learning_rate", "warmup", "weight_decay", "scale"),
            *("max_length", "hard_negatives", "num_negatives", "negatives_depth", "query_prefix", "document_prefix"),
            "save_steps",
        ),
        model_options=("encoder",),
    )
)
