"""Light adaptation: added tools and old queries go in, a model that knows both, and what it forgot, come out.

Not in the paper, whose appendix A adds tools without training.
"""

from __future__ import annotations

import glob
import logging
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler.catalogue.checking import CatalogueCheck, check_added_tools, synthetic_queries
from toolscaler.data.queries import ToolQuery
from toolscaler.data.rows import document_prompts, retrieval_rows
from toolscaler.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolscaler.catalogue.catalogue import ToolCatalogue
    from toolscaler.catalogue.log import LogEntry
    from toolscaler.data.documents import ToolDocument
    from toolscaler.training import RetrievalConfig

logger = logging.getLogger(__name__)

# No light adaptation takes this long.
_ABANDONED_SECONDS = 7 * 86_400.0
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Adaptation:
    """What an adaptation did.

    Attributes:
        entry: Its entry of the log.
        tools: Ids of the tools that were learnt.
        rows: Training rows of these tools.
        rehearsal: Training rows of old queries.
        steps: Optimiser steps.
        before: The model before, on the queries to measure; ``None`` where there were none.
        after: The model afterwards, on the same queries. ``before.old_first_after - after.old_first_after`` is what it
            forgot, query by query.
    """

    entry: LogEntry
    tools: tuple[str, ...]
    rows: int
    rehearsal: int
    steps: int
    before: CatalogueCheck | None = None
    after: CatalogueCheck | None = None


def default_config(folder: str) -> RetrievalConfig:
    """Give the settings of a light adaptation: LoRA and code rows, three epochs, no checkpoints."""
    from toolscaler.training.retrieval import RetrievalConfig

    return RetrievalConfig(
        output_dir=folder,
        num_train_epochs=3,
        learning_rate=3e-4,
        use_lora=True,
        lora_r=16,
        lora_alpha=32,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=1,
        save_strategy="no",
        disable_tqdm=True,
    )


def adaptation_rows(
    documents: Sequence[ToolDocument],
    queries: Sequence[ToolQuery],
    rehearsal: Sequence[ToolQuery],
    code_text: dict[str, str],
    *,
    ratio: float = 1.0,
    seed: int = 0,
) -> tuple[list[Any], list[Any]]:
    """Make the training rows.

    Args:
        documents: Documents of the added tools; each gives a row a name, description and sentence, and a few templates.
        queries: Labelled queries for added tools; labels that are no added tool are passed over.
        rehearsal: Labelled queries for the others; labels that are gone or added are passed over.
        code_text: Tool id -> codes as text.
        ratio: Rehearsal rows for each row of an added tool, as far as there are that many.
        seed: Of the draw.

    Returns:
        Rows of added tools and rows of rehearsal, in random order.
    """
    added = {item.id for item in documents}
    new = list(retrieval_rows(_labelled(queries, added), code_text))
    for item in documents:
        texts = [*document_prompts(item), *(query.text for query in synthetic_queries([item], 4))]
        new += [{"prompt": text, "completion": code_text[item.id]} for text in dict.fromkeys(texts)]
    old = list(retrieval_rows(_labelled(rehearsal, code_text.keys() - added), code_text))
    draw = random.Random(seed)
    draw.shuffle(old)
    draw.shuffle(new)
    return new, old[: round(ratio * len(new))]


def adapt_model(
    catalogue: ToolCatalogue,
    rehearsal: Sequence[ToolQuery],
    *,
    queries: Sequence[ToolQuery] = (),
    ratio: float = 1.0,
    config: RetrievalConfig | None = None,
    check_added: Sequence[ToolQuery] = (),
    check_old: Sequence[ToolQuery] = (),
    k: int = 5,
    note: str = "",
) -> Adaptation:
    """See :meth:`toolscaler.catalogue.ToolCatalogue.adapt`."""
    from toolscaler.decoding import GenerativeRetriever
    from toolscaler.training.retrieval import retrieval_trainer

    tools = catalogue.untrained
    documents = [item for item in map(catalogue.document, tools) if item is not None]
    if not tools:
        raise CatalogueError("expected tools that were added since the training, found none")
    if len(documents) < len(tools):
        raise CatalogueError(f"expected the documents of {len(tools)} added tools, found {len(documents)}")
    if not rehearsal and ratio > 0:
        raise CatalogueError("rehearsal: expected old queries, without which a model forgets; ratio=0 does without")
    if not list(catalogue.folder.glob("model*.safetensors")):
        raise CatalogueError("expected a model with all its weights; an adapter is trained with the retrieval command")
    model = GenerativeRetriever.from_pretrained(catalogue.folder)
    measured = bool(check_added or check_old)
    ids = (catalogue.tool_ids, tools)
    before = check_added_tools(model, *ids, check_added, check_old, k=k) if measured else None
    code_text = {name: model.tokenizer.tool_code_text(name) for name in catalogue.tool_ids}
    state = catalogue.index
    with _work_folder(catalogue.folder) as work:
        settings = config if config is not None else default_config(str(work / "training"))
        new, old = adaptation_rows(documents, queries, rehearsal, code_text, ratio=ratio, seed=settings.seed)
        trainer = retrieval_trainer(model.model, model.tokenizer, [*new, *old], settings)
        trainer.train()
        trained = trainer.accelerator.unwrap_model(trainer.model)
        if hasattr(trained, "merge_and_unload"):
            trained = trained.merge_and_unload()
        trained.save_pretrained(work / "model")
        after = None
        if measured:
            adapted = GenerativeRetriever(trained.eval(), model.tokenizer)
            after = check_added_tools(adapted, *ids, check_added, check_old, k=k)
        files = {path.name: path for pattern in _WEIGHTS for path in (work / "model").glob(pattern)}
        entry = catalogue.commit_weights(files, _WEIGHTS, state, note=note)
    return Adaptation(entry, tools, len(new), len(old), trainer.state.global_step, before, after)


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """Give a folder on the same file system, so that weights need not be copied; what killed runs left is deleted."""
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*.work"):
        if time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".work", dir=folder.parent) as name:
        yield Path(name)


def _labelled(queries: Sequence[ToolQuery], tools: Any) -> list[ToolQuery]:
    """Leave only some labels of queries."""
    kept = ((query, tuple(tool for tool in query.tools if tool in tools)) for query in queries)
    return [ToolQuery(query.text, labels) for query, labels in kept if labels]
