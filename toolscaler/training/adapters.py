"""Adapters that train new vocabulary rows: which modules hold the code rows, and which ids they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolscaler.errors import TrainingError

if TYPE_CHECKING:
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
