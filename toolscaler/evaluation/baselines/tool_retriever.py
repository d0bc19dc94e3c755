"""ToolRetriever: a bi-encoder trained on the same query-tool pairs as the generative model (the paper's baseline)."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from toolscaler._files import atomic_folder, read_json, write_json
from toolscaler._optional import require
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.decoding import Retriever
from toolscaler.errors import ArtifactError, ConfigError, TrainingError
from toolscaler.evaluation.baselines.bm25 import BM25Retriever
from toolscaler.evaluation.baselines.catalogue import document_text
from toolscaler.evaluation.baselines.embedding import EmbeddingRetriever
from toolscaler.evaluation.baselines.pairs import TrainingPairs, training_pairs, with_hard_negatives

logger = logging.getLogger(__name__)

#: Version of the layout of ``tool_retriever.json`` that this library writes and reads.
FORMAT_VERSION = 1
_FILE = "tool_retriever.json"

HardNegatives = Literal["none", "bm25", "self"]


@dataclass(frozen=True)
class ToolRetrieverConfig:
    """Settings of the bi-encoder. Defaults are those of ToolBench's retriever (5 epochs, 2e-5, 256 tokens).

    Attributes:
        num_epochs: Epochs.
        max_steps: Steps in all, whatever the epochs; ``None``: by epochs. For comparisons at equal budget.
        batch_size: Pairs a step; each query's negatives are the other pairs' documents.
        learning_rate: Peak of a linear schedule.
        warmup: Warm-up; below 1, a share of all steps.
        weight_decay: Of AdamW.
        scale: Factor of the cosine in the softmax: the inverse temperature.
        max_length: Longest text, in tokens.
        hard_negatives: ``none``; ``bm25``: what BM25 ranks high and is not relevant; ``self``: what the base, before
            training, ranks high.
        num_negatives: Hard negatives a pair.
        negatives_depth: They are drawn from this many of the best.
        query_prefix: Put before every query, for bases that were trained with one.
        document_prefix: Put before every document.
        save_steps: Steps between checkpoints; ``None``: one an epoch.
        seed: Seed of order, dropout and draw.

    Raises:
        ConfigError: A value is out of range.
    """

    num_epochs: float = 5.0
    max_steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    scale: float = 20.0
    max_length: int = 256
    hard_negatives: HardNegatives = "none"
    num_negatives: int = 1
    negatives_depth: int = 30
    query_prefix: str = ""
    document_prefix: str = ""
    save_steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for key, least in (("batch_size", 2), ("max_length", 1), ("num_negatives", 1), ("negatives_depth", 1)):
            _check(key, getattr(self, key), least, whole=True)
        for key in ("max_steps", "save_steps"):
            if getattr(self, key) is not None:
                _check(key, getattr(self, key), 1, whole=True)
        for key in ("num_epochs", "learning_rate", "scale", "warmup", "weight_decay"):
            _check(key, getattr(self, key), 0, whole=False)
        if self.hard_negatives not in get_args(HardNegatives):
            raise ConfigError("hard_negatives", self.hard_negatives, f"one of {', '.join(get_args(HardNegatives))}")


def train_tool_retriever(
    base: Any,
    documents: Sequence[ToolDocument],
    queries: Sequence[ToolQuery],
    config: ToolRetrieverConfig | None = None,
    *,
    output_dir: str | Path | None = None,
    catalogue: Sequence[ToolDocument] | None = None,
    text: Callable[[ToolDocument], str] = document_text,
    resume: bool = False,
    show_progress: bool = False,
) -> EmbeddingRetriever:
    """Train a bi-encoder with in-batch negatives, and rank by cosine (Qin et al. 2023; paper appendix C).

    The loss of a pair is the cross-entropy of its document among all documents of the batch, with logits
    ``scale * cos(query, document)``. No batch holds a document that is relevant for another of its queries, nor the
    same document twice (:class:`~toolscaler.evaluation.baselines.pairs.ConflictFreeBatches`).

    Args:
        base: Name or folder of an encoder (one of sentence-transformers, or any with mean pooling added), or a
            ``SentenceTransformer``, which is trained in place.
        documents: The tools that queries are trained on. Hard negatives are among them.
        queries: Labelled queries; one pair a relevant tool.
        config: Settings; default: ToolBench's.
        output_dir: Where the encoder (``model/``) and checkpoints are written; default: nowhere.
        catalogue: The tools to rank; default: ``documents``. Tools added after training are ranked too.
        text: What of a document is encoded.
        resume: Go on from what is in ``output_dir``: a finished encoder is loaded, an unfinished one trained further
            from its last checkpoint. Without it, a new training starts.
        show_progress: Show progress bars.

    Returns:
        The trained retriever over ``catalogue``.

    Raises:
        UnknownToolError: A label is no document.
        TrainingError: No query has a label; or ``output_dir`` holds a training of other data or settings.
        ConfigError: The base is no encoder, or a setting does not fit the data.
        MissingDependencyError: sentence-transformers (extra ``eval``) or datasets and accelerate (extra ``train``) are
            not installed.
    """
    config = config if config is not None else ToolRetrieverConfig()
    for module, extra in (("sentence_transformers", "eval"), ("datasets", "train"), ("accelerate", "train")):
        require(module, extra=extra, purpose="train_tool_retriever")
    pairs = training_pairs(documents, [config.document_prefix + text(document) for document in documents], queries)
    facts = {
        "format_version": FORMAT_VERSION,
        "base": base if isinstance(base, str) else str(base) if isinstance(base, Path) else type(base).__name__,
        "config": asdict(config),
        "pairs": len(pairs),
        "data_sha256": _fingerprint(pairs),
    }
    wanted = list(catalogue if catalogue is not None else documents)
    folder = None if output_dir is None else Path(output_dir)
    if folder is not None and resume and (folder / "model" / _FILE).is_file():
        _check_same(facts, read_json(folder / "model" / _FILE), folder)
        return load_tool_retriever(folder, wanted, text=text, show_progress=show_progress)
    model = _load_base(base)
    model.max_seq_length = config.max_length
    pairs = _with_negatives(pairs, model, config)
    if folder is None:
        with tempfile.TemporaryDirectory() as place:
            _train(model, pairs, config, Path(place), keep=False, show_progress=show_progress)
    else:
        _prepare(folder, facts, resume)
        result = _train(model, pairs, config, folder / "checkpoints", keep=True, show_progress=show_progress)
        with atomic_folder(folder / "model") as place:
            model.save_pretrained(str(place), create_model_card=False)
            write_json(place / _FILE, {**facts, "training": result})
    return _retriever(model, wanted, config, text, show_progress)


def load_tool_retriever(
    folder: str | Path,
    documents: Sequence[ToolDocument],
    *,
    text: Callable[[ToolDocument], str] = document_text,
    show_progress: bool = False,
) -> EmbeddingRetriever:
    """Load what :func:`train_tool_retriever` has written, for any catalogue.

    Args:
        folder: Its ``output_dir``.
        documents: The tools to rank.
        text: As in training.
        show_progress: Show a progress bar.

    Raises:
        ArtifactError: There is no finished encoder, or one of a newer version, or its record is damaged.
    """
    path = Path(folder) / "model" / _FILE
    facts = read_json(path, what="the record of a trained retriever")
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION:
        raise ArtifactError(f"expected format version {FORMAT_VERSION}, got {version!r}; update toolscaler", path=path)
    try:
        config = ToolRetrieverConfig(**facts["config"])
    except (KeyError, TypeError, ConfigError) as error:
        names = ", ".join(field.name for field in fields(ToolRetrieverConfig))
        raise ArtifactError(f"expected a config with {names}; got: {error}", path=path) from error
    return _retriever(_load_base(path.parent), documents, config, text, show_progress)


def _retriever(
    model: Any,
    documents: Sequence[ToolDocument],
    config: ToolRetrieverConfig,
    text: Callable[[ToolDocument], str],
    show_progress: bool,
) -> EmbeddingRetriever:
    return EmbeddingRetriever(
        documents,
        model,
        text=text,
        query_prefix=config.query_prefix,
        document_prefix=config.document_prefix,
        show_progress=show_progress,
    )


def _train(
    model: Any, pairs: TrainingPairs, config: ToolRetrieverConfig, folder: Path, *, keep: bool, show_progress: bool
) -> dict[str, float]:
    from toolscaler.evaluation.baselines.bi_encoder import train_bi_encoder

    if config.query_prefix:
        anchors = [config.query_prefix + anchor for anchor in pairs.anchors]
        pairs = TrainingPairs(anchors, pairs.texts, pairs.positives, pairs.negatives, pairs.labels)
    return train_bi_encoder(model, pairs, config, folder, keep=keep, show_progress=show_progress)


def _with_negatives(pairs: TrainingPairs, model: Any, config: ToolRetrieverConfig) -> TrainingPairs:
    if config.hard_negatives == "none":
        return pairs
    # Texts as documents of their own: equal texts of several tools are one, and ids are row numbers.
    numbered = [ToolDocument(name=str(row), description=text) for row, text in enumerate(pairs.texts)]
    miner: Retriever
    if config.hard_negatives == "bm25":
        miner = BM25Retriever(numbered, text=lambda document: document.description)
    else:
        prefix = config.query_prefix
        miner = EmbeddingRetriever(numbered, model, text=lambda document: document.description, query_prefix=prefix)
    return with_hard_negatives(pairs, miner, config.num_negatives, depth=config.negatives_depth, seed=config.seed)


def _load_base(base: Any) -> Any:
    package = require("sentence_transformers", extra="eval", purpose="train_tool_retriever")
    if isinstance(base, package.SentenceTransformer):
        return base
    if not isinstance(base, str | Path):
        raise ConfigError("base", base, "a name, a folder or a SentenceTransformer")
    try:
        return package.SentenceTransformer(str(base))
    except (OSError, ValueError) as error:
        raise ConfigError("base", str(base), f"an encoder that sentence-transformers can load: {error}") from error


def _fingerprint(pairs: TrainingPairs) -> str:
    rows = [[anchor, pairs.texts[row]] for anchor, row in zip(pairs.anchors, pairs.positives.tolist(), strict=True)]
    text = json.dumps([rows, pairs.texts], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _prepare(folder: Path, facts: dict[str, Any], resume: bool) -> None:
    """Make the folder of a training, or check that it is the same one."""
    record, checkpoints = folder / "checkpoints" / _FILE, folder / "checkpoints"
    if resume and record.is_file():
        _check_same(facts, read_json(record), folder)
        return
    if checkpoints.is_dir() and any(checkpoints.glob("checkpoint-*")):
        raise TrainingError(
            f"{folder}: expected no checkpoints, got those of an earlier training; go on with resume=True, "
            "or delete them"
        )
    write_json(record, facts)


def _check_same(facts: dict[str, Any], found: Any, folder: Path) -> None:
    for key, value in facts.items():
        if not isinstance(found, dict) or found.get(key) != value:
            other = found.get(key) if isinstance(found, dict) else found
            raise TrainingError(
                f"{folder}: it holds a training with another {key} ({other!r:.200}, now {value!r:.200}); name another "
                "folder, or delete it"
            )


def _check(key: str, value: object, least: float, *, whole: bool) -> None:
    good = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not good or not least <= value < float("inf"):  # type: ignore[operator]
        raise ConfigError(key, value, f"a {'whole ' if whole else ''}number of at least {least}")
