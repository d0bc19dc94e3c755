"""Trajectory stage: trajectories go in, a causal LM that thinks, calls tools by code and answers comes out.

TRL's ``SFTTrainer`` trains on rows of :func:`toolscaler.training.trajectory_rows`, cross-entropy on the assistant's
tokens only (paper section 4.2, L_traj), from a model that the retrieval stage has trained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from toolscaler.data.protocol import AgentProtocol
from toolscaler.errors import ConfigError, TrainingError
from toolscaler.prompt_attention import reads_both_ways
from toolscaler.training.adapters import ready_for_trl, with_adapter
from toolscaler.training.sampling import EvenSteps
from toolscaler.training.trajectory_data import IGNORE_INDEX, RowsReport, TrajectoryRows, Truncation, trajectory_rows

if TYPE_CHECKING:
    from toolscaler.data.documents import ToolDocument
    from toolscaler.data.trajectories import Trajectory
    from toolscaler.tokenization import ToolscalerTokenizer

logger = logging.getLogger(__name__)


@dataclass
class TrajectoryConfig(SFTConfig):
    """Settings of the trajectory stage: every field of TRL's ``SFTConfig``, with the paper's values as defaults.

    What differs from ``SFTConfig``: 2 epochs, peak learning rate 4e-5, cosine schedule with 3 % warm-up, effective
    batch of 64 on one process (1 row × 64 accumulation steps, as in the paper; divide the latter by the number of
    processes), context of 6,144 tokens, a checkpoint every epoch, no external loggers, bf16 only where a GPU supports
    it. ``packing=True`` puts several trajectories into one row of ``max_length`` tokens; they do not see each other.

    Attributes:
        truncation: What happens to a trajectory longer than ``max_length``
            (:data:`toolscaler.training.trajectory_data.Truncation`).
        train_failed_calls: Whether the arguments of calls whose result is an error count in the loss (paper: yes).
        use_lora: Train a LoRA adapter and the code rows alone; otherwise every weight.
        lora_r: Rank.
        lora_alpha: Scale.
        lora_dropout: Dropout in the adapter.
        lora_target_modules: Module names, or ``"all-linear"``.
    """

    num_train_epochs: float = field(default=2.0, metadata={"help": "Epochs (paper: 2)."})
    learning_rate: float = field(default=4e-5, metadata={"help": "Peak learning rate (paper: 4e-5)."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule (paper: cosine)."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Warm-up; below 1, a share of all steps (paper: 3 %)."})
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Rows a device and step (paper: 1)."})
    per_device_eval_batch_size: int = field(default=4, metadata={"help": "Rows a device in evaluation."})
    gradient_accumulation_steps: int = field(default=64, metadata={"help": "Paper: 64."})
    max_length: int | None = field(default=6144, metadata={"help": "Longest trajectory, in tokens (paper: 6,144)."})
    bf16: bool | None = field(default=None, metadata={"help": "bfloat16 autocast; default: where a GPU supports it."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between log lines."})
    # None first: the command-line parser reads the order.
    report_to: None | str | list[str] = field(default="none", metadata={"help": "External loggers."})  # noqa: RUF036
    truncation: str = field(default="drop_turns", metadata={"help": f"One of {', '.join(get_args(Truncation))}."})
    train_failed_calls: bool = field(default=True, metadata={"help": "Count the arguments of failed calls."})
    use_lora: bool = field(default=False, metadata={"help": "LoRA and code rows instead of all weights."})
    lora_r: int = field(default=32, metadata={"help": "LoRA rank."})
    lora_alpha: int = field(default=128, metadata={"help": "LoRA scale."})
    lora_dropout: float = field(default=0.1, metadata={"help": "LoRA dropout."})
    lora_target_modules: str = field(default="all-linear", metadata={"help": "Comma-separated names, or all-linear."})

    def __post_init__(self) -> None:
        if not torch.cuda.is_available():
            self.use_cpu = True
        if getattr(self, "activation_checkpointing", True) is None:  # transformers >= 5.23: the field's new name
            self.activation_checkpointing = self.gradient_checkpointing
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        if self.truncation not in get_args(Truncation):
            raise ConfigError("trajectory.truncation", self.truncation, f"one of {', '.join(get_args(Truncation))}")
        super().__post_init__()


class TrajectoryTrainer(EvenSteps, SFTTrainer):
    """``SFTTrainer`` that computes logits only where there are labels, and whose checkpoints hold the text form.

    Attributes:
        protocol: The text form, saved as ``agent_protocol.json``.
        rows_report: What became of the training trajectories; ``None`` where rows were given as a ``Dataset``.
    """

    protocol: AgentProtocol = AgentProtocol()
    rows_report: RowsReport | None = None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Give the mean cross-entropy of the assistant's tokens (paper section 4.2, L_traj).

        The output head sees the positions alone whose next token counts: about a quarter of them. Over accumulated or
        distributed batches the mean is over all their counted tokens.
        """
        labels = inputs["labels"]
        before = nn.functional.pad(labels[:, 1:] != IGNORE_INDEX, (0, 1))  # positions whose next token counts
        targets = labels[:, 1:][before[:, :-1]]
        logits, outputs = self._logits(model, inputs, before)
        logits = logits.float()
        smoothing = self.args.label_smoothing_factor
        total = nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
        counted = torch.as_tensor(len(targets) if num_items_in_batch is None else num_items_in_batch)
        loss = total / counted.to(total.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        mode = "train" if self.model.training else "eval"
        with torch.no_grad():
            counts = torch.stack([(logits.argmax(-1) == targets).sum(), before.sum()])[None]
            counts = self.accelerator.gather_for_metrics(counts).sum(0)
        self._metrics[mode]["mean_token_accuracy"].append((counts[0] / counts[1].clamp(min=1)).item())
        return (loss, outputs) if return_outputs else loss

    def _logits(self, model: Any, inputs: dict[str, Any], before: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Give the logits (n, vocabulary) of the n positions in ``before``, (B, T) bool, row by row."""
        given = {**{key: value for key, value in inputs.items() if key != "labels"}, "use_cache": False}
        if self.args.torch_compile:
            # A compiled model does not see hooks that come later. Columns that count in any row; of one row: exact.
            columns = before.any(0).nonzero().flatten()
            outputs = model(**given, logits_to_keep=columns)
            return outputs.logits[before[:, columns]], outputs
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, seen: (seen[0][before.to(seen[0].device)], *seen[1:]))
        try:
            outputs = model(**given)
        finally:
            hook.remove()
        return outputs.logits, outputs

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        self.protocol.save(output_dir if output_dir is not None else str(self.args.output_dir))


def trajectory_trainer(
    model: PreTrainedModel | PeftModel,
    tokenizer: ToolscalerTokenizer,
    train: Iterable[Trajectory] | TrajectoryRows | Dataset,
    documents: Iterable[ToolDocument] | Mapping[str, ToolDocument] | None = None,
    config: TrajectoryConfig | None = None,
    *,
    protocol: AgentProtocol | None = None,
    evaluation: Iterable[Trajectory] | TrajectoryRows | Dataset | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> TrajectoryTrainer:
    """Make the trainer of the trajectory stage; call ``.train()`` on it.

    Args:
        model: Causal LM that the retrieval stage has trained. With ``config.use_lora`` it is wrapped; a model that is
            a ``PeftModel`` already is taken as it is.
        tokenizer: Its tokenizer, with codes for every tool; saved with every checkpoint.
        train: Trajectories whose tools are ids of the catalogue, or rows of
            :func:`toolscaler.training.trajectory_rows` (their ``input_ids`` and ``labels`` are used as they are).
        documents: The catalogue; needed for trajectories.
        config: Settings; default: the paper's.
        protocol: Text form; default: :class:`~toolscaler.data.protocol.AgentProtocol`. For ready rows: the one that
            they were made with. Saved with every checkpoint.
        evaluation: Trajectories or rows for the validation loss.
        callbacks: More Trainer callbacks.

    Raises:
        TrainingError: The model's vocabulary is smaller than the tokenizer's, no trajectory became a row, rows are
            longer than ``max_length``, documents are missing, or the model reads prompts both ways.
        UnknownToolError: A trajectory calls a tool without codes or without a document.
    """
    config = config if config is not None else TrajectoryConfig()
    protocol = protocol or AgentProtocol()
    if reads_both_ways(model):
        raise TrainingError("expected a model that reads causally, got one trained with bidirectional_prompts")
    size = model.get_input_embeddings().weight.shape[0]
    needed = tokenizer.required_vocab_size
    if 0 < size < needed:  # 0: partitioned away under ZeRO-3
        raise TrainingError(
            f"expected at least {needed} embedding rows, the model has {size}; "
            "call initialize_code_embeddings(model, tokenizer, ...) first"
        )
    catalogue = None if documents is None or isinstance(documents, Mapping) else list(documents)
    documents = documents if catalogue is None else catalogue
    dataset, report = _rows(train, tokenizer, documents, config, protocol)
    held_out = None if evaluation is None else _rows(evaluation, tokenizer, documents, config, protocol)[0]
    # Before the adapter draws its weights: the same seed gives the same run.
    set_seed(config.seed)
    if config.use_lora and not isinstance(model, PeftModel):
        model = with_adapter(
            model,
            tokenizer,
            rank=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            target_modules=config.lora_target_modules,
        )
    if isinstance(model, PeftModel):
        ready_for_trl(model)
    if not config.packing:  # rows are ready; packing is TRL's part of the preparation
        config.dataset_kwargs = {**(config.dataset_kwargs or {}), "skip_prepare_dataset": True}
    trainer = TrajectoryTrainer(
        model=model,
        args=config,
        train_dataset=dataset,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.protocol, trainer.rows_report = protocol, report
    return trainer


def _rows(
    given: Iterable[Trajectory] | TrajectoryRows | Dataset,
    tokenizer: ToolscalerTokenizer,
    documents: Iterable[ToolDocument] | Mapping[str, ToolDocument] | None,
    config: TrajectoryConfig,
    protocol: AgentProtocol,
) -> tuple[Dataset, RowsReport | None]:
    if not isinstance(given, Dataset | TrajectoryRows):
        if documents is None:
            raise TrainingError("documents: expected the catalogue of the trajectories' tools, got none")
        given = trajectory_rows(
            given,
            tokenizer,
            documents,
            max_length=config.max_length,
            truncation=config.truncation,  # type: ignore[arg-type]
            protocol=protocol,
            train_failed_calls=config.train_failed_calls,
        )
    if isinstance(given, TrajectoryRows):
        dataset, report, longest = given.dataset, given.report, given.report.longest
    else:
        dataset, report, longest = given, None, 0
    if not {"input_ids", "labels"} <= set(dataset.column_names):
        raise TrainingError(f"rows: expected the columns input_ids and labels, got {dataset.column_names}")
    if report is None:
        longest = max((len(row) for row in dataset["input_ids"]), default=0)
    if config.max_length is not None and longest > config.max_length:
        raise TrainingError(f"rows: expected at most max_length={config.max_length} tokens, the longest has {longest}")
    return dataset, report
