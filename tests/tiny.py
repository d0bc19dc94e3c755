"""Tiny tokenizers and models, made on the spot: no download, no file, the same ones for the same arguments.

Tests reach these through the fixtures ``make_tiny_tokenizer`` and ``make_tiny_model``; a subprocess may put this folder
on ``sys.path`` and import the module.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

#: Architectures that :func:`tiny_model` is tried on, with the config keys each needs beyond the common ones.
ARCHITECTURES: dict[str, tuple[str, dict]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": True}),
    "mistral": ("mistral", {"head_dim": True}),
    "gemma": ("gemma", {"head_dim": True}),
    "gemma2": ("gemma2", {"head_dim": True}),
    "phi3": ("phi3", {}),
}

_CORPUS = (
    "name: convert_length\nprovider: units\ncategory: Units\ndescription: Convert a length between metres and feet.",
    "name: getLastBlockNumber\nprovider: chain\ncategory: Finance\ndescription: Fetch the last mined block number.",
    "name: week_day\nprovider: dates\ncategory: Dates\ndescription: Tell which day of the week a date falls on.",
    "name: word_count\nprovider: text\ncategory: Text\ndescription: Count the words of a text, ignoring punctuation.",
    "parameter value (number): how much; parameter to (string, optional): the target unit",
    "How many feet are twelve metres? Which day of the week was the first of May? Count the words in this text.",
    "returns: the result as a number, a string or a list",
)


def tiny_tokenizer(
    corpus: Iterable[str] | None = None, vocab_size: int = 400, *, chat_template: str | None = None
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with ``<pad>``, ``<s>`` and ``</s>``; it adds no special token by itself."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(list(corpus or _CORPUS), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=512
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def tiny_model(
    arch: str = "llama",
    tokenizer: PreTrainedTokenizerFast | None = None,
    hidden_size: int = 32,
    tie: bool = False,
    *,
    num_layers: int = 2,
    seed: int = 0,
) -> PreTrainedModel:
    """Make a causal language model with random weights, in evaluation mode, float32, its vocabulary the tokenizer's."""
    tokenizer = tokenizer if tokenizer is not None else tiny_tokenizer()
    model_type, extra = ARCHITECTURES[arch]
    heads = 4
    keys = {"head_dim": hidden_size // heads} if extra.get("head_dim") else {}
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=tie,
        **keys,
    )
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        return AutoModelForCausalLM.from_config(config).eval()
    finally:
        torch.set_rng_state(state)
