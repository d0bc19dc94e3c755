"""Random models and the tokenizer for them, made in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from benchmarks.decoding.catalogue import CODES, LENGTH, draw_codes, tool_names
from toolscaler.tokenization import ToolscalerTokenizer

END = 2


@dataclass(frozen=True)
class Shape:
    """Size of a model and its catalogue."""

    name: str
    base_vocabulary: int
    tools: int
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    codes: int = CODES
    dtype: torch.dtype = torch.bfloat16


QWEN = Shape("Qwen2.5-0.5B", 151_936, 46_985, 896, 24, 14, 2, 4864)
STARTER = Shape("starter", 4_096, 132, 128, 4, 4, 2, 384, codes=12, dtype=torch.float32)
TINY = Shape("tiny", 500, 2_000, 64, 2, 4, 2, 128, codes=24, dtype=torch.float32)


def make_tokenizer(shape: Shape) -> ToolscalerTokenizer:
    """Make a tokenizer with one token a word, ``w3 w4 ...``, so that a prompt is as long as it has words."""
    words = ["<pad>", "<unk>", "</s>", *(f"w{word}" for word in range(3, shape.base_vocabulary))]
    backend = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    base = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    if shape.codes == CODES:
        codes = draw_codes(shape.tools)
    else:
        drawn = np.random.default_rng(0).choice(shape.codes**LENGTH, shape.tools, replace=False)
        codes = np.stack([drawn // shape.codes**place % shape.codes for place in range(LENGTH)], 1)
    return ToolscalerTokenizer.from_tokenizer(
        base,
        codes=codes,
        tool_ids=tool_names(shape.tools),
        code_sizes=(shape.codes,) * LENGTH,
        retrieval_template="{query}",
    )


def make_model(
    shape: Shape, tokenizer: ToolscalerTokenizer, device: str = "cpu", spread: float = 1.0
) -> torch.nn.Module:
    """Make a model with random weights; ``spread`` multiplies the matrices, which sets candidates further apart."""
    settings = {
        "vocab_size": tokenizer.required_vocab_size,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": END,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    if shape is STARTER:
        model = LlamaForCausalLM._from_config(LlamaConfig(**settings), dtype=shape.dtype)
    else:
        model = Qwen2ForCausalLM._from_config(Qwen2Config(**settings), dtype=shape.dtype)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2 and spread != 1.0:
                weight.mul_(spread)
    return model.eval().to(device)


def draw_queries(shape: Shape, count: int, length: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{word}" for word in row) for row in rng.integers(3, shape.base_vocabulary, (count, length))]
