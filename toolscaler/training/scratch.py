"""A base model made on the spot: texts go in, a small Llama-shaped causal LM with its own BPE tokenizer comes out.

It lets the whole pipeline run without a network or a downloaded model. It knows nothing but the texts it was made from,
so it stands in for a pretrained base and does not replace one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from toolscaler.errors import ConfigError, TrainingError
from toolscaler.training.induction import INDUCTION_HEAD_DIM, INDUCTION_ROPE_THETA, write_induction_heads

logger = logging.getLogger(__name__)

_PAD, _BOS, _EOS = "<pad>", "<s>", "</s>"
# A digit, a space, a sign, or a run of letters.
_PIECES = r"\d|\s|[^\s\w]|_|[^\W\d_]+"


@dataclass
class ScratchConfig:
    """Size and language-model training of a base made from scratch.

    Attributes:
        vocab_size: Entries of the BPE vocabulary, at most.
        lowercase: Fold case in the tokenizer.
        split_spaces: Make spaces tokens of their own, so that a word is the same tokens wherever it stands and can be
            copied token by token, out of a sentence into JSON.
        hidden_size: Width D.
        intermediate_size: Width of the feed-forward layers.
        num_hidden_layers: Layers.
        num_attention_heads: Attention heads; divides ``hidden_size``.
        max_position_embeddings: Longest sequence, in tokens.
        attention_dropout: Dropout in the attention.
        induction_heads: Start with heads that copy (:func:`toolscaler.training.induction.write_induction_heads`); the
            heads are then 64 wide and have biases.
        initializer_range: Standard deviation of the random start; default: 1 / sqrt(hidden_size).
        num_train_epochs: Epochs of language modelling over the texts; 0 leaves the weights at their random start.
        learning_rate: Peak learning rate; cosine schedule with 3 % warm-up.
        weight_decay: AdamW's weight decay.
        per_device_train_batch_size: Texts a step.
        max_length: Texts are cut to this many tokens.
        seed: Seed of weights and data order.
    """

    vocab_size: int = 4096
    lowercase: bool = True
    split_spaces: bool = False
    hidden_size: int = 128
    intermediate_size: int = 384
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    max_position_embeddings: int = 1024
    attention_dropout: float = 0.0
    induction_heads: bool = False
    initializer_range: float | None = None
    num_train_epochs: float = 3.0
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    per_device_train_batch_size: int = 32
    max_length: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.vocab_size < 300:
            raise ConfigError("base.scratch.vocab_size", self.vocab_size, "at least 300 (256 bytes and special tokens)")
        if self.hidden_size % self.num_attention_heads or (self.hidden_size // self.num_attention_heads) % 2:
            raise ConfigError(
                "base.scratch.hidden_size", self.hidden_size, f"an even multiple of {self.num_attention_heads} heads"
            )


def train_tokenizer(
    texts: Sequence[str], vocab_size: int = 4096, lowercase: bool = True, split_spaces: bool = False
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; any text can be encoded with it.

    Args:
        texts: Training texts.
        vocab_size: Entries at most; fewer when the texts give fewer merges.
        lowercase: Fold case.
        split_spaces: Make spaces, digits and signs tokens of their own; otherwise a space goes with the word after it.

    Returns:
        Tokenizer with ``<s>`` before each text, end token ``</s>`` and padding ``<pad>``.
    """
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    if split_spaces:
        pieces: pre_tokenizers.PreTokenizer = pre_tokenizers.Split(Regex(_PIECES), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    else:
        pieces = pre_tokenizers.Digits(individual_digits=True)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[_PAD, _BOS, _EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A", pair=f"{_BOS} $A {_BOS} $B", special_tokens=[(_BOS, tokenizer.token_to_id(_BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=_BOS, eos_token=_EOS, pad_token=_PAD)


def make_scratch_base(
    texts: Sequence[str], output_dir: str | Path, config: ScratchConfig | None = None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Make a base model from nothing but texts: train the tokenizer, draw the weights, model the language for a while.

    Args:
        texts: What the base may learn from: documents and training queries, never held-out queries.
        output_dir: Folder for the Trainer's bookkeeping. No checkpoint is written: this takes seconds to minutes.
        config: Sizes and schedule.

    Returns:
        The model, on the CPU in float32, and its tokenizer.

    Raises:
        TrainingError: There is no text.
    """
    config = config if config is not None else ScratchConfig()
    if not any(text.strip() for text in texts):
        raise TrainingError("expected texts to make a base model from, got none")
    tokenizer = train_tokenizer(texts, config.vocab_size, config.lowercase, config.split_spaces)
    set_seed(config.seed)
    heads: dict[str, Any] = {}
    if config.induction_heads:
        heads = {"attention_bias": True, "head_dim": INDUCTION_HEAD_DIM}
        heads["rope_parameters"] = {"rope_type": "default", "rope_theta": INDUCTION_ROPE_THETA}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            attention_dropout=config.attention_dropout,
            initializer_range=config.initializer_range or config.hidden_size**-0.5,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **heads,
        )
    )
    if config.induction_heads:
        write_induction_heads(model, config.seed)
    if config.num_train_epochs > 0:
        _model_language(model, tokenizer, texts, output_dir, config)
    logger.info("made a base of %d parameters and %d tokens", model.num_parameters(), len(tokenizer))
    return model.cpu(), tokenizer


def _model_language(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    output_dir: str | Path,
    config: ScratchConfig,
) -> None:
    encoded = tokenizer(list(texts), truncation=True, max_length=config.max_length - 1)["input_ids"]
    rows = Dataset.from_dict({"input_ids": [[*ids, tokenizer.eos_token_id] for ids in encoded]})
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=config.num_train_epochs,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        per_device_train_batch_size=config.per_device_train_batch_size,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        logging_steps=20,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    Trainer(model, arguments, data_collator=collator, train_dataset=rows).train()
