"""Retrieval stage: labelled queries go in, a causal LM that writes the code of a fitting tool comes out.

The recipe is TRL's ``SFTTrainer`` on prompt–completion rows (paper section 4.2, L_ret). Two things are its own. Prompts
are padded on the left, so that all completions end in the same columns and the output head is computed for these
columns alone; and the prompt is tokenised by :meth:`ToolscalerTokenizer.encode_retrieval_prompt`, the same call that
decoding makes, so that training and inference see the same ids.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset, concatenate_datasets
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, TrainerCallback
from trl import SFTConfig, SFTTrainer

from toolscaler.errors import ConfigError, TokenizationError, TrainingError
from toolscaler.prompt_attention import both_ways_mask, read_both_ways, reads_both_ways
from toolscaler.tokenization.prompts import shorten_prompt
from toolscaler.training.adapters import ready_for_trl, with_adapter
from toolscaler.training.sampling import IGNORE_INDEX, EvenSteps

if TYPE_CHECKING:
    from toolscaler.tokenization import ToolscalerTokenizer

logger = logging.getLogger(__name__)


@dataclass
class RetrievalConfig(SFTConfig):
    """Settings of the retrieval stage: every field of TRL's ``SFTConfig``, with the paper's values as defaults.

    What differs from ``SFTConfig``: 5 epochs, peak learning rate 4e-5, cosine schedule with 3 % warm-up, effective
    batch of 64 on one process (16 rows × 4 accumulation steps; divide the latter by the number of processes), no
    gradient checkpointing (rows are short), a checkpoint every epoch, no external loggers, bf16 only where a GPU
    supports it.

    Attributes:
        use_lora: Train a LoRA adapter and the code rows alone; otherwise every weight.
        lora_r: Rank.
        lora_alpha: Scale.
        lora_dropout: Dropout in the adapter.
        lora_target_modules: Module names, or ``"all-linear"``.
        prompt_token_dropout: Share of prompt tokens hidden at random in each training step, the first and the last
            token of the prompt excepted. 0 (the paper) hides none; small bases made from scratch gain from 0.1 to 0.3.
        train_end_token: Count the end token after the codes in the loss, so that plain ``generate`` stops. The codes
            themselves are always counted.
        sort_step_rows: Sort the rows of each step by length, so that the batches it is accumulated from need little
            padding. The step is the same sum in another order.
        padding_free: Put the rows of a batch behind each other in one row without padding; they do not see each other.
            It pays with FlashAttention; without it attention computes over all of them.
        bidirectional_prompts: Let each prompt token attend to the whole prompt (a prefix language model); codes stay
            causal. The paper's prompts are causal; it is for bases that were pretrained both ways, such as BERT's kind.
            The model keeps it as ``config.is_causal = false``; such a model retrieves, but holds no dialogues.
    """

    num_train_epochs: float = field(default=5.0, metadata={"help": "Epochs (paper: 5)."})
    learning_rate: float = field(default=4e-5, metadata={"help": "Peak learning rate (paper: 4e-5)."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule (paper: cosine)."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Warm-up; below 1, a share of all steps (paper: 3 %)."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Rows a device and step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Rows a device in evaluation."})
    gradient_accumulation_steps: int = field(default=4, metadata={"help": "16 x 4 = 64, the paper's batch."})
    max_length: int | None = field(default=512, metadata={"help": "Longest prompt plus completion, in tokens."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute activations."})
    bf16: bool | None = field(default=None, metadata={"help": "bfloat16 autocast; default: where a GPU supports it."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between log lines."})
    # None first: the command-line parser reads the order.
    report_to: None | str | list[str] = field(default="none", metadata={"help": "External loggers."})  # noqa: RUF036
    use_lora: bool = field(default=False, metadata={"help": "LoRA and code rows instead of all weights."})
    lora_r: int = field(default=32, metadata={"help": "LoRA rank."})
    lora_alpha: int = field(default=128, metadata={"help": "LoRA scale."})
    lora_dropout: float = field(default=0.1, metadata={"help": "LoRA dropout."})
    lora_target_modules: str = field(default="all-linear", metadata={"help": "Comma-separated names, or all-linear."})
    prompt_token_dropout: float = field(default=0.0, metadata={"help": "Share of prompt tokens hidden in training."})
    train_end_token: bool = field(default=True, metadata={"help": "Count the end token in the loss."})
    sort_step_rows: bool = field(default=True, metadata={"help": "Sort the rows of each step by length."})
    bidirectional_prompts: bool = field(default=False, metadata={"help": "Prompt tokens attend to the whole prompt."})

    def __post_init__(self) -> None:
        if not torch.cuda.is_available():
            self.use_cpu = True
        if getattr(self, "activation_checkpointing", True) is None:  # transformers >= 5.23: the field's new name
            self.activation_checkpointing = self.gradient_checkpointing
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        if not 0 <= self.prompt_token_dropout < 1:
            raise ConfigError("retrieval.prompt_token_dropout", self.prompt_token_dropout, "a share from 0 to below 1")
        if self.packing:
            raise ConfigError("retrieval.packing", True, "false; padding_free=True needs no padding either")
        if self.bidirectional_prompts and self.padding_free:
            raise ConfigError("retrieval.padding_free", True, "false with bidirectional_prompts, which need a mask")
        super().__post_init__()


class RetrievalCollator:
    """Pad rows on the left and keep only the label columns that any row uses.

    Args:
        pad_token_id: Id for the padding.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Returns:
            ``input_ids`` and ``attention_mask`` of shape (B, T), and ``labels`` of shape (B, C + 1), where C is the
            longest completion of the batch. Labels belong to the last C + 1 columns; the first of them is ignored.
        """
        width = max(len(row["input_ids"]) for row in rows)
        kept = 1 + max(_completion_width(row["labels"]) for row in rows)
        input_ids = torch.full((len(rows), width), self.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        labels = torch.full((len(rows), kept), IGNORE_INDEX, dtype=torch.long)
        for index, row in enumerate(rows):
            ids = torch.tensor(row["input_ids"], dtype=torch.long)
            input_ids[index, width - len(ids) :] = ids
            attention_mask[index, width - len(ids) :] = 1
            tail = torch.tensor(row["labels"][-(kept - 1) :], dtype=torch.long)
            labels[index, kept - len(tail) :] = tail
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def _completion_width(labels: Sequence[int]) -> int:
    """Count the columns from the first label that is not ignored to the end."""
    for position, label in enumerate(labels):
        if label != IGNORE_INDEX:
            return len(labels) - position
    return 0


class RetrievalTrainer(EvenSteps, SFTTrainer):
    """``SFTTrainer`` for rows from :func:`tokenize_retrieval_rows`; computes logits only where there are labels.

    Attributes:
        flattens: Whether a batch becomes one row without padding.
        first_code_id: Id of the first code token; 0 where codes are tokens of the base.
        end_token_id: Id of the end token; ``None``: there is none.
    """

    first_code_id: int = 0
    end_token_id: int | None = None
    flattens: bool = False

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Give the mean cross-entropy of the completion tokens (paper section 4.2, L_ret).

        The batch is that of :class:`RetrievalCollator`. ``label_smoothing_factor`` counts as everywhere in
        transformers: over the whole vocabulary. Over accumulated or distributed batches the mean is over all their
        completion tokens.
        """
        labels = inputs["labels"]
        kept = labels.shape[1]
        given = self._model_inputs(model, inputs, kept)
        targets = labels[:, 1:]
        if self.flattens:
            given = flat_inputs(given, targets)
            targets = targets[targets != IGNORE_INDEX][None]
        outputs = model(**given)
        logits = (outputs.logits if self.flattens else outputs.logits[:, -kept:-1]).float()
        total = cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            targets.reshape(-1),
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.args.label_smoothing_factor,
        )
        counted = (targets != IGNORE_INDEX).sum()
        loss = total / torch.as_tensor(counted if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        mode = "train" if self.model.training else "eval"
        with torch.no_grad():
            right = ((logits.argmax(-1) == targets) & (targets != IGNORE_INDEX)).sum()
            counts = self.accelerator.gather_for_metrics(torch.stack([right, counted])[None]).sum(0)
        self._metrics[mode]["mean_token_accuracy"].append((counts[0] / counts[1].clamp(min=1)).item())
        return (loss, outputs) if return_outputs else loss

    def _model_inputs(self, model: Any, inputs: dict[str, Any], kept: int) -> dict[str, Any]:
        mask = inputs["attention_mask"]
        rate = self.args.prompt_token_dropout
        if rate and model.training:
            # Drawn from step and batch, not from the global generator: a resumed run hides the same tokens.
            mark = (self.args.seed, self.state.global_step, int(inputs["input_ids"].sum()))
            generator = torch.Generator().manual_seed(hash(mark) % 2**63)
            labels = inputs["labels"]
            # Rows of first steps copy from their prompt: what they copy must not be hidden.
            codes = (labels >= self.first_code_id) | (labels == self.end_token_id) | (labels == IGNORE_INDEX)
            mask = hide_prompt_tokens(mask, labels, rate, generator, whole=~codes.all(1))
        given = {"input_ids": inputs["input_ids"], "attention_mask": mask, "use_cache": False}
        accepted = self._accepted_arguments()
        if "position_ids" in accepted:
            given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        if "logits_to_keep" in accepted:
            given["logits_to_keep"] = kept
        if reads_both_ways(self.model):
            columns = torch.arange(mask.shape[1], device=mask.device)
            prompt = columns < first_label_columns(inputs["labels"], mask.shape[1])[:, None]
            given["attention_mask"] = both_ways_mask(self.accelerator.unwrap_model(self.model), mask, prompt)
        return given

    def _accepted_arguments(self) -> frozenset[str]:
        if not hasattr(self, "_accepted"):
            self._accepted = accepted_arguments(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
        return self._accepted


def accepted_arguments(model: Any) -> frozenset[str]:
    """Name what a model's ``forward`` takes; an adapter round it takes the same."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return frozenset(inspect.signature(type(base).forward).parameters)


def flat_inputs(given: Mapping[str, Any], targets: torch.Tensor) -> dict[str, Any]:
    """Put the rows of a batch behind each other in one row; positions that start anew keep them apart.

    Args:
        given: ``input_ids``, ``attention_mask`` and ``position_ids``, (B, T), of left-padded rows; hidden tokens are
            masked.
        targets: (B, C) labels of the last C columns, each predicted from the column before.

    Returns:
        What the model takes: ids and positions (1, number of tokens), and in ``logits_to_keep`` the places that
        ``targets[targets != IGNORE_INDEX]`` are predicted from, in that order.
    """
    present = given["attention_mask"].bool()
    width, count = present.shape[1], targets.shape[1]
    before = torch.zeros_like(present)
    before[:, width - 1 - count : width - 1] = targets != IGNORE_INDEX
    place = present.flatten().cumsum(0) - 1
    return {
        "input_ids": given["input_ids"][present][None],
        "position_ids": given["position_ids"][present][None],
        "logits_to_keep": place[before.flatten()],
        "use_cache": False,
    }


def first_label_columns(labels: torch.Tensor, width: int) -> torch.Tensor:
    """Give the column (B,) of each row's first label; ``labels`` (B, C + 1) belong to the last of ``width`` columns."""
    return width - labels.shape[1] + (labels != IGNORE_INDEX).int().argmax(1)


def hide_prompt_tokens(
    mask: torch.Tensor,
    labels: torch.Tensor,
    rate: float,
    generator: torch.Generator | None = None,
    *,
    whole: torch.Tensor | None = None,
) -> torch.Tensor:
    """Hide prompt tokens at random.

    Args:
        mask: (B, T) attention mask of left-padded rows.
        labels: (B, C + 1) labels of the last columns (:class:`RetrievalCollator`).
        rate: Chance of each prompt token to be hidden. The first and the last token of a prompt are never hidden.
        generator: CPU generator to draw from; default: torch's global one.
        whole: (B,) bool, rows of which nothing is hidden.

    Returns:
        (B, T) mask with zeros at the hidden tokens; positions counted over it are those of the shortened prompt.
    """
    width = mask.shape[1]
    first_label = first_label_columns(labels, width)
    columns = torch.arange(width, device=mask.device)
    start = width - mask.sum(1)
    inner = (columns > start[:, None]) & (columns < (first_label - 1)[:, None])
    hidden = inner & (torch.rand(mask.shape, generator=generator) < rate).to(mask.device)
    if whole is not None:
        hidden &= ~whole[:, None]
    return mask.masked_fill(hidden, 0)


def tokenize_retrieval_rows(
    tokenizer: ToolscalerTokenizer, rows: Dataset | Sequence[Mapping[str, str]], config: RetrievalConfig
) -> Dataset:
    """Turn prompt–completion rows into token ids and labels.

    Args:
        tokenizer: Tokenizer that knows the codes.
        rows: ``prompt`` (the query as the user wrote it) and ``completion`` (code text such as ``<a_1><b_2>``, as
            :meth:`ToolscalerTokenizer.tool_code_text` writes it).
        config: ``max_length`` and ``train_end_token`` are read.

    Returns:
        Dataset with ``input_ids`` and ``labels``. A prompt that does not fit loses its first tokens, after the
        tokenizer's start token; how many rows were cut is logged.

    Raises:
        TrainingError: There are no rows, a row lacks a column, a completion holds anything but codes, or code sequences
            of several lengths are to be trained without the end token.
    """
    rows = list(rows)
    if not rows:
        raise TrainingError("expected retrieval rows, got none; check the split and the query files")
    if tokenizer.tool_index.ragged and not config.train_end_token:
        raise TrainingError(
            "train_end_token: expected true, got false; sequences of several lengths are told apart by the end token"
        )
    cut = 0
    input_ids, labels = [], []
    for number, row in enumerate(rows):
        if "prompt" not in row or "completion" not in row:
            raise TrainingError(f"row {number}: expected the columns prompt and completion, got {sorted(row)}")
        try:
            codes = tokenizer.encode_code_text(row["completion"])
        except TokenizationError as error:
            raise TrainingError(f"row {number}: expected a completion of codes only: {error}") from error
        prompt = tokenizer.encode_retrieval_prompt(row["prompt"])
        room = len(prompt) if config.max_length is None else config.max_length - len(codes) - 1
        if room < 1:
            raise TrainingError(f"max_length={config.max_length} leaves no room for a prompt before {len(codes)} codes")
        if len(prompt) > room:
            cut += 1
            prompt = shorten_prompt(prompt, room, tokenizer.bos_token_id)
        input_ids.append(prompt + codes + [tokenizer.eos_token_id])
        end = tokenizer.eos_token_id if config.train_end_token else IGNORE_INDEX
        labels.append([IGNORE_INDEX] * len(prompt) + codes + [end])
    if cut:
        logger.warning("%d of %d prompts were cut to max_length=%s tokens", cut, len(rows), config.max_length)
    return Dataset.from_dict({"input_ids": input_ids, "labels": labels})


def retrieval_trainer(
    model: PreTrainedModel | PeftModel,
    tokenizer: ToolscalerTokenizer,
    train_rows: Dataset | Sequence[Mapping[str, str]],
    config: RetrievalConfig | None = None,
    *,
    eval_rows: Dataset | Sequence[Mapping[str, str]] | None = None,
    step_rows: Dataset | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> RetrievalTrainer:
    """Make the trainer of the retrieval stage; call ``.train()`` on it.

    Args:
        model: Causal LM whose vocabulary already holds the code rows
            (:func:`toolscaler.initialize_code_embeddings`). With ``config.use_lora`` it is wrapped; a model that is a
            ``PeftModel`` already is taken as it is.
        tokenizer: Tokenizer with codebook and tool index; saved with every checkpoint.
        train_rows: Prompt–completion rows (:func:`toolscaler.data.retrieval_rows`); one row a relevant tool.
        config: Settings; default: the paper's.
        eval_rows: Rows for the validation loss.
        step_rows: Rows of :func:`toolscaler.training.first_step_rows` that join the training rows (not in the paper).
        callbacks: More Trainer callbacks.

    Raises:
        TrainingError: The model's vocabulary is smaller than the tokenizer's, the rows cannot be used, or prompts are
            to be read both ways and the model cannot (:func:`toolscaler.prompt_attention.read_both_ways`).
    """
    config = config if config is not None else RetrievalConfig()
    size = model.get_input_embeddings().weight.shape[0]
    needed = tokenizer.required_vocab_size
    if 0 < size < needed:  # 0: partitioned away under ZeRO-3
        raise TrainingError(
            f"expected at least {needed} embedding rows, the model has {size}; "
            "call initialize_code_embeddings(model, tokenizer, ...) first"
        )
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
    if config.bidirectional_prompts or reads_both_ways(model):
        if step_rows is not None or config.padding_free:
            raise TrainingError("bidirectional_prompts: expected neither step_rows nor padding_free beside it")
        read_both_ways(model, config.max_length)
    config.dataset_kwargs = {**(config.dataset_kwargs or {}), "skip_prepare_dataset": True}
    config.remove_unused_columns = False
    dataset = tokenize_retrieval_rows(tokenizer, train_rows, config)
    if step_rows is not None:
        if tokenizer.base_tokens:
            raise TrainingError(
                f"step_rows: expected none with the strategy {tokenizer.strategy!r}, whose codes look like text"
            )
        if not {"input_ids", "labels"} <= set(step_rows.column_names):
            raise TrainingError(f"step_rows: expected input_ids and labels, got {step_rows.column_names}")
        dataset = concatenate_datasets(
            [dataset, step_rows.select_columns(list(dataset.features)).cast(dataset.features)]
        )
    if config.padding_free and not {"position_ids", "logits_to_keep"} <= accepted_arguments(model):
        raise TrainingError(
            f"padding_free: {type(model).__name__} takes no positions or computes all logits; set it off"
        )
    arguments = copy.copy(config)
    arguments.padding_free = False  # TRL would want a collator of its own
    trainer = RetrievalTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=None if eval_rows is None else tokenize_retrieval_rows(tokenizer, eval_rows, config),
        processing_class=tokenizer,
        data_collator=RetrievalCollator(tokenizer.pad_token_id),
        callbacks=callbacks,
    )
    trainer.flattens, trainer.sorts_rows = config.padding_free, config.sort_step_rows
    trainer.first_code_id = 0 if tokenizer.base_tokens else tokenizer.first_code_id
    trainer.end_token_id = tokenizer.eos_token_id
    return trainer
