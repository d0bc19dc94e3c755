"""Post-guided training (section 4.2): a tuned model and a fresh compressor go in, gists that usage has shaped come out.

Round t trains the gist and task embeddings and a fresh stage-1 adapter with L_tool + w L_traj. L_tool is stage 1's
loss. L_traj is the trajectory loss under the frozen theta_{t-1} whose code rows are computed from the current gist
outputs; :mod:`toolscaler.training.post_guided_guide` says which network computes what, and what stands at codes.
After each epoch the catalogue is encoded again and a new codebook replaces the one before.

Choices where the paper is silent: both losses are means over their own tokens; an epoch is one pass over the
documents, each of which brings a fixed number of rows of L_traj with it; 6 epochs, about where the paper's stage 1
stopped; the first codebook is fitted to the untrained compressor's gists unless one is given.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import Trainer, TrainerCallback, set_seed

from toolscaler.codebook import CatalogueSizeWarning, Codebook
from toolscaler.compression import encode_documents, persistence
from toolscaler.compression.modeling import GistForToolCompression
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.errors import CodebookError, CompressionError, ConfigError, TrainingError
from toolscaler.training import compression as stage_one
from toolscaler.training.compression import CompressionConfig
from toolscaler.training.partition import is_partitioned
from toolscaler.training.post_guided_codes import CACHE_FILE, CodeRowBank
from toolscaler.training.post_guided_data import GuidedCollator, GuidedDataset, GuidedItem
from toolscaler.training.post_guided_guide import IGNORE_INDEX, FrozenGuide
from toolscaler.training.sampling import EvenSteps
from toolscaler.training.trajectory_data import Truncation

if TYPE_CHECKING:
    from toolscaler.tokenization import ToolscalerTokenizer

logger = logging.getLogger(__name__)

_LIVE = ("live_tools",)
_COMPRESSOR = ("input_ids", "attention_mask", "labels", "task_ids", "document_index")


@dataclass
class PostGuidedConfig(CompressionConfig):
    """Settings of post-guided training: those of stage 1, and what L_traj needs.

    Other defaults than in stage 1: 6 epochs, and every document is trained on. With ``validation_share`` above 0, early
    stopping watches L_tool of the held-out documents as in stage 1.

    Attributes:
        trajectory_weight: Weight of L_traj (paper: 1). 0 trains stage 1 alone.
        rows_per_document: Rows of L_traj that go with each document of a batch.
        max_live_tools: Tools a device and step that are compressed with gradient, those of the batch's own documents
            among them; mentions of further tools are rows without gradient. 0: no limit.
        code_targets: ``current``: labels and output rows at code positions are those of the current codebook;
            ``previous``: theta_{t-1}'s own (:mod:`toolscaler.training.post_guided_guide`).
        scale: How code rows are scaled, as in :func:`toolscaler.initialize_code_embeddings`.
        max_length: Longest row of L_traj, in tokens (paper: 6,144).
        truncation: What happens to longer trajectories.

    Raises:
        ConfigError: A value is not allowed.
    """

    num_train_epochs: float = field(default=6, metadata={"help": "Epochs; a new codebook after each."})
    validation_share: float = field(default=0.0, metadata={"help": "Share of the documents for validation."})
    trajectory_weight: float = field(default=1.0, metadata={"help": "Weight of L_traj (paper: 1)."})
    rows_per_document: int = field(default=1, metadata={"help": "Rows of L_traj with each document."})
    max_live_tools: int = field(default=64, metadata={"help": "Tools a step with gradient; 0: no limit."})
    code_targets: str = field(default="current", metadata={"help": "Labels at codes: current or previous."})
    scale: str = field(default="match", metadata={"help": "Scale of code rows: match or none."})
    max_length: int | None = field(default=6144, metadata={"help": "Longest row of L_traj, in tokens."})
    truncation: str = field(default="drop_turns", metadata={"help": f"One of {', '.join(get_args(Truncation))}."})

    def _check(self) -> None:
        super()._check()
        for key, allowed in (
            ("code_targets", ("current", "previous")),
            ("scale", ("match", "none")),
            ("truncation", get_args(Truncation)),
        ):
            if getattr(self, key) not in allowed:
                raise ConfigError(key, getattr(self, key), f"one of {', '.join(allowed)}")
        if self.trajectory_weight < 0:
            raise ConfigError("trajectory_weight", self.trajectory_weight, "0 or more")
        for key, least in (("rows_per_document", 1), ("max_live_tools", 0)):
            if getattr(self, key) < least:
                raise ConfigError(key, getattr(self, key), f"at least {least}")


class PostGuidedTrainer(EvenSteps, Trainer):
    """Stage 1's Trainer with L_traj beside L_tool, and a new codebook after each epoch.

    Make one with :func:`post_guided_trainer`. Checkpoints hold the codebook and the cached gist outputs, so that a
    resumed run ends with the weights of an unbroken one.

    Attributes:
        bank: The current codebook with the gist outputs it is used with; ``None`` before training.
        guide: theta_{t-1}.
        catalogue: All documents, in the codebook's order.
        codebook_options: Arguments of :meth:`toolscaler.Codebook.fit`.
    """

    bank: CodeRowBank | None = None

    def __init__(
        self,
        *args: Any,
        guide: FrozenGuide,
        catalogue: Sequence[ToolDocument],
        codebook_options: Mapping[str, Any],
        first_codebook: Codebook | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.guide, self.catalogue = guide, list(catalogue)
        self.codebook_options, self._first_codebook = dict(codebook_options), first_codebook
        self._row_tokens: torch.Tensor | None = None
        self._parts: dict[str, list[torch.Tensor]] = {"tool_loss": [], "trajectory_loss": []}
        guide.model.to(self.args.device)
        self.add_callback(_NewCodebook(self))

    # ---- the loss ----

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Give L_tool + w L_traj (paper section 4.2); in evaluation L_tool alone.

        Every tool of the batch is compressed once. Over accumulated or distributed batches each mean is over all their
        counted tokens.
        """
        outputs = model(**{name: inputs[name] for name in _COMPRESSOR}, num_items_in_batch=num_items_in_batch)
        loss = outputs.loss
        scaled = self.args.average_tokens_across_devices and num_items_in_batch is not None
        factor = self.accelerator.num_processes if scaled else 1
        if model.training:
            self._parts["tool_loss"].append(loss.detach() * factor)
            if "trajectory_ids" in inputs:
                guided = self.trajectory_loss(outputs.gist_outputs, inputs)
                self._parts["trajectory_loss"].append(guided.detach() * factor)
                loss = loss + self.args.trajectory_weight * guided
        loss = loss * factor
        return (loss, outputs) if return_outputs else loss

    def trajectory_loss(self, gists: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Give L_traj of a batch as a mean over the counted tokens, and take the gist outputs over into the cache.

        Args:
            gists: Gist outputs of the live tools, (M, V, D), with gradient.
            inputs: A batch of :class:`~toolscaler.training.post_guided_data.GuidedCollator`.

        Raises:
            TrainingError: There is no codebook yet.
        """
        if self.bank is None:
            raise TrainingError("there is no codebook yet; call new_codebook() or train()")
        tools = inputs["live_tools"]
        everyone = self._gathered(gists.float(), tools)
        if (tools < 0).any():  # the document of a batch that counts nowhere
            gists, tools = gists[tools >= 0], tools[tools >= 0]
        # Rows are a matter of sums and small differences: float32, whatever the model computes in.
        with torch.autocast(gists.device.type, enabled=False):
            live = self.bank.rows(gists, tools, everyone)
            self.bank.update(*((gists, tools) if everyone is None else everyone))
        total, counted = self.guide.loss(inputs, self.bank, live)
        items = counted if self._row_tokens is None else self._row_tokens
        return total / items.to(total.device).clamp(min=1)

    def _gathered(self, gists: torch.Tensor, tools: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Give gist outputs and numbers of the tools that are live in any process, each tool once, or ``None``."""
        if self.accelerator.num_processes == 1 or not self.model.training:
            return None
        widest = int(self.accelerator.gather(torch.tensor([len(tools)], device=tools.device)).max())
        padding = widest - len(tools)
        values = _Gather.apply(torch.nn.functional.pad(gists, (0, 0, 0, 0, 0, padding)), self.accelerator)
        numbers = self.accelerator.gather(torch.nn.functional.pad(tools, (0, padding), value=-1))
        order = torch.argsort(numbers, stable=True)
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = numbers[order][1:] != numbers[order][:-1]
        kept = order[first & (numbers[order] >= 0)]
        return values[kept], numbers[kept]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Count the tokens of L_traj over the accumulated batch, as the parent does those of L_tool."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = [
            (batch["trajectory_labels"][:, 1:] != IGNORE_INDEX).sum() for batch in samples if "trajectory_ids" in batch
        ]
        self._row_tokens = torch.stack(counts).sum().to(device) if counts else torch.zeros((), device=device).long()
        if self.args.average_tokens_across_devices and self.accelerator.num_processes > 1:
            self._row_tokens = self.accelerator.gather(self._row_tokens[None]).sum()
        return samples, items

    def blank_row(self) -> GuidedItem:
        """Give an item without document and, where items have rows, with one that counts nowhere."""
        rows = ({"input_ids": [0], "labels": [IGNORE_INDEX]},) if self.train_dataset.rows_per_document else ()
        return GuidedItem(-1, rows)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log both parts of the loss beside their sum."""
        if "loss" in logs:
            steps = self.args.gradient_accumulation_steps
            for name, values in self._parts.items():
                if values:
                    mean = self.accelerator.gather(torch.stack(values).mean()[None]).mean()
                    logs[name] = round(float(mean) * steps, 6)
                    values.clear()
        super().log(logs, *args, **kwargs)

    # ---- the codebook ----

    def new_codebook(self, codebook: Codebook | None = None) -> Codebook:
        """Encode the catalogue with the compressor as it is, and fit a codebook that replaces the present one.

        Args:
            codebook: Take this one instead of a fit.

        Returns:
            The codebook in use, the same in every process.
        """
        gists = self._encode_catalogue()
        if codebook is None:
            shared: list[Any] = [None]
            if self.accelerator.is_main_process:
                with warnings.catch_warnings() if self.bank is not None else contextlib.nullcontext():
                    if self.bank is not None:  # said once is enough
                        warnings.simplefilter("ignore", CatalogueSizeWarning)
                    ids = [document.id for document in self.catalogue]
                    shared = [Codebook.fit(gists, ids, **self.codebook_options)]
            codebook = broadcast_object_list(shared)[0]
        if codebook.code_length != self.guide.code_length and self.guide.code_targets == "previous":
            raise TrainingError(
                f"code_targets='previous': expected a codebook of {self.guide.code_length} positions, as theta_(t-1) "
                f"has, got {codebook.code_length}"
            )
        self.bank = CodeRowBank(codebook, gists, self.args.device, epoch=round(self.state.epoch or 0))
        return codebook

    def _encode_catalogue(self) -> np.ndarray:
        """Give the gist outputs of all tools, (N, V, D) float32; each process encodes its share."""
        model = self.accelerator.unwrap_model(self.model)
        count, rank = self.accelerator.num_processes, self.accelerator.process_index
        if count == 1 or is_partitioned(model):
            # Of weights in pieces each pass brings the next ones together: all processes make the same passes.
            return encode_documents(model, self.processing_class, self.catalogue, show_progress=False)
        share = self.catalogue[rank::count] or self.catalogue[:1]
        part = torch.from_numpy(encode_documents(model, self.processing_class, share, show_progress=False))
        longest = -(-len(self.catalogue) // count)
        padded = torch.zeros(longest, *part.shape[1:])
        padded[: len(part)] = part
        gathered = self.accelerator.gather(padded.to(self.args.device)).cpu()
        # Process r encoded documents r, r + count, ...
        whole = gathered.view(count, longest, *part.shape[1:]).transpose(0, 1).flatten(0, 1)
        return whole[: len(self.catalogue)].numpy()

    def _begin(self) -> None:
        if self.bank is None:
            self.new_codebook(self._first_codebook)

    # ---- checkpoints ----

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.bank is not None and self.args.should_save:
            self.bank.save(output_dir if output_dir is not None else str(self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if (Path(resume_from_checkpoint) / CACHE_FILE).is_file():
            ids = [document.id for document in self.catalogue]
            self.bank = CodeRowBank.load(resume_from_checkpoint, ids, self.args.device)


class _Gather(torch.autograd.Function):
    """Gather equal shapes from all processes along the first axis; gradients find their way back."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, accelerator: Any) -> torch.Tensor:
        ctx.accelerator, ctx.count = accelerator, len(value)
        return accelerator.gather(value)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        whole = ctx.accelerator.reduce(gradient.contiguous(), reduction="sum")
        start = ctx.accelerator.process_index * ctx.count
        return whole[start : start + ctx.count], None


class _NewCodebook(TrainerCallback):
    """A codebook before the first step, and a new one after each epoch; earlier than the epoch's checkpoint."""

    def __init__(self, trainer: PostGuidedTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._begin()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = int(state.epoch or 0)
        self.trainer.train_dataset.epoch = epoch
        if self.trainer.bank is not None and self.trainer.bank.epoch < epoch:
            self.trainer.new_codebook()  # resumed from a checkpoint of the epoch's last step

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.new_codebook()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A resumed run starts from sums made afresh; so does this one from here on.
        if self.trainer.bank is not None:
            self.trainer.bank.rebuild()


def post_guided_trainer(
    model: GistForToolCompression,
    tokenizer: Any,
    tuned: Any,
    tuned_tokenizer: ToolscalerTokenizer,
    documents: Sequence[ToolDocument],
    rows: Dataset,
    config: PostGuidedConfig | None = None,
    *,
    codebook_options: Mapping[str, Any] | None = None,
    first_codebook: Codebook | None = None,
    queries: Sequence[ToolQuery] | Mapping[str, Sequence[str]] | None = None,
    callbacks: Sequence[TrainerCallback] | None = None,
) -> PostGuidedTrainer:
    """Build the Trainer of a post-guided round's compressor (paper section 4.2).

    ``trainer.train()`` trains, ``trainer.train(resume_from_checkpoint=...)`` goes on, and
    :func:`toolscaler.training.compression.finalize` gives the compressor, which is then exported as in stage 1.

    Args:
        model: A fresh compressor (:meth:`~toolscaler.compression.GistForToolCompression.from_base_model`) of the tuned
            model's width. It is trained in place.
        tokenizer: The compressor's tokenizer.
        tuned: theta_{t-1}: the causal LM that the last round ended with, as a plain model. It is frozen in place.
        tuned_tokenizer: Its tokenizer, with codes of all documents.
        documents: The whole catalogue.
        rows: Rows of L_traj (:func:`toolscaler.training.guiding_rows`), in the ids of ``tuned_tokenizer``.
        config: Settings. Default: ``PostGuidedConfig()``.
        codebook_options: Arguments of :meth:`toolscaler.Codebook.fit` for the codebook of each epoch.
        first_codebook: Codebook of the first epoch, for a compressor that goes on from the one which made it.
        queries: Texts for the compressor's task ``query``, as in :func:`compression_trainer`.
        callbacks: Further callbacks.

    Raises:
        CompressionError: Model, documents and queries do not fit together.
        TrainingError: The tuned model is wrapped or of another width, or lacks codes of a document.
    """
    config = PostGuidedConfig() if config is None else config
    _check_models(model, tokenizer, tuned)
    if not {"input_ids", "labels"} <= set(rows.column_names) or not len(rows):
        raise TrainingError(f"rows: expected input_ids and labels, got {rows.column_names} and {len(rows)} rows")
    if first_codebook is not None and list(first_codebook.tool_ids) != [document.id for document in documents]:
        raise CodebookError("first_codebook: expected the codes of all documents, in their order")
    train, held_out = stage_one._split(documents, None, config)
    documents_rows = stage_one._RowMaker(model, tokenizer, queries, config)(documents)
    stage_one._warn_of_idle_tasks(documents_rows, model.config.task_names)
    number = {document.id: place for place, document in enumerate(documents)}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    collator = GuidedCollator(documents_rows, tuned_tokenizer, pad, config.max_live_tools or None)
    guide = FrozenGuide(
        tuned,
        tuned_tokenizer,
        scale=config.scale,
        code_targets=config.code_targets,
        checkpointing=bool(config.gradient_checkpointing),
    )
    weighted = rows if config.trajectory_weight else None
    set_seed(config.seed)  # before the adapter draws its weights
    arguments, stopping = stage_one._arguments(config, bool(held_out))
    return PostGuidedTrainer(
        model=stage_one._trainable(model, config),
        args=arguments,
        data_collator=collator,
        train_dataset=GuidedDataset(
            [number[document.id] for document in train], weighted, config.rows_per_document, config.seed
        ),
        eval_dataset=GuidedDataset([number[document.id] for document in held_out]) if held_out else None,
        processing_class=tokenizer,
        callbacks=[*stopping, *(callbacks or ())],
        guide=guide,
        catalogue=documents,
        codebook_options=codebook_options or {},
        first_codebook=first_codebook,
    )


def _check_models(model: Any, tokenizer: Any, tuned: Any) -> None:
    if not isinstance(model, GistForToolCompression):
        raise CompressionError(f"model: expected GistForToolCompression, got {type(model).__name__}")
    if persistence.adapter_of(model) is not None:
        raise CompressionError("model: an adapter's layers are still apart; load it with merge_adapter=True")
    widths = (model.config.get_text_config().hidden_size, tuned.config.get_text_config().hidden_size)
    if widths[0] != widths[1]:
        raise TrainingError(f"expected compressor and tuned model of one width, got {widths[0]} and {widths[1]}")
    if {id(parameter) for parameter in model.parameters()} & {id(parameter) for parameter in tuned.parameters()}:
        raise TrainingError("the tuned model: expected weights of its own, got the compressor's; load it once more")
    if len(tokenizer) > len(model.get_input_embeddings().weight):
        rows = len(model.get_input_embeddings().weight)
        raise CompressionError(f"tokenizer: it has {len(tokenizer)} tokens, the base has rows for {rows}")
    model.check_causal()
