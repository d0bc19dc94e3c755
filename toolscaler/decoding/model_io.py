"""What the retriever must know of a model: how to load it, what its forward takes, and whether it fits a tokenizer."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from toolscaler.errors import ArtifactError, DecodingError

if TYPE_CHECKING:
    from toolscaler.tokenization import ToolscalerTokenizer

#: Arguments of ``from_pretrained`` that say where files are, the same for model and tokenizer.
_WHERE = ("revision", "token", "subfolder", "cache_dir", "local_files_only", "force_download", "proxies")


def load_model(
    name_or_path: str | Path, device: str | torch.device | None, kwargs: dict[str, Any]
) -> tuple[Any, ToolscalerTokenizer]:
    """Load a causal LM and its tokenizer.

    Args:
        name_or_path: Folder or Hub id that holds both. One with a manifest (``toolscaler.json``) is checked against it
            first, and may be an adapter that names its base.
        device: Where to put the model; ``None``: CUDA where there is one, or what ``device_map`` says.
        kwargs: Arguments of ``AutoModelForCausalLM.from_pretrained``; with a manifest also ``verify``, ``base`` and
            ``merge`` (:class:`toolscaler.hub.Artifact`).

    Raises:
        ArtifactError: There is no tool index, or weights are missing, which transformers would draw at random; or a
            file is not what the manifest says.
    """
    from toolscaler.hub.artifact import load_artifact

    folder = artifact_folder(name_or_path, kwargs)
    if folder is None:
        where = {key: kwargs[key] for key in _WHERE if kwargs.get(key) is not None}
        model, tokenizer = _load_ordinary(name_or_path, where, kwargs)
    else:
        model, tokenizer = load_artifact(folder, kwargs)
    if device is not None or kwargs.get("device_map") is None:
        model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return model.eval(), tokenizer


def artifact_folder(name_or_path: str | Path, kwargs: dict[str, Any]) -> Path | None:
    """Find the folder of an artefact on this machine, fetched from the Hub where need be.

    Args:
        name_or_path: Folder or Hub id.
        kwargs: Arguments of :func:`load_model`; those that say where files are count.

    Returns:
        The folder; ``None`` where there is no manifest.

    Raises:
        ArtifactError: The repository does not exist or cannot be reached, or the manifest is damaged.
    """
    from toolscaler.hub.resolve import find_artifact

    return find_artifact(
        name_or_path, {key: kwargs[key] for key in _WHERE if key != "proxies" and kwargs.get(key) is not None}
    )


def _load_ordinary(
    name_or_path: str | Path, where: dict[str, Any], kwargs: dict[str, Any]
) -> tuple[Any, ToolscalerTokenizer]:
    """Load a folder that ``save_pretrained`` wrote, without a manifest."""
    from transformers import AutoModelForCausalLM

    from toolscaler.tokenization import ToolscalerTokenizer

    tokenizer = ToolscalerTokenizer.from_pretrained(str(name_or_path), **where)
    kwargs = {**kwargs, "output_loading_info": True}
    model, info = AutoModelForCausalLM.from_pretrained(str(name_or_path), **kwargs)
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        raise ArtifactError(
            f"expected all weights of {type(model).__name__}, {len(missing)} are missing, for example {missing[0]}; "
            "save the whole trained model with save_pretrained",
            path=str(name_or_path),
        )
    return model, tokenizer


def check_model(model: Any, needed: int) -> None:
    """Refuse a model that cannot write code tokens.

    Args:
        model: Causal LM.
        needed: Rows that the tokenizer's ids need.

    Raises:
        DecodingError: Input embeddings or output head have too few rows, or it is an encoder-decoder.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise DecodingError(f"expected a decoder-only language model, got {type(model).__name__}")
    for what, layer in (("embedding", model.get_input_embeddings()), ("output", model.get_output_embeddings())):
        if layer is None:
            continue
        rows = getattr(layer.weight, "ds_shape", layer.weight.shape)[0]  # ZeRO-3 hides the shape of what it partitions
        if rows < needed:
            raise DecodingError(
                f"expected a model with at least {needed} {what} rows, got {rows}; call "
                "toolscaler.initialize_code_embeddings(model, tokenizer, ...) first"
            )


def accepted_arguments(model: Any) -> frozenset[str]:
    """Name the arguments that the model's own forward takes, below a PEFT or ``torch.compile`` wrapper."""
    model = getattr(model, "_orig_mod", model)
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return frozenset(inspect.signature(type(model).forward).parameters)


def longest_input(model: Any, following: int) -> int | None:
    """Give the longest prompt that leaves room for ``following`` tokens, of which the last is never fed.

    Returns:
        Number of tokens, or ``None`` where the model has no limit.

    Raises:
        DecodingError: There is no room for any prompt.
    """
    config = model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    if limit < following:
        raise DecodingError(f"expected a model with more than {following - 1} positions, got {limit}")
    return limit - following + 1
