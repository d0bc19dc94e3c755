"""Stage 1 (section 4.1): tool documents and a gist compressor go in, a Trainer that teaches it to compress comes out.

Deviations from the paper, which are choices where it is silent unless stated: AdamW (decoupled weight decay) for Adam;
a constant rate; 5 % of the documents for validation, patience 2 epochs, at most 10 epochs.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from toolscaler._optional import require
from toolscaler.compression import persistence
from toolscaler.compression.collator import (
    CompressionRow,
    CompressionRows,
    GistCollator,
    document_rows,
    query_texts,
)
from toolscaler.compression.configuration import QUERY_TASK
from toolscaler.compression.modeling import GistForToolCompression
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.errors import CompressionError, ConfigError, TrainingError
from toolscaler.training.partition import is_partitioned, whole_copy
from toolscaler.training.sampling import IGNORE_INDEX, EvenSteps

logger = logging.getLogger(__name__)

__all__ = ["CompressionConfig", "compression_trainer", "finalize"]


@dataclass
class CompressionConfig(TrainingArguments):
    """Settings of stage 1; the defaults are the paper's (section 5.1) where it names one.

    Everything of ``transformers.TrainingArguments`` may be set too. Other defaults than there:

    - ``learning_rate`` 1e-3, ``weight_decay`` 1e-4, batch 12, constant rate (paper; the last is a choice);
    - ``num_train_epochs`` 10 with early stopping (the paper stopped at about 6), the best checkpoint loaded at the end;
    - ``use_cpu`` and ``bf16`` follow the machine unless set: without an accelerator the CPU, in float32;
    - ``report_to`` none.

    Attributes:
        use_lora: Train a LoRA adapter on the frozen base. Default: yes, unless ``train_base``.
        train_base: Train all the base's weights. Needed for a base made from scratch, which knows nothing yet.
        lora_r: Rank of LoRA.
        lora_alpha: Scale of LoRA.
        lora_dropout: Dropout of LoRA.
        lora_target_modules: Names of the modules that get an adapter, or ``all-linear``.
        validation_share: Share of the documents that early stopping watches; they are not trained on. 0 switches
            validation and early stopping off.
        early_stopping_patience: Epochs (evaluations) without a lower validation loss after which training stops; 0
            switches early stopping off.
        early_stopping_threshold: A loss counts as lower when it is lower by this much.
        max_queries_per_document: Generation targets a document at most, chosen by ``seed``.

    Raises:
        ConfigError: A value is not allowed.
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Initial learning rate (paper: 1e-3)."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay (paper: 1e-4)."})
    per_device_train_batch_size: int = field(default=12, metadata={"help": "Documents a device and step (paper: 12)."})
    per_device_eval_batch_size: int = field(default=12, metadata={"help": "Documents a device and validation step."})
    num_train_epochs: float = field(default=10, metadata={"help": "Epochs at most; early stopping ends sooner."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Schedule of the learning rate."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to validate."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept, the best one among them."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best weights, not the last."})
    metric_for_best_model: str | None = field(default="eval_loss", metadata={"help": "What is best."})
    greater_is_better: bool | None = field(default=False, metadata={"help": "Whether more of it is better."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run keeps the count of early stopping."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two log lines."})
    # None first: the command-line parser reads the order.
    report_to: None | str | list[str] = field(default="none", metadata={"help": "Loggers to report to."})  # noqa: RUF036
    use_cpu: bool | None = field(
        default=None, metadata={"help": "Train on the CPU. Default: where there is no accelerator."}
    )
    bf16: bool | None = field(default=None, metadata={"help": "bfloat16 autocast. Default: where a GPU supports it."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Rows are not columns; leave False."})
    label_names: list[str] | None = field(
        default_factory=lambda: ["labels"], metadata={"help": "Key of the labels; leave as it is."}
    )
    prediction_loss_only: bool = field(default=True, metadata={"help": "Validation needs the loss alone."})

    use_lora: bool | None = field(default=None, metadata={"help": "Train a LoRA adapter on the frozen base."})
    train_base: bool = field(default=False, metadata={"help": "Train all the base's weights."})
    lora_r: int = field(default=32, metadata={"help": "Rank of LoRA (paper: 32)."})
    lora_alpha: int = field(default=128, metadata={"help": "Scale of LoRA (paper: 128)."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout of LoRA (paper: 0.1)."})
    lora_target_modules: str = field(
        default="all-linear", metadata={"help": "Modules with an adapter: all-linear, or names with commas."}
    )
    validation_share: float = field(default=0.05, metadata={"help": "Share of the documents for validation."})
    early_stopping_patience: int = field(default=2, metadata={"help": "Epochs without a lower validation loss."})
    early_stopping_threshold: float = field(default=0.0, metadata={"help": "How much lower counts as lower."})
    max_queries_per_document: int = field(default=4, metadata={"help": "Generation targets a document at most."})

    def __post_init__(self) -> None:
        if self.use_lora is None:
            self.use_lora = not self.train_base
        self._check()
        if self.use_cpu is None:
            self.use_cpu = not torch.accelerator.is_available()
        if self.bf16 is None:
            on_cuda = not self.use_cpu and torch.cuda.is_available()
            self.bf16 = bool(on_cuda and not self.fp16 and torch.cuda.is_bf16_supported())
        if self.use_cpu:
            self.dataloader_pin_memory = False
        super().__post_init__()

    def _check(self) -> None:
        """Refuse values that would fail late or train something else than was meant."""
        if self.use_lora and self.train_base:
            raise ConfigError("use_lora", True, "False together with train_base=True: one of them trains the base")
        if not 0 <= self.validation_share < 1:
            raise ConfigError("validation_share", self.validation_share, "a share from 0 to below 1")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError("lora_dropout", self.lora_dropout, "a probability from 0 to below 1")
        for key, least in (("lora_r", 1), ("lora_alpha", 1), ("max_queries_per_document", 1)):
            if getattr(self, key) < least:
                raise ConfigError(key, getattr(self, key), f"at least {least}")
        if self.early_stopping_patience < 0:
            raise ConfigError("early_stopping_patience", self.early_stopping_patience, "0 (off) or more")
        if self.label_smoothing_factor:
            raise ConfigError("label_smoothing_factor", self.label_smoothing_factor, "0: the loss is the model's own")
        if self.remove_unused_columns:
            raise ConfigError("remove_unused_columns", True, "False: the rows are not columns")


class CompressionTrainer(EvenSteps, Trainer):
    """``Trainer`` whose steps are the same however many processes share them."""

    def blank_row(self) -> CompressionRow:
        """Give a document with one target that counts nowhere."""
        first = self.train_dataset[0]
        return CompressionRow("", first.input_ids, (np.full(1, IGNORE_INDEX, dtype=np.int32),), (0,))


def compression_trainer(
    model: GistForToolCompression,
    tokenizer: Any,
    documents: Sequence[ToolDocument],
    config: CompressionConfig | None = None,
    *,
    queries: Sequence[ToolQuery] | Mapping[str, Sequence[str]] | None = None,
    eval_documents: Sequence[ToolDocument] | None = None,
    callbacks: Sequence[TrainerCallback] | None = None,
) -> CompressionTrainer:
    """Build the Trainer of stage 1 (section 4.1).

    Gist and task embeddings are trained, and with them a LoRA adapter (default), the whole base (``train_base``) or
    nothing else (``use_lora=False``). ``trainer.train()`` trains; ``trainer.train(resume_from_checkpoint=True)`` goes
    on after an interruption and ends with the weights of an unbroken run; :func:`finalize` gives the compressor.

    Args:
        model: From :meth:`GistForToolCompression.from_base_model`. It is trained in place.
        tokenizer: The base's tokenizer.
        documents: Training documents.
        config: Settings. Default: ``CompressionConfig()``.
        queries: Texts for the task ``query``: labelled queries, or the texts of each document id. Needed when the
            model has that task, an error when it has not.
        eval_documents: Validation documents. Default: a seeded share of ``documents``.
        callbacks: Further callbacks.

    Returns:
        A ``transformers.Trainer``. Its datasets (:class:`~toolscaler.compression.collator.CompressionRows`)
        tell how many documents were cut.

    Raises:
        CompressionError: Model, documents and queries do not fit together.
        MissingDependencyError: LoRA is asked for and peft is not installed.
    """
    config = CompressionConfig() if config is None else config
    if not isinstance(model, GistForToolCompression):
        raise CompressionError(f"model: expected GistForToolCompression, got {type(model).__name__}")
    if persistence.adapter_of(model) is not None:
        raise CompressionError("model: an adapter's layers are still apart; load it with merge_adapter=True")
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        rows = model.get_input_embeddings().weight.shape[0]
        raise CompressionError(f"tokenizer: it has {len(tokenizer)} tokens, the base has rows for {rows}")
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):  # partitioned: nothing to run yet
        model.check_causal()
    train, held_out = _split(documents, eval_documents, config)
    rows_of = _RowMaker(model, tokenizer, queries, config)
    train_rows, eval_rows = rows_of(train), rows_of(held_out)
    _warn_of_idle_tasks(train_rows, model.config.task_names)
    # Before the adapter is made: its first values are drawn from the global generator, as the Trainer's own are.
    set_seed(config.seed)
    arguments, stopping = _arguments(config, bool(eval_rows))
    return CompressionTrainer(
        model=_trainable(model, config),
        args=arguments,
        data_collator=GistCollator.from_tokenizer(tokenizer),
        train_dataset=train_rows,
        eval_dataset=eval_rows or None,
        processing_class=tokenizer,
        callbacks=[*stopping, *(callbacks or ())],
    )


def finalize(trainer: Trainer, *, merge: bool = True) -> GistForToolCompression:
    """Give the trained compressor, free of Trainer and peft wrappers.

    Args:
        trainer: A trained :func:`compression_trainer`.
        merge: Merge the adapter into the backbone, whose weights change by it. ``False`` keeps its layers apart, so
            that ``save_pretrained`` writes only adapter and rows (the base must have been loaded by name).

    Returns:
        The compressor, in evaluation mode, every parameter open to training again. Where the weights lie in pieces
        (ZeRO-3, FSDP) every process must call this; the whole compressor is the main process's, and what the others get
        has no values.

    Raises:
        TrainingError: The Trainer is not one of :func:`compression_trainer`.
    """
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if is_partitioned(model):
        model = whole_copy(trainer)
        if not trainer.accelerator.is_main_process:
            return (model.get_base_model() if hasattr(model, "get_base_model") else model).eval()
    if not isinstance(model, GistForToolCompression):
        if not hasattr(model, "get_base_model") or not isinstance(model.get_base_model(), GistForToolCompression):
            raise TrainingError(f"finalize: expected a compression trainer, got one of {type(model).__name__}")
        model = persistence.merge_adapter(model) if merge else persistence.attach_adapter(model)
    model.save_base = None
    if persistence.adapter_of(model) is None:
        model.requires_grad_(True)
    return model.eval()


class _RowMaker:
    """Tokenize documents with the targets that this model and these queries give them."""

    def __init__(
        self,
        model: GistForToolCompression,
        tokenizer: Any,
        queries: Sequence[ToolQuery] | Mapping[str, Sequence[str]] | None,
        config: CompressionConfig,
    ) -> None:
        has_task = QUERY_TASK in model.config.task_names
        if has_task and queries is None:
            raise CompressionError(f"queries: the model has the task {QUERY_TASK!r}; expected its targets, got None")
        if queries is not None and not has_task:
            names = [*model.config.task_names, QUERY_TASK]
            raise CompressionError(f"queries: the model has no task for them; make it with task_names={names}")
        self._model, self._tokenizer, self._queries, self._config = model, tokenizer, queries, config

    def __call__(self, documents: Sequence[ToolDocument]) -> CompressionRows:
        if not documents:
            return CompressionRows()
        ids = [document.id for document in documents if isinstance(document, ToolDocument)]
        limit, seed = self._config.max_queries_per_document, self._config.seed
        texts = query_texts(self._queries, ids, limit=limit, seed=seed)
        return document_rows(self._tokenizer, documents, self._model.config, queries=texts)


def _split(
    documents: Sequence[ToolDocument], eval_documents: Sequence[ToolDocument] | None, config: CompressionConfig
) -> tuple[list[ToolDocument], list[ToolDocument]]:
    """Give training and validation documents, both in input order."""
    if not len(documents):
        raise CompressionError("documents: expected at least one, got none")
    if eval_documents is not None:
        return list(documents), list(eval_documents)
    if config.validation_share == 0:
        return list(documents), []
    count = max(1, round(config.validation_share * len(documents)))
    if count >= len(documents):
        raise CompressionError(
            f"documents: {len(documents)} are too few to hold some out; set validation_share=0 or give eval_documents"
        )
    chosen = set(np.random.default_rng(config.seed).permutation(len(documents))[:count].tolist())
    train = [document for i, document in enumerate(documents) if i not in chosen]
    return train, [documents[i] for i in sorted(chosen)]


def _arguments(config: CompressionConfig, validates: bool) -> tuple[CompressionConfig, list[TrainerCallback]]:
    """Give the Trainer's arguments and the early-stopping callback; without validation there is nothing to watch."""
    arguments = copy.copy(config)
    if not validates:
        arguments.eval_strategy = type(arguments.eval_strategy)("no")
        arguments.do_eval = False
        arguments.load_best_model_at_end = False
        return arguments, []
    watches = arguments.load_best_model_at_end and config.early_stopping_patience > 0
    stopping = EarlyStoppingCallback(config.early_stopping_patience, config.early_stopping_threshold)
    return arguments, [stopping] if watches else []


def _trainable(model: GistForToolCompression, config: CompressionConfig) -> Any:
    """Freeze and open parameters as the settings say; wrap with LoRA where it is asked for."""
    # Trainer checkpoints must be complete by themselves: the Trainer resumes from model.safetensors.
    model.save_base = True
    model.requires_grad_(True)
    if config.train_base:
        if model.backbone.dtype in (torch.float16, torch.bfloat16):
            logger.warning("train_base: the base is in %s; small updates get lost there", model.backbone.dtype)
        return model
    model.backbone.requires_grad_(False)
    if not config.use_lora:
        return model
    peft = require("peft", extra="train", purpose="training a LoRA adapter")
    names = config.lora_target_modules
    lora = peft.LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=names if names == "all-linear" else [name.strip() for name in names.split(",")],
        modules_to_save=["gist_embeddings", "task_embeddings"],
    )
    adapted = peft.get_peft_model(model, lora)
    adapted.peft_config["default"].base_model_name_or_path = model.config.base_model_name_or_path
    return adapted


def _warn_of_idle_tasks(rows: CompressionRows, task_names: Sequence[str]) -> None:
    """Name the tasks that no training document has a target for: their indicators stay as they were drawn."""
    used = {task for row in rows for task in row.task_ids}
    idle = [name for task, name in enumerate(task_names) if task not in used]
    if idle:
        logger.warning("no training document has a text for the tasks %s; their indicators are not trained", idle)
