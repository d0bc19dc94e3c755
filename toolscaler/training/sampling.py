"""Which rows make a step: the same ones however many processes share it, and of like length in a micro-batch.

transformers fills the last step of an epoch with rows from its beginning where processes would get unequal numbers of
them, which is another loss than one process has. Here it is filled with rows that count nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

#: Label of positions that carry no loss.
IGNORE_INDEX = -100


class StepSampler(Sampler[int]):
    """Draw a new order of the rows each epoch, the order that accelerate's own sampler draws.

    Args:
        count: Rows of the data set.
        rows_a_step: Rows that make an optimizer step, over all processes and accumulated batches.
        rows_a_round: Rows that all processes take at once; the order is filled to a multiple of it with the number
            ``count``, which is the blank row of :class:`FilledDataset`.
        seed: Seed of the first epoch; later ones count on from it.
        lengths: Length of each row. Given, the rows of each step are sorted by it, longest first: micro-batches then
            hold rows of like length, and the step is the same sum.
    """

    def __init__(
        self,
        count: int,
        *,
        rows_a_step: int,
        rows_a_round: int = 1,
        seed: int = 0,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.count, self.rows_a_step, self.rows_a_round = count, rows_a_step, rows_a_round
        self.seed, self.epoch = seed, 0
        self.lengths = None if lengths is None else np.asarray(lengths)

    def __len__(self) -> int:
        return -(-self.count // self.rows_a_round) * self.rows_a_round

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.count, generator=generator).numpy()
        if self.lengths is not None:
            for start in range(0, self.count, self.rows_a_step):
                part = order[start : start + self.rows_a_step]
                order[start : start + self.rows_a_step] = part[np.argsort(-self.lengths[part], kind="stable")]
        yield from order.tolist()
        yield from [self.count] * (len(self) - self.count)
        self.epoch += 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; a resumed run calls this."""
        self.epoch = epoch


class FilledDataset(Dataset[Any]):
    """A data set with one row more, under the number ``len(rows)``, that counts nowhere.

    Args:
        rows: The data set.
        blank: That row.
    """

    def __init__(self, rows: Any, blank: Any) -> None:
        self.rows, self.blank = rows, blank

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        return self.blank if number == len(self.rows) else self.rows[number]


class EvenSteps:
    """Mixin for a ``transformers.Trainer``: an epoch's steps are those of one process with the same rows a step.

    Attributes:
        sorts_rows: Whether the rows of a step are sorted by length.
    """

    sorts_rows: bool = False
    args: Any
    train_dataset: Any
    accelerator: Any

    def blank_row(self) -> Any:
        """Give a row of the training data's form whose labels are all ignored."""
        row = {name: value[:1] for name, value in self.train_dataset[0].items() if isinstance(value, list)}
        lengths = {"seq_lengths": [1]} if "seq_lengths" in row else {}  # of packed rows
        return {**row, **lengths, "labels": [IGNORE_INDEX]}

    def row_lengths(self) -> list[int]:
        """Give the tokens of each training row."""
        return [len(row) for row in self.train_dataset["input_ids"]]

    def get_train_dataloader(self) -> DataLoader:
        """Give the training batches; with several processes, of data that has a blank row."""
        if self.accelerator.num_processes == 1 or not self._orders():
            return super().get_train_dataloader()  # type: ignore[misc]
        rows = self.train_dataset
        if hasattr(rows, "column_names"):
            rows = self._remove_unused_columns(rows, description="training")  # type: ignore[attr-defined]
        return self._get_dataloader(  # type: ignore[attr-defined]
            dataset=FilledDataset(rows, self.blank_row()),
            description="Training",
            batch_size=self._train_batch_size,  # type: ignore[attr-defined]
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _orders(self) -> bool:
        """Say whether the order is this class's: one by another strategy, or of a stream, is left to transformers."""
        several = self.accelerator.num_processes > 1
        strategy = str(getattr(self.args, "train_sampling_strategy", "random"))
        return (several or self.sorts_rows) and strategy == "random" and hasattr(self.train_dataset, "__len__")

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self._orders():
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        args, processes = self.args, self.accelerator.num_processes
        at_once = args.train_batch_size * processes
        return StepSampler(
            len(self.train_dataset),
            rows_a_step=at_once * args.gradient_accumulation_steps,
            rows_a_round=at_once if processes > 1 else 1,
            seed=args.seed if args.data_seed is None else args.data_seed,
            lengths=self.row_lengths() if self.sorts_rows else None,
        )
