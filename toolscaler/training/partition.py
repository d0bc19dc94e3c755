"""Models whose weights lie in pieces on several devices (DeepSpeed ZeRO-3, FSDP): loading whole ones, and a whole copy.

Code rows are never added to a model in pieces: ``toolscaler vocabulary`` grows the model in one process before any
launch, and :func:`toolscaler.initialize_code_embeddings` brings the two matrices together where it is called later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from toolscaler.errors import TrainingError


def is_partitioned(model: nn.Module) -> bool:
    """Say whether any weight of a model is there in pieces only."""
    return any(hasattr(weight, "ds_id") or hasattr(weight, "device_mesh") for weight in model.parameters())


@contextlib.contextmanager
def whole_weights() -> Iterator[None]:
    """Load models whole inside the block, also in a process that runs under DeepSpeed ZeRO-3.

    There ``from_pretrained`` gives each process its piece of the weights alone, which no one but a training engine can
    use. Models that no engine trains (a frozen guide), or whose making reads weights (the compressor), are loaded here.
    """
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference


def whole_copy(trainer: Any) -> nn.Module:
    """Give a copy of a trained model in pieces with all its weights, free of the training engine.

    Args:
        trainer: A trained ``transformers.Trainer``. Every process must call this.

    Returns:
        In the main process a model on the CPU; in the others one on the meta device, which any use of refuses.

    Raises:
        TrainingError: Weights are missing in what the pieces make.
    """
    accelerator = trainer.accelerator
    state = accelerator.get_state_dict(trainer.model_wrapped)
    model = accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    place = contextlib.nullcontext() if accelerator.is_main_process else torch.device("meta")
    with whole_weights(), place:
        copy = _empty_copy(model)
    if not accelerator.is_main_process:
        return copy
    missing, unexpected = copy.load_state_dict(state, strict=False)
    named = dict(copy.named_parameters())  # a tied weight is named once
    lost = [name for name in missing if name in named]
    if lost or unexpected:
        raise TrainingError(f"the pieces make no whole model: missing {lost[:4]}, unexpected {list(unexpected)[:4]}")
    return copy


def _empty_copy(model: Any) -> Any:
    """Make a model of the same kind, adapter included, with weights of its own."""
    if not hasattr(model, "peft_config"):
        return type(model)(model.config)
    from peft import get_peft_model

    base = model.get_base_model()
    settings = next(iter(model.peft_config.values()))
    return get_peft_model(type(base)(base.config), settings)
