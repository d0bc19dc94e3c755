"""The trainer of the bi-encoder: sentence-transformers' own, with batches that hold no false negatives."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers.trainer_callback import PrinterCallback

from toolscaler.evaluation.baselines.pairs import ConflictFreeBatches, TrainingPairs

if TYPE_CHECKING:
    from toolscaler.evaluation.baselines.tool_retriever import ToolRetrieverConfig

try:  # sentence-transformers 6 has moved it
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
except ImportError:
    from sentence_transformers.losses import MultipleNegativesRankingLoss


class PairTrainer(SentenceTransformerTrainer):
    """The trainer; its batches come from :class:`~toolscaler.evaluation.baselines.pairs.ConflictFreeBatches`."""

    def __init__(self, *args: Any, pairs: TrainingPairs, **kwargs: Any) -> None:
        self._pairs = pairs
        super().__init__(*args, **kwargs)

    def get_batch_sampler(self, dataset: Any, batch_size: int, *_: Any, **__: Any) -> ConflictFreeBatches:
        """Give the batches of an epoch; called by the trainer."""
        return ConflictFreeBatches(self._pairs, batch_size, self.args.seed)

    def add_model_card_callback(self, *_: Any, **__: Any) -> None:
        """Write no card: it would run the encoder over examples, and a baseline has a record of its own."""


def train_bi_encoder(
    model: Any, pairs: TrainingPairs, config: ToolRetrieverConfig, folder: Path, *, keep: bool, show_progress: bool
) -> dict[str, float]:
    """Train an encoder in place; goes on from the last whole checkpoint in ``folder`` where there is one.

    Args:
        model: A ``SentenceTransformer``.
        pairs: The rows.
        config: Settings.
        folder: Where checkpoints are.
        keep: Whether to write checkpoints.
        show_progress: Show a progress bar.

    Returns:
        ``loss``: mean training loss (since the checkpoint, where it went on from one); ``steps``; ``examples``: rows
        in the batches of all steps; ``seconds`` of this run.
    """
    model.model_card_data.local_files_only = True  # a card of a baseline is worth no request to the Hub
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.num_epochs,
        max_steps=-1 if config.max_steps is None else config.max_steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup,
        lr_scheduler_type="linear",
        weight_decay=config.weight_decay,
        seed=config.seed,
        save_strategy="no" if not keep else "epoch" if config.save_steps is None else "steps",
        save_steps=config.save_steps or 500,
        save_total_limit=2,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=not show_progress,
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
    )
    trainer = PairTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict(pairs.columns()),
        loss=MultipleNegativesRankingLoss(model, scale=config.scale),
        pairs=pairs,
    )
    trainer.remove_callback(PrinterCallback)  # it prints where no progress bar is wanted
    done = trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder))
    model.eval()
    return {
        "loss": float(done.training_loss),
        "steps": done.global_step,
        "examples": _examples(pairs, config, done.global_step),
        "seconds": done.metrics["train_runtime"],
    }


def _examples(pairs: TrainingPairs, config: ToolRetrieverConfig, steps: int) -> int:
    """Count the rows of the first steps: a batch may be smaller than asked for, where further rows would conflict."""
    batches, count, epoch = ConflictFreeBatches(pairs, config.batch_size, config.seed), 0, 0
    while steps > 0:
        batches.set_epoch(epoch)
        sizes = [len(batch) for batch in itertools.islice(batches, steps)]
        count, steps, epoch = count + sum(sizes), steps - len(sizes), epoch + 1
    return count


def last_whole_checkpoint(folder: Path) -> str | None:
    """Give the newest checkpoint that was written to its end; the Trainer writes its state last."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(found, key=lambda path: -int(path.name.removeprefix("checkpoint-"))):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(path)
    return None
