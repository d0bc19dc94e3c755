"""Adapters that train new vocabulary rows: which modules hold the code rows, and which ids they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolscaler.errors import TrainingError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

    from toolscaler.tokenization import ToolscalerTokenizer


def code_row_targets(model: PreTrainedModel, tokenizer: ToolscalerTokenizer) -> dict[str, list[int]]:
    """Give peft's ``trainable_token_indices`` for the code rows of the input embeddings and of an untied head.

    A plain list of ids would leave the rows of an untied head as they were initialised, without a word.

    Args:
        model: Causal LM whose vocabulary holds the code rows.
        tokenizer: Tokenizer with the codes.

    Returns:
        Module name → code ids. One entry where input and output share their weight, two otherwise.

    Raises:
        TrainingError: The model has no embedding or no output head that could be named.
    """
    ids = list(range(tokenizer.first_code_id, tokenizer.first_code_id + tokenizer.num_code_tokens))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None or head is None:
        raise TrainingError(f"{type(model).__name__} has no input embedding or no output head; a causal LM is expected")
    targets = {_name_of(model, embedding): ids}
    if head.weight is not embedding.weight:
        targets[_name_of(model, head)] = ids
    return targets


def _name_of(model: PreTrainedModel, module: nn.Module) -> str:
    for name, candidate in model.named_modules():
        if candidate is module:
            return name
    raise TrainingError(f"{type(module).__name__} is not a named module of {type(model).__name__}")


def ready_for_trl(model: PeftModel) -> PeftModel:
    """Let TRL's trainers take a model whose output head has trained rows.

    2026-11: TRL 1.16 reads ``lm_head.bias``, which peft's ``TrainableTokensWrapper`` does not pass through; without
    this the first training step ends in an ``AttributeError``. The one place for it: take it out when either changes.

    Args:
        model: A ``PeftModel``; its head gets the attribute ``bias`` that its own layer has, or ``None``.

    Returns:
        The model.
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.bias = getattr(head, "bias", None)
    return model


def with_adapter(
    model: PreTrainedModel,
    tokenizer: ToolscalerTokenizer,
    *,
    rank: int,
    alpha: int,
    dropout: float,
    target_modules: str = "all-linear",
) -> PeftModel:
    """Wrap a model with a LoRA adapter that trains the code rows too.

    Args:
        model: Causal LM whose vocabulary holds the code rows.
        tokenizer: Tokenizer with the codes.
        rank: LoRA rank.
        alpha: LoRA scale.
        dropout: Dropout in the adapter.
        target_modules: Module names separated by commas, or ``all-linear``.

    Raises:
        TrainingError: The model has no embedding or no output head that could be named.
    """
    from peft import LoraConfig, get_peft_model

    names: Any = target_modules
    if names != "all-linear":
        names = [name.strip() for name in target_modules.split(",")]
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=names,
        # A tokenizer whose codes are tokens of the base has no rows of its own to train.
        trainable_token_indices=code_row_targets(model, tokenizer) if tokenizer.num_code_tokens else None,
    )
    return get_peft_model(model, settings)
